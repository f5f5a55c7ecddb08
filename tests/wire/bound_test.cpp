// What a receiver takes of a message at most (docs/wire.md 1): no message is longer than its bound, and those of a pass go in frames of bounded size.
#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

#include "net/memory_link.h"
#include "page/declared.h"
#include "page/pack.h"
#include "page/pass.h"
#include "page/transformer.h"
#include "session/greeting.h"
#include "session/pairing.h"
#include "session/probe.h"
#include "session/product_keys.h"
#include "session/public_part.h"
#include "session/registration.h"
#include "session/report.h"
#include "support/errors.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""s;

template <class Message>
std::size_t written(Message message) {
  Writer writer;
  message.visit(writer);
  return writer.take().size();
}

std::string x(std::size_t size) { return std::string(size, 'x'); }
const Marks k_marks{{~0u, ~0u, ~0u, ~0u}};

// The plan with the most numbers.
Plan long_plan() {
  Plan plan = tiny_plan();
  Config& c = plan.config;
  c.architecture = x(64);
  c.name = x(256);
  c.layers = 1000;
  c.head_dim = 1 << 12;
  c.rope_local.resize(1);
  return plan;
}
Vocabulary long_vocabulary() {
  Vocabulary v;
  v.model = v.pre = x(k_pre_limit);
  v.tokens.assign(262'144, x(24));
  v.types.resize(262'144);
  v.scores.resize(262'144);
  v.merges.assign(524'288, x(24));
  v.ends.resize(16);
  v.charsmap = x(k_charsmap_limit);
  v.chat_template = x(k_template_limit);
  return v;
}

// `full`: as long as it may be; `expected`: what a receiver states. exact: the bound is its length.
template <class Message>
void within_bound(Message full, Message expected, bool exact = true) {
  const std::size_t size = written(std::move(full)), most = bound_of(expected).bytes();
  EXPECT_LE(size, most) << name_of(Message::tag);
  if (exact) {
    EXPECT_EQ(size, most) << name_of(Message::tag);
  }
  EXPECT_LE(most, k_max_payload) << name_of(Message::tag);
}
template <class Message>
void within_bound(Message full, bool exact = true) {
  within_bound(std::move(full), Message{}, exact);
}

TEST(Bound, holds_for_every_message_and_is_what_the_longest_has) {
  within_bound(Refusal{1, 1, x(Refusal::k_field), x(Refusal::k_text)});
  within_bound(Probe{std::vector<std::string>(16, x(64))});
  within_bound(Probed{x(64), std::vector<ProbedModel>(16, ProbedModel{x(64), long_plan()}), HelperState{x(1000)}},
               false);
  within_bound(Ping{1, Bytes(k_most_ping_bytes)});
  within_bound(Pong{1, Bytes(k_most_ping_bytes)});
  within_bound(Hello{});
  within_bound(Card{1, x(64), long_plan(), long_vocabulary(), Seed{}, 1, std::vector<ChainState>(Card::k_most_chains)},
               false);
  within_bound(Agreement{x(64), 1, true, true, k_marks});
  within_bound(Accepted{true, k_marks, k_marks});
  within_bound(EmbeddingRows{Bytes(EmbeddingRows::k_limit)});
  within_bound(PublicVectors{std::vector<float>(1000), 1000}, PublicVectors{{}, 1000});
  within_bound(PairHello{1, x(64), x(64), x(64), 1, true, Seed{}});
  within_bound(PairAccepted{});
  within_bound(Paired{});
  within_bound(ModelOffer{x(64), long_plan(), 1, 1, Packings(ModelOffer::k_most_matrices)}, false);
  within_bound(ModelHeld{std::vector<Digest>(ModelHeld::k_step)});
  within_bound(ModelChunk{1, {}, Bytes(ModelOffer::k_most_chunk)});
  within_bound(ModelTaken{});
  within_bound(ModelEnd{});
  within_bound(ModelStored{});
  within_bound(PackOrder{});
  within_bound(PackMaterial{1, 2, 3, 4, Bytes(1000)}, false);
  within_bound(ProductKeyOrder{});
  within_bound(ProductKeyWords{block(Ring{64}, Words(777))}, ProductKeyWords{expect(Ring{64}, 777)});
  within_bound(PackDealt{});
  within_bound(PackEnd{});
  within_bound(PassBegin{});
  within_bound(PassCancel{});
  within_bound(PassCancelled{});
  within_bound(SessionEnd{});
  within_bound(PartyReport{});
  within_bound(RetrievalIndex{});
  within_bound(RetrievalKey{{Words(he::k_residues)}});
  within_bound(RetrievalReply{{Words(he::k_degree + 1)}});
  for (const int bits : {8, 13, 33, 64}) {
    const auto words = [&] { return block(Ring{bits}, Words(777)); };
    const auto expected = [&] { return expect(Ring{bits}, 777); };
    within_bound(PromptOneHots{words()}, PromptOneHots{expected()});
    within_bound(Remask{words()}, Remask{expected()});
    within_bound(TokenDigits{words()}, TokenDigits{expected()});
    within_bound(MapShown{words()}, MapShown{expected()});
    within_bound(MapAnswer<Word>{words()}, MapAnswer<Word>{expected()});
    within_bound(RotatedRemask{words()}, RotatedRemask{expected()});
    within_bound(MaskedQueryKey{words()}, MaskedQueryKey{expected()});
    within_bound(LiftedValues{words()}, LiftedValues{expected()});
    within_bound(MaskedScores{words()}, MaskedScores{expected()});
    within_bound(ResharedValues<Word>{words()}, ResharedValues<Word>{expected()});
    within_bound(MaskedWeights<Word>{words()}, MaskedWeights<Word>{expected()});
    within_bound(MaskedMix<Word>{words()}, MaskedMix<Word>{expected()});
    within_bound(ShownScores{words()}, ShownScores{expected()});
    within_bound(Probabilities<Word>{words()}, Probabilities<Word>{expected()});
    within_bound(Handed{words()}, Handed{expected()});
    within_bound(ShownRows{words(), words()}, ShownRows{expected(), expected()});
  }
  within_bound(MapAnswer<Wide>{block(Ring{90}, std::vector<Wide>(777))}, MapAnswer<Wide>{expect<Wide>(Ring{90}, 777)});
}

// Where any of several messages may come the call site says a number: it holds for each of them.
TEST(Bound, of_places_where_the_peer_chooses) {
  const auto most = [](auto message) { return bound_of(message).bytes(); };
  for (const std::size_t first : {most(Hello{}), most(Probe{}), most(PairHello{})}) EXPECT_LE(first, k_first_payload);
  for (const std::size_t small :
       {most(Refusal{}), most(PassBegin{}), most(SessionEnd{}), most(PassCancel{}), most(PackOrder{}), most(PackEnd{})})
    EXPECT_LE(small, k_least_payload);
  EXPECT_LE(most(RetrievalReply{}), k_cut_bytes);
  EXPECT_LE(most(RetrievalKey{}), k_small_payload);
  const Plan plan = tiny_plan();
  EXPECT_EQ(most_material(plan), k_cut_bytes + 17);
  Plan large = plan;  // of which one piece is longer: nothing holds a part of one
  large.config.vocab = 1 << 20;
  EXPECT_GT(most_material(large), k_cut_bytes + 17);
  EXPECT_GE(most_material(large), piece_cost(large, Part::Kind::pass, 0, 0).offline.helper_to_provider);
}

TEST(PartsOf, an_order_is_dealt_a_few_megabytes_at_a_time) {
  Plan plan = tiny_plan();
  plan.slots = 1000;
  const PackOrder order{k_slot_kind, 100, 256};
  EXPECT_EQ(parts_of(plan, {k_slot_kind, 100, k_least_dealt}).size(), 1u);
  plan.config.ff = 1 << 14;
  std::uint32_t next = order.first;
  const auto more = parts_of(plan, order);
  EXPECT_GT(more.size(), 1u);
  for (const PartOrder& part : more) {
    EXPECT_EQ(part.order.first, next);
    next += part.order.count;
    EXPECT_TRUE(part.bytes <= k_dealt_bytes || part.order.count <= k_least_dealt) << part.bytes;
  }
  EXPECT_EQ(next, order.first + order.count);
}

// Of so many words, over a link that keeps the frames' sizes.
struct Cut {
  std::vector<std::size_t> sizes;
  bool same = false;
};
Cut sent(std::size_t words) {
  auto [near, far] = memory_links();
  Channel sender(*near, 7, 5s);
  Words values(words);
  for (std::size_t i = 0; i < words; ++i) values[i] = i * 0x9e3779b97f4a7c15u;
  sender.send(Remask{block(Ring{64}, values)});
  sender.send(SessionEnd{});
  near->close();
  Cut cut;
  auto [again, out] = memory_links();
  for (bool end = false; !end;) {
    Frame frame = far->receive(Clock::now() + 5s, "a frame", k_max_payload);
    end = frame.tag == static_cast<std::uint16_t>(Tag::session_end);
    if (!end) cut.sizes.push_back(frame.payload.size());
    again->send(std::move(frame));
  }
  Channel receiver(*out, 7, 5s);
  cut.same = receiver.receive(Remask{expect(Ring{64}, words)}).d.words == values;
  receiver.receive(SessionEnd{});
  return cut;
}

TEST(Channel, cuts_words_into_frames_of_bounded_size) {
  constexpr std::size_t k = k_cut_bytes / 8;
  for (const auto& [words, sizes] : std::map<std::size_t, std::vector<std::size_t>>{{0, {0}},
                                                                                    {k - 1, {8 * k - 8}},
                                                                                    {k, {8 * k}},
                                                                                    {k + 1, {8 * k, 8}},
                                                                                    {2 * k, {8 * k, 8 * k}},
                                                                                    {2 * k + 5, {8 * k, 8 * k, 40}}}) {
    const Cut cut = sent(words);
    EXPECT_EQ(cut.sizes, sizes) << words;
    EXPECT_TRUE(cut.same) << words;
  }
}

TEST(Channel, refuses_words_that_are_cut_another_way) {
  const std::size_t words = k_cut_bytes / 4;  // in two frames
  const auto answer = [&](std::vector<Frame> frames) {
    auto [near, far] = memory_links();
    for (Frame& frame : frames) near->send(std::move(frame));
    near->close();
    return error_of([link = far.get(), words] { Channel(*link, 7, 5s).receive(Remask{expect(Ring{64}, words)}); });
  };
  const auto frame = [](Tag tag, std::uint32_t step, std::size_t size) {
    return Frame{static_cast<std::uint16_t>(tag), 7, step, Bytes(size)};
  };
  constexpr std::size_t k = k_cut_bytes;
  EXPECT_EQ(answer({frame(Tag::remask, 0, k), frame(Tag::remask, 1, k)}), "no error");
  EXPECT_EQ(answer({frame(Tag::remask, 0, k - 1), frame(Tag::remask, 1, k)}).substr(0, 8), "Remask.d")
      << "a part in the place of the whole";
  EXPECT_EQ(answer({frame(Tag::remask, 0, k), frame(Tag::remask, 1, k - 8)}).substr(0, 8), "Remask.d");
  EXPECT_EQ(answer({frame(Tag::remask, 0, k), frame(Tag::handed, 1, k)}), "frame.tag: 59 (Handed), expected Remask");
  EXPECT_EQ(answer({frame(Tag::remask, 0, k), frame(Tag::remask, 1, k + 1)}),
            "frame.length: Remask (42) of 2097153 bytes, the limit is 2097152 where this is awaited: Remask");
  EXPECT_EQ(answer({frame(Tag::remask, 0, 2 * k)}),
            "frame.length: Remask (42) of 4194304 bytes, the limit is 2097152 where this is awaited: Remask");
}

TEST(Channel, sends_nothing_that_its_peer_would_refuse) {
  auto [near, far] = memory_links();
  Channel channel(*near, 7, 5s);
  Card card{1, "a", tiny_plan(), {}, Seed{}};
  card.vocabulary.merges.assign(20'000, x(4096));
  EXPECT_EQ(error_of([&] { channel.send(std::move(card)); }).substr(0, 5), "Card:");
}

TEST(Together, one_hots_of_a_prompt_come_in_frames_of_bounded_size) {
  Plan plan = tiny_plan();
  const auto counts = [&](Batch entries) {
    std::vector<std::pair<std::uint32_t, std::size_t>> all;
    for (const Batch& some : together(plan, entries)) all.emplace_back(some.first, some.count);
    return all;
  };
  using Counts = decltype(counts({}));
  plan.config.vocab = 49'152;
  plan.embed = Ring{16};
  EXPECT_EQ(counts({5, 0}), Counts());
  EXPECT_EQ(counts({5, 21}), (Counts{{5, 21}}));
  EXPECT_EQ(counts({5, 50}), (Counts{{5, 21}, {26, 21}, {47, 8}}));
  plan.config.vocab = 1 << 20;
  EXPECT_EQ(counts({0, 2}), (Counts{{0, 1}, {1, 1}}));
  plan.embed = Ring{64};  // one is longer than a frame, and goes in several
  EXPECT_EQ(counts({0, 2}), (Counts{{0, 1}, {1, 1}}));
}

}  // namespace
}  // namespace permllm::test
