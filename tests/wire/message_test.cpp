// Messages that a peer may send: what is written is read back, and whatever else arrives is an Error that names message and
// field, without a crash and without memory out of proportion.
#include "wire/message.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/reason.h"
#include "net/memory_link.h"
#include "page/pack.h"
#include "page/pass.h"
#include "session/greeting.h"
#include "session/pairing.h"
#include "session/registration.h"
#include "session/report.h"
#include "support/tiny_plan.h"
#include "wire/frame.h"
#include "wire/plain.h"

namespace permllm::test {
namespace {

template <class Message>
Bytes written(Message message) {
  Writer writer;
  message.visit(writer);
  return writer.take();
}

template <class Message>
Message read(std::span<const std::uint8_t> payload, Message expected = {}) {
  Reader reader(name_of(Message::tag), payload);
  expected.visit(reader);
  reader.finish();
  return expected;
}

// Reading may fail, but only so.
template <class Message>
bool is_refused(std::span<const std::uint8_t> payload, Message expected = {}) {
  try {
    read(payload, std::move(expected));
    return false;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::malformed);
    EXPECT_TRUE(error.field().starts_with(name_of(Message::tag))) << error.what();
    return true;
  }
}

Card card() {
  Card card{42, "model", tiny_plan(), {}, Seed{}};
  card.vocabulary.model = "gpt2";
  card.vocabulary.tokens = {"a", "b"};
  card.vocabulary.types = {1, 1};
  card.vocabulary.scores = {-1, -2.5f};
  card.vocabulary.bos = 1;
  card.vocabulary.ends = {0};
  card.vocabulary.add_space_prefix = true;
  card.vocabulary.charsmap = "map";
  return card;
}

// Every truncation, every byte set to several values, and a byte too many.
template <class Message>
void spoil(Message message, Message expected = {}) {
  const Bytes whole = written(message);
  EXPECT_EQ(written(read(whole, expected)), whole);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_TRUE(is_refused(std::span(whole).first(length), expected))
        << name_of(Message::tag) << " of " << length << " bytes";
  }
  Bytes longer = whole;
  longer.push_back(0);
  EXPECT_TRUE(is_refused(longer, expected));
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
      Bytes spoilt = whole;
      spoilt[at] = static_cast<std::uint8_t>(value);
      is_refused(spoilt, expected);
    }
  }
}

// docs/wire.md is enough for a second implementation, also of what its version is.
TEST(Version, is_the_one_that_its_document_says) {
  std::ifstream file(PERMLLM_SOURCE_DIR "/docs/wire.md");
  const std::string text{std::istreambuf_iterator<char>(file), {}}, version = std::to_string(k_wire_version);
  EXPECT_TRUE(text.starts_with("# The wire, version " + version + "\n"));
  EXPECT_NE(text.find("| version | u16 | " + version + " |\n"), std::string::npos);
  EXPECT_NE(text.find("\nSince version " + version + ": "), std::string::npos);
}

TEST(MessageTest, a_spoilt_message_gives_an_error_or_a_message) {
  spoil(Hello{Hello::offline, 42});
  spoil(card());
  spoil(Agreement{"hash", 9, true, true, {{1, 2, 3, 4}}});
  spoil(PairHello{42, "user", "model", "hash", 7, true, Seed{}});
  spoil(Accepted{true, {{1, 2, 3, 4}}, {{5, 6, 7, 8}}});
  spoil(Paired{});
  spoil(PairAccepted{Seed{}});
  spoil(ModelOffer{"model", tiny_plan(), 1000, 64, {12, 8}});
  spoil(ModelHeld{{Digest{}, Digest{1, 2}}});
  spoil(ModelChunk{1, Digest{3}, Bytes(10, 7)});
  spoil(ModelTaken{7});
  spoil(ModelEnd{Digest{4}});
  spoil(PackOrder{1, 0, 5});
  spoil(PackMaterial{1, 0, 0, 1, Bytes(10, 7)});
  spoil(PassBegin{PassBegin::prompt, 5, 2, 1});
  spoil(PartyReport{1.5, 2, 3, 4, 5, 0.1, 0.2, 0.3});
  spoil(Refusal{1, 2, "where", "why"});
  spoil(MapShown{block<Word>(Ring{43}, {1, 2, 3})}, MapShown{expect(Ring{43}, 3)});
}

