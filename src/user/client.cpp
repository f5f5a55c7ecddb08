// The public API over the user's side.
#include "permllm/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/heap.h"
#include "base/no_denormals.h"
#include "base/text.h"
#include "model/chat_format.h"
#include "plan/leak.h"
#include "user/client_state.h"
#include "user/draft.h"

namespace permllm {
namespace {

// The i-th of the chains that no session has used, the fullest first; a new one where there are not so many.
UserClient::Choose fresh_chain(std::size_t i) {
  return [i, fresh = std::vector<ChainChoice>{}](const Plan&,
                                                 std::span<const ChainChoice> chains) mutable -> const ChainChoice* {
    fresh.clear();
    std::copy_if(chains.begin(), chains.end(), std::back_inserter(fresh),
                 [](const ChainChoice& chain) { return chain.fresh(); });
    std::sort(fresh.begin(), fresh.end(), [](const ChainChoice& a, const ChainChoice& b) {
      return a.ready()[k_slot_kind] > b.ready()[k_slot_kind];
    });
    return i < fresh.size() ? &fresh[i] : nullptr;
  };
}

// A text without spaces takes a hundred times its size while it is cut into tokens: of those of some size one has its turn at a time, and gives the
// memory back.
class LongText {
 public:
  LongText(Mutex& one_at_a_time, std::size_t bytes) {
    if (bytes > k_short) turn_.emplace(one_at_a_time);
  }
  ~LongText() {
    if (turn_) trim_heap();
  }
  LongText(const LongText&) = delete;
  LongText& operator=(const LongText&) = delete;

