// Drafts: what is guessed, and that a conversation with drafts says what one without says while the provider sees blocks of
// one size.
#include "user/draft.h"

#include <gtest/gtest.h>

#include "support/links.h"
#include "support/model.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

TEST(Draft, continues_what_stood_before) {
  const std::vector<TokenId> history{1, 2, 3, 4, 5, 9, 2, 3};
  EXPECT_EQ(draft_by_lookup(history, 3), (std::vector<TokenId>{4, 5, 9}));
  EXPECT_EQ(draft_by_lookup(history, 7), (std::vector<TokenId>{4, 5, 9, 2, 3, 3, 3}));  // always n
}
TEST(Draft, prefers_the_longest_and_then_the_last_place) {
  EXPECT_EQ(draft_by_lookup(std::vector<TokenId>{7, 8, 1, 5, 8, 2, 7, 8}, 1), (std::vector<TokenId>{1}));
  EXPECT_EQ(draft_by_lookup(std::vector<TokenId>{8, 1, 8, 2, 8}, 1), (std::vector<TokenId>{2}));
}
TEST(Draft, guesses_something_where_nothing_stood_before) {
  EXPECT_EQ(draft_by_lookup(std::vector<TokenId>{4}, 2), (std::vector<TokenId>{4, 4}));
  EXPECT_EQ(draft_by_lookup(std::vector<TokenId>{1, 2, 3}, 2), (std::vector<TokenId>{3, 3}));
  EXPECT_TRUE(draft_by_lookup(std::vector<TokenId>{1}, 0).empty());
}

struct Spoken {
  std::vector<TokenId> ids;
  std::size_t passes = 0;
  std::vector<std::pair<std::uint16_t, std::size_t>> frames;  // that the provider received: tag and size
};

Spoken speak(const Variant& variant, const std::vector<TokenId>& prompt, std::size_t tokens,
             const std::function<std::vector<TokenId>(const std::vector<TokenId>&)>& draft, std::size_t size) {
  const Plan plan = smollm2_plan(variant, 512);
  Spoken spoken;
  std::vector<Frame> frames;
  Rig rig(smollm2().weights, plan, executor(), 1, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
    return std::make_unique<Recording>(std::move(link), frames);
  });
  rig.deal_for_request(prompt.size(), tokens * (size + 1), plan.hides_positions);
  UserSession& session = rig.user();
  session.prompt(prompt, greedy);
  std::vector<TokenId> all = prompt;
  const auto more = [&](TokenId id) {
    spoken.ids.push_back(id);
    all.push_back(id);
    return spoken.ids.size() < tokens;
  };
  for (; spoken.ids.size() < tokens; ++spoken.passes) {
    std::vector<TokenId> known = all;
    known.push_back(session.retrieve_last());
    session.advance(draft(known), more, greedy);
  }
  for (const Frame& frame : frames) spoken.frames.emplace_back(frame.tag, frame.payload.size());
  return spoken;
}

struct Drafts : testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Profiles, Drafts,
                         testing::Values(Variant{Profile::open, false}, k_hidden_variant,
                                         Variant{Profile::fast, true, Retrieval::linear, true}),
                         [](const auto& variant) { return variant.param.name(); });

TEST_P(Drafts, say_what_a_conversation_without_them_says) {
  const GreedyCase c = greedy_cases()[0];  // whose choices are far apart
  constexpr std::size_t k_size = 3;
  const std::size_t tokens = GetParam().profile == Profile::open ? 16 : 8;
  const Spoken plain = speak(
      GetParam(), c.prompt_ids, tokens, [](const auto&) { return std::vector<TokenId>{}; }, 0);
  EXPECT_EQ(plain.passes, tokens);
  // The best guess there is, a useless one, and one that is right half of the time.
  const auto oracle = [&](const std::vector<TokenId>& known) {
    std::vector<TokenId> draft(
        plain.ids.begin() + static_cast<std::ptrdiff_t>(std::min(known.size() - c.prompt_ids.size(), plain.ids.size())),
        plain.ids.end());
    draft.resize(k_size, 0);
    return draft;
  };
  const Spoken best = speak(GetParam(), c.prompt_ids, tokens, oracle, k_size);
  EXPECT_EQ(best.ids, plain.ids);
  EXPECT_EQ(best.passes, tokens / (k_size + 1));
  const Spoken useless = speak(
      GetParam(), c.prompt_ids, tokens, [](const auto&) { return std::vector<TokenId>(k_size, 17); }, k_size);
  EXPECT_EQ(useless.ids, plain.ids);
  const Spoken half = speak(
      GetParam(), c.prompt_ids, tokens,
      [&](const auto& known) {
        auto draft = oracle(known);
        draft[1] = 17;
        return draft;
      },
      k_size);
  EXPECT_EQ(half.ids, plain.ids);
  EXPECT_LT(half.passes, useless.passes);
  const Spoken lookup = speak(
      GetParam(), c.prompt_ids, tokens, [](const auto& known) { return draft_by_lookup(known, k_size); }, k_size);
  EXPECT_EQ(lookup.ids, plain.ids);
  // Every pass looks the same to the provider, however many of its rows were kept.
  ASSERT_GE(useless.frames.size(), best.frames.size());
  EXPECT_TRUE(std::equal(best.frames.begin(), best.frames.end(), useless.frames.begin()));
}