TEST(MessageTest, errors_name_the_field_and_the_expectation) {
  const auto error_of = [](const auto& action) -> std::string {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  };
  const Bytes three = written(MapShown{block<Word>(Ring{43}, {1, 2, 3})});
  EXPECT_EQ(error_of([&] { read(three, MapShown{expect(Ring{43}, 4)}); }),
            "MapShown.a: 18 bytes are left, the plan says 24");
  EXPECT_EQ(error_of([&] { read(three, MapShown{expect(Ring{43}, 2)}); }), "MapShown: 6 bytes more than the plan says");
  Card narrow = card();
  narrow.plan.residual.bits = 4;
  EXPECT_EQ(error_of([&] { read<Card>(written(narrow)); }), "Card.plan.ring: 4, expected 8 to 64");
}

// A provider may send such a card on purpose: each size and id is looked at against the others before anything is made of it.
TEST(MessageTest, a_card_that_does_not_fit_itself_is_refused) {
  const auto with = [](const auto& change) -> std::string {
    Card changed = card();
    change(changed);
    try {
      read<Card>(written(changed));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::malformed);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(with([](Card&) {}), "accepted");
  EXPECT_EQ(with([](Card& c) { c.vocabulary = {}; }), "accepted");  // a conversation of ids alone
  EXPECT_EQ(with([](Card& c) { c.session = 0; }), "Card.session: 0, expected any other number");
  EXPECT_EQ(with([](Card& c) {
              c.vocabulary.tokens.resize(261, "x");
              c.vocabulary.types.resize(261, 1);
              c.vocabulary.scores.clear();
            }),
            "Card.vocabulary.tokens: 261 of them, the plan's embedding table has 260 rows: each token needs one");
  EXPECT_EQ(with([](Card& c) { c.vocabulary.types.push_back(1); }), "Card.vocabulary.types: 3 types for 2 tokens");
  EXPECT_EQ(with([](Card& c) { c.vocabulary.scores.pop_back(); }), "Card.vocabulary.scores: 1 scores for 2 tokens");
  EXPECT_EQ(with([](Card& c) { c.vocabulary.eos = 2; }), "Card.vocabulary.eos: 2, the vocabulary has 2 tokens");
  EXPECT_EQ(with([](Card& c) { c.vocabulary.bos = 0xffffffff; }),
            "Card.vocabulary.bos: 4294967295, the vocabulary has 2 tokens");
  EXPECT_EQ(with([](Card& c) { c.vocabulary.ends = {1, 2}; }), "Card.vocabulary.ends: 2, the vocabulary has 2 tokens");
  EXPECT_EQ(with([](Card& c) {
              c.chains = {{1, {{16, 16, 16, 16}}, {{31, 16, 16, 0}}, false}};
            }),
            "accepted");  // burnt ahead of its use
  EXPECT_EQ(with([](Card& c) {
              c.chains = {{1, {{0, 17, 0, 0}}, {}, false}};
            }),
            "Card.chains.made: 17, expected at most 16");
  EXPECT_EQ(with([](Card& c) {
              c.chains = {{1, {}, {{0, 0, 0xffffffff, 0}}, false}};
            }),
            "Card.chains.burnt: 4294967295, expected at most 32");
  EXPECT_EQ(with([](Card& c) { c.plan.config.heads = 0; }), "Card.config.heads: 0, expected 1 to 1024");
  EXPECT_EQ(with([](Card& c) { c.plan.config.kv_heads = 3; }),
            "Card.config.kv_heads: 3, expected a divisor of 4 heads");
  EXPECT_EQ(with([](Card& c) { c.plan.slots = 0; }), "Card.plan.slots: 0, expected 1 to 1048576");
}

TEST(MessageTest, a_list_cannot_claim_more_elements_than_bytes) {
  Bytes payload = written(card());
  const std::string needle("\x02\0\0\0\x01\0\0\0a", 9);  // two tokens, the first "a"
  const auto at = std::search(payload.begin(), payload.end(), needle.begin(), needle.end());
  ASSERT_NE(at, payload.end());
  at[2] = 0x3f;  // four million
  try {
    read<Card>(payload);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.field(), "Card.vocabulary.tokens");
  }
}

