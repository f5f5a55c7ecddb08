// What a provider and a helper say to a user before a session is under way, and what the user's programs make of it: the card, from its sizes to the ids of a
// text, then the chain, the public part of profile open, seeds.
//
// An input is what they say, message by message: a byte (low two bits: over which link; bit 7: a refusal), the payload's length (u16), the payload.
#include <algorithm>

#include "fuzz/target.h"
#include "model/chat_format.h"
#include "session/pairing.h"
#include "support/scripted_link.h"
#include "support/tiny_model.h"
#include "user/user_client.h"

namespace permllm::test {
namespace {

struct Said {
  Script online, offline, helper;
};

Said said_by(std::span<const std::uint8_t> bytes) {
  Said said;
  while (bytes.size() >= 3) {
    Script& link = bytes[0] % 4 == 0 ? said.online : bytes[0] % 4 == 1 ? said.offline : said.helper;
    const std::size_t length = std::min<std::size_t>(bytes[1] | std::size_t{bytes[2]} << 8, bytes.size() - 3);
    link.lines.push_back(
        {Bytes(bytes.begin() + 3, bytes.begin() + 3 + static_cast<std::ptrdiff_t>(length)), bytes[0] >> 7 != 0});
    bytes = bytes.subspan(3 + length);
  }
  // Frames of the session carry its number, which the card says.
  std::uint64_t session = 0;
  if (!said.online.lines.empty() && said.online.lines[0].payload.size() >= sizeof session)
    std::memcpy(&session, said.online.lines[0].payload.data(), sizeof session);
  said.online.handshake = 2;
  said.offline.handshake = said.helper.handshake = 1;
  for (Script* script : {&said.online, &said.offline, &said.helper}) script->session = session;
  return said;
}

std::function<std::unique_ptr<Link>()> play(const Script& script) {
  return [&script]() -> std::unique_ptr<Link> { return std::make_unique<Scripted>(script); };
}

// As the program does with a question.
void ask(const Card& card) {
  const Tokenizer tokenizer(card.vocabulary);
  const auto ids = ChatFormat::from_template(card.vocabulary.chat_template)
                       .encode(tokenizer, {{"system", "be brief"}, {"user", "The <s> t\xc3\xa9\xff 12\n"}});
  for (const TokenId id : ids) PERMLLM_ASSERT(id < card.plan.config.vocab);
  if (!ids.empty()) card.plan.check_prompt(ids.size());
  tokenizer.decode(ids, true);
}

// What a session takes by its plan alone is bounded by the plan's own limits: here it is left out where it is more than an input of this size is worth.
bool is_small(const Plan& plan) {
  const Config& c = plan.config;
  return c.layers * (plan.slots * c.kv_rows() + c.qkv_rows() + c.up_rows() + c.width) < (1 << 16) && !plan.bfv();
}

void talk(const Said& said) {
  const UserLinks links{play(said.online), play(said.offline), play(said.helper)};
  const Card card = read_card(links, std::chrono::seconds(1));
  try {
    ask(card);
  } catch (const Error&) {
  }
  if (!is_small(card.plan)) return;
  static Executor executor(1);
  static Ledger ledger;  // emptied each time: to make one takes longer than all the rest
  for (const ChainRecord& chain : ledger.all()) ledger.drop(chain);
  ChainRecord own;  // a chain that the card may name
  own.chain = 9;
  own.model_id = card.model_id;
  own.plan_hash = card.plan.hash();
  own.paired = true;
  ledger.add(own);
  UserClient client(links, ledger, executor, std::chrono::seconds(1));
  PERMLLM_ASSERT(client.room() <= card.plan.slots);
}

template <class Message>
void say(Bytes& input, std::uint8_t link, Message message) {
  Script script;
  script.say(std::move(message));
  const Bytes& payload = script.lines[0].payload;
  input.insert(input.end(),
               {link, static_cast<std::uint8_t>(payload.size()), static_cast<std::uint8_t>(payload.size() >> 8)});
  input.insert(input.end(), payload.begin(), payload.end());
}

Vocabulary small_vocabulary(const char* model) {
  Vocabulary v;
  v.model = model;
  v.pre = "gpt-2";
  v.tokens = {"<s>", "</s>", "t", "h", "e", "th", "the", "\xe2\x96\x81the", "<|im_start|>", "<|im_end|>", "user"};
  v.types = {3, 3, 1, 1, 1, 1, 1, 1, 3, 3, 4};
  if (v.model != "gpt2") v.scores.assign(v.tokens.size(), -1.5f);
  if (v.model == "gpt2") v.merges = {"t h", "th e"};
  v.bos = 0;
  v.eos = 1;
  v.ends = {9};
  v.add_bos = true;
  v.chat_template = "chatml";
  return v;
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  std::vector<Bytes> all;
  for (const char* model : {"gpt2", "llama", "unigram"}) {
    for (const Profile profile : {Profile::paper, Profile::fast, Profile::open}) {
      Bytes input;
      say(input, 0,
          Card{42,
               std::string(64, 'a'),
               tiny_plan(profile),
               small_vocabulary(model),
               seed_of(1),
               100,
               {{9, {{8, 8, 8, 0}}, {{2, 2, 1, 0}}, false}}});
      say(input, 0, Accepted{true, {{8, 8, 8, 0}}, {{2, 2, 1, 0}}});
      say(input, 1, Accepted{true});
      say(input, 2, PairAccepted{seed_of(2)});
      say(input, 2, Paired{});
      all.push_back(std::move(input));
    }
  }
  Bytes refusal;
  say(refusal, 0x80, Refusal{3, 2, "where", "no"});
  all.push_back(std::move(refusal));
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  try {
    test::talk(test::said_by({data, size}));
  } catch (const Error&) {
  }
  return 0;
}