 private:
  static constexpr std::size_t k_short = std::size_t{64} << 10;
  std::optional<Lock> turn_;
};

}  // namespace

AnswerProgress progress_of(const OfflineProgress& made) {
  return {AnswerProgress::Stage::material, made.fraction, made.seconds,
          made.fraction > 0 ? made.seconds * (1 / made.fraction - 1) : 0, 0};
}

Answer::Bytes bytes_of(const permllm::Traffic& traffic) {
  return {traffic.sent.payload_bytes, traffic.received.payload_bytes};
}

std::size_t tokens_of(const Plan& plan, const Marks& made) {
  if (plan.open()) return made[k_slot_kind];
  const std::size_t entries = made[k_entry_kind], passes = made[k_pass_kind];
  return entries == 0 || passes == 0 ? 0 : std::min<std::size_t>(made[k_slot_kind], entries + passes);
}

ChatFormat Client::State::format(const ConversationOptions& with) {
  if (!with.chat_format.empty()) return ChatFormat::named(with.chat_format);
  const Lock lock(mutex);
  if (!own_format) own_format = ChatFormat::chosen({}, vocabulary);
  return *own_format;
}

std::vector<TokenId> Client::State::encode(const std::vector<Message>& messages, const ConversationOptions& with) {
  std::size_t bytes = 0;
  std::vector<ChatMessage> all;
  for (const Message& message : messages) {
    bytes += message.content.size() + message.tool_calls.size();
    all.push_back({message.role, message.content, message.tool_calls, message.tool_call_id, message.name});
  }
  const LongText turn(long_text, bytes + with.tools.size());
  const auto tools = with.tools.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json::parse(with.tools);
  std::vector<TokenId> ids =
      format(with).encode(*tokenizer, all, with.think, {.tools = with.tools.empty() ? nullptr : &tools});
  const std::vector<TokenId> begins =
      with.begins.empty() ? std::vector<TokenId>{} : tokenizer->encode(with.begins, false);
  ids.insert(ids.end(), begins.begin(), begins.end());
  return ids;
}

Client::State::State(const std::filesystem::path& path, const ClientOptions& with)
    : invite(load_invite(path)),
      ledger(user_ledger(with.state)),
      products(user_products(with.state), invite.provider_pin),
      options(with),
      executor(with.threads) {
  Card card = read_card();
  tokens_left = card.tokens_left;
  know(card);
  plan_hash = card.plan.hash();
  const Plan& plan = card.plan;
  model = {for_terminal(plan.config.name),
           for_terminal(plan.config.architecture),
           card.model_id,
           name_of(plan.profile),
           name_of(plan.retrieval),
           plan.slots,
           plan.config.layers,
           plan.takes_drafts(),
           plan.open()};
  views = {seen_by(Role::provider, plan), seen_by(Role::helper, plan), seen_by(Role::user, plan)};
  views.user.insert(views.user.begin(), "your own questions and answers");
  vocabulary = std::move(card.vocabulary);
  if (!options.draft_model.empty()) {
    draft_model.emplace(options.draft_model, executor);
    draft_model->check(vocabulary, plan.config.vocab, plan.config.name);
  }
  tokenizer.emplace(vocabulary);
}

Card Client::State::read_card() {
  Card card = permllm::read_card(links(spent), options.patience);
  card.plan = plan_of_session(card.plan, card.hidden_positions, options.drafts || !options.draft_model.empty());
  return card;
}

std::vector<Client::Chain> Client::State::chains_of(const Card& card) {
  std::vector<Chain> chains;
  const std::string hash = card.plan.hash();
  for (const ChainRecord& own : ledger.chains({}, card.model_id)) {
    if (own.plan_hash != hash) continue;
    const auto there =
        std::find_if(card.chains.begin(), card.chains.end(), [&](const ChainState& s) { return s.chain == own.chain; });
    if (there == card.chains.end()) continue;
    const Marks burnt = later_of(own.burnt, there->burnt), made = between(burnt, there->made);
    const std::size_t used = burnt[k_slot_kind];
    chains.push_back({own.chain, tokens_of(card.plan, made), card.plan.open() ? made[k_slot_kind] : made[k_entry_kind],
                      made[k_pass_kind], used, card.plan.slots - std::min(card.plan.slots, used),
                      there->busy || ledger.held(own.chain)});
  }
  return chains;
}

Client::Client(const std::filesystem::path& invite, const ClientOptions& options) {
  const NoDenormals no_denormals;
  state_ = std::make_shared<State>(invite, options);
}
Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;

const Client::Party& Client::provider() const { return state_->provider; }
const Client::Party& Client::helper() const { return state_->helper; }
const Client::Model& Client::model() const { return state_->model; }
const std::string& Client::chat_template() const { return state_->vocabulary.chat_template; }
const Client::Views& Client::views() const { return state_->views; }
std::uint64_t Client::tokens_left() const { return state_->tokens_left; }

std::vector<std::uint32_t> Client::tokenize(std::string_view text) const {
  const LongText turn(state_->long_text, text.size());
  return state_->tokenizer->encode(text, false);
}
std::vector<std::uint32_t> Client::tokenize(const std::vector<Message>& messages,
                                            const ConversationOptions& options) const {
  return state_->encode(messages, options);
}

std::string Client::detokenize(std::span<const std::uint32_t> ids) const {
  std::string text;
  for (const std::uint32_t id : ids) text += state_->tokenizer->bytes(id);
  return text;
}

std::vector<Client::Chain> Client::stock() const {
  const Card card = state_->read_card();
  state_->know(card);
  return state_->chains_of(card);
}

std::size_t Client::ready_tokens() const {
  const Lock lock(state_->mutex);
  std::size_t most = 0;
  for (const auto& [chain, tokens] : state_->ready) most = std::max(most, tokens);
  return most;
}

double Client::fill(std::size_t i, std::size_t tokens, std::size_t answer_tokens, const OnProgress& on_progress) const {
  const NoDenormals no_denormals;
  UserTraffic counted;
  UserClient client(state_->links(counted), state_->ledger, state_->executor, state_->options.patience, fresh_chain(i),
                    state_->model.drafts, &state_->products);
  const Plan& plan = client.card().plan;
  const auto slots = static_cast<std::uint32_t>(std::min(tokens, plan.slots));
  // Where drafts are verified in blocks each token has a pass of its own.
  auto answers = plan.hides_positions ? slots : static_cast<std::uint32_t>(std::min<std::size_t>(answer_tokens, slots)),
       entries = slots;
  if (plan.prompt_slots != 0) {  // one prompt of that length: the rest is its answer's
    entries = static_cast<std::uint32_t>(std::min<std::size_t>(slots, plan.prompt_slots + 1));
    answers = std::max(answers, slots - entries);
  }
  const Marks target{{slots, plan.open() ? 0 : entries, answers, plan.bfv() ? answers : 0}};
  client.fill(target, [&](const OfflineProgress& made) {
    if (on_progress) on_progress(progress_of(made));
  });
  const double seconds = client.filler().seconds();
  state_->set_ready(client.chain(), tokens_of(plan, client.filler().made()));
  client.end();
  return seconds;
}

Client::Traffic Client::traffic() const {
  const UserTraffic& t = state_->traffic;
  return {bytes_of(t.online), bytes_of(t.offline), bytes_of(t.helper), t.online.round_trips};
}

}  // namespace permllm