TEST(MessageTest, a_refusal_arrives_as_the_error_it_names_and_cannot_paint_the_screen) {
  auto [near, far] = memory_links();
  Channel peer(*far, 7, std::chrono::seconds(5)), here(*near, 7, std::chrono::seconds(5));
  const auto received = [&] {
    try {
      here.receive(Accepted{});
    } catch (const Error& error) {
      return error;
    }
    return Error(Code::usage, "", "none");
  };
  peer.send(Refusal{static_cast<std::uint16_t>(Code::mismatch), static_cast<std::uint16_t>(Reason::busy), "a\nfield",
                    "no\x1b[31m\nmore"});
  const Error spoilt = received();
  EXPECT_EQ(spoilt.code(), Code::mismatch);
  EXPECT_EQ(spoilt.reason(), Reason::busy);
  EXPECT_EQ(spoilt.field(),
            "a\xef\xbf\xbd"
            "field");
  EXPECT_EQ(spoilt.message(), "no\xef\xbf\xbd[31m\xef\xbf\xbdmore");
  EXPECT_STREQ(spoilt.what(),
               "peer: a\xef\xbf\xbd"
               "field: no\xef\xbf\xbd[31m\xef\xbf\xbdmore");
  EXPECT_TRUE(spoilt.by_peer());

  // Whole, with each reason.
  for (const ReasonFacts& facts : reasons()) {
    peer.refuse(Error(Code::resource, facts.reason, "allowance", "all are used"));
    const Error error = received();
    EXPECT_EQ(error.code(), Code::resource);
    EXPECT_EQ(error.reason(), facts.reason);
    EXPECT_EQ(error.field(), "allowance");
    EXPECT_EQ(error.message(), "all are used");
    // Passed on it stays another's word.
    peer.refuse(error);
    EXPECT_EQ(received().field(), "peer: allowance");
  }
  peer.refuse(Error::of_a_peer(Code::closed, Reason::none, "", "m"));
  EXPECT_STREQ(received().what(), "peer: peer: m");
  // Of a newer peer.
  peer.send(Refusal{999, 999, "", "new"});
  const Error newer = received();
  EXPECT_EQ(newer.code(), Code::closed);
  EXPECT_EQ(newer.reason(), Reason::none);
  EXPECT_STREQ(newer.what(), "peer: new");
  // The longest is cut, and is within what may always come.
  peer.refuse(Error(Code::closed, std::string(5000, 'f'), std::string(5000, 'm')));
  const Error longest = received();
  EXPECT_EQ(longest.field(), std::string(Refusal::k_field, 'f'));
  EXPECT_EQ(longest.message(), std::string(Refusal::k_text, 'm'));
  Refusal most;
  EXPECT_LE(bound_of(most).bytes(), k_least_payload);
}

TEST(MessageTest, words_of_the_wire_reach_no_person) {
  const auto said = [](const Error& error) { return plain_words(error); };
  const std::string differ = "a message does not fit what was agreed; are all parties of the same release?";
  EXPECT_EQ(said(Error(Code::malformed, "ModelOffer.plan.embed.frac", "41, expected at most 40")), differ);
  EXPECT_EQ(said(Error(Code::malformed, "frame.tag", "23 (ModelHeld), expected ModelStored")), differ);
  EXPECT_EQ(said(Error::of_a_peer(Code::malformed, Reason::none, "ModelHeld", "8 bytes more than the plan says")),
            "peer: " + differ);
  EXPECT_EQ(said(Error(Code::timeout, "the answer to Resume", "did not arrive before the deadline")),
            "the other side did not answer before the deadline");
  EXPECT_EQ(said(Error::of_a_peer(Code::closed, Reason::session_ended, "Resume.session", "no such session")),
            "peer: no such session");
  EXPECT_EQ(said(Error::of_a_peer(Code::closed, Reason::none, "peer: PairHello.model_id", "no such model")),
            "peer: no such model");
  EXPECT_EQ(said(Error(Code::file, "/home/Card/x.gguf", "is missing")), "/home/Card/x.gguf: is missing");
  EXPECT_EQ(said(Error(Code::resource, "/srv/stock", "full")), "/srv/stock: full");
  EXPECT_EQ(said(Error(Code::resource, "allowance", "used")), "allowance: used");
  EXPECT_EQ(for_person(Error(Code::resource, Reason::allowance_used_up, "allowance", "used")),
            "allowance: used; ask the provider for more");
  for (std::uint16_t tag = 1; tag <= static_cast<std::uint16_t>(Tag::retrieval_reply); ++tag) {
    const std::string name = name_of(static_cast<Tag>(tag));
    if (name == "unknown message") continue;
    for (const Code code : {Code::mismatch, Code::malformed, Code::closed, Code::timeout, Code::resource}) {
      EXPECT_EQ(said(Error(code, name + ".part", "m")).find(name), std::string::npos) << name << " " << name_of(code);
    }
  }
}

}  // namespace
}  // namespace permllm::test