// Tokens that are taken back are dead keys, which the provider does not know of: what is said behind them is what a new conversation says.
TEST_P(Drafts, what_is_taken_back_is_not_heard_of_again) {
  const auto cases = greedy_cases();
  const Plan plan = smollm2_plan(GetParam());
  const std::vector<TokenId> first = cases[4].prompt_ids, second = cases[1].prompt_ids;
  constexpr std::size_t k_kept = 3;
  const auto answer = [&](UserSession& session, const std::vector<TokenId>& prompt) {
    session.prompt(prompt, greedy);
    std::vector<TokenId> ids;
    const auto more = [&](TokenId id) {
      ids.push_back(id);
      return ids.size() < 6;
    };
    while (ids.size() < 6) session.advance(std::vector<TokenId>{17, 17}, more, greedy);
    return ids;
  };
  std::vector<TokenId> together(first.begin(), first.begin() + k_kept);
  together.insert(together.end(), second.begin(), second.end());
  Rig fresh(smollm2().weights, plan, executor(), 1);
  fresh.deal_for_request(together.size(), 19, plan.hides_positions);
  std::vector<Frame> frames;
  Rig rig(smollm2().weights, plan, executor(), 2, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
    return std::make_unique<Recording>(std::move(link), frames);
  });
  rig.deal_for_request(first.size() + second.size(), 37, plan.hides_positions);
  answer(rig.user(), first);
  const std::size_t sent = frames.size();
  rig.user().rewind(k_kept);
  EXPECT_EQ(rig.user().length(), k_kept);
  EXPECT_EQ(frames.size(), sent);
  EXPECT_EQ(answer(rig.user(), second), answer(fresh.user(), together));
}

// The control: where positions are not hidden the provider is told.
TEST(DraftsControl, tokens_taken_back_are_told_where_positions_are) {
  const Plan plan = smollm2_plan({Profile::paper, true});
  std::vector<Frame> frames;
  Rig rig(smollm2().weights, plan, executor(), 2, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
    return std::make_unique<Recording>(std::move(link), frames);
  });
  rig.deal_for_pass(5, true);
  rig.user().prompt(std::vector<TokenId>{1, 2, 3, 4, 5}, greedy);
  const std::size_t sent = frames.size();
  rig.user().rewind(3);
  rig.user_channel().flush();
  EXPECT_EQ(frames.size(), sent + 1);
}

// Conversations without drafts under the same plan, and the two in turn.
TEST_P(Drafts, are_a_users_choice) {
  const GreedyCase c = greedy_cases()[1];
  const Plan plan = smollm2_plan(GetParam());
  Rig rig(smollm2().weights, plan, executor());
  rig.deal_for_request(c.prompt_ids.size(), 24, plan.hides_positions);
  rig.user().prompt(c.prompt_ids, greedy);
  std::vector<TokenId> ids;
  const auto more = [&](TokenId id) {
    ids.push_back(id);
    return true;
  };
  while (ids.size() < 3) rig.user().advance(more, greedy);
  while (ids.size() < 6) rig.user().advance(std::vector<TokenId>{17, 17}, more, greedy);
  rig.user().advance(more, greedy);
  EXPECT_EQ(ids, std::vector<TokenId>(c.float_ids.begin(), c.float_ids.begin() + 7));
}

}  // namespace
}  // namespace permllm::test
