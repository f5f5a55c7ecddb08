#include "user/chain_choice.h"

#include <gtest/gtest.h>

#include "support/errors.h"
#include "support/tiny_plan.h"

namespace permllm {
namespace {

// made and burnt alike of slots, entries and passes.
ChainChoice chain(std::uint64_t number, std::uint32_t burnt, std::uint32_t ready) {
  const std::uint32_t end = burnt + ready;
  return {number, {{end, end, end, 0}}, {{burnt, burnt, burnt, 0}}};
}
std::uint64_t chosen(std::vector<ChainChoice> chains, const Wanted& wanted) {
  const Plan plan = test::tiny_plan();  // of 16 slots
  const ChainChoice* best = best_chain(plan, chains, wanted);
  return best == nullptr ? 0 : best->chain;
}

TEST(ChainChoice, takes_what_serves_prompt_and_answer_before_what_is_least_burnt) {
  const Wanted wanted{.prompt_tokens = 3, .answer_tokens = 2, .least = 2};
  EXPECT_EQ(chosen({chain(1, 0, 0), chain(2, 4, 4)}, wanted), 2u);  // an empty one would have to be filled
  EXPECT_EQ(chosen({chain(1, 0, 3), chain(2, 8, 4), chain(3, 4, 8)}, wanted), 3u);  // both serve all: the least burnt
  EXPECT_EQ(chosen({chain(1, 2, 4), chain(2, 2, 9)}, wanted), 2u);                  // then what has more
  EXPECT_EQ(chosen({chain(1, 0, 3), chain(2, 4, 2)}, wanted),
            1u);  // one serves the first token alone, the other nothing
  EXPECT_EQ(chosen({chain(1, 3, 0), chain(2, 0, 0)}, wanted), 2u);
  EXPECT_EQ(chosen({}, wanted), 0u);
}

TEST(ChainChoice, takes_none_without_room) {
  EXPECT_EQ(chosen({chain(1, 8, 8)}, {.prompt_tokens = 3, .answer_tokens = 7, .least = 7}), 0u);
  EXPECT_EQ(chosen({chain(1, 8, 8)}, {.prompt_tokens = 3, .answer_tokens = 7, .least = 6}), 1u);
  // An entry or a pass that was burnt ahead takes its slot's room.
  EXPECT_EQ(chosen({{1, {{16, 16, 16, 0}}, {{8, 12, 8, 0}}}}, {.prompt_tokens = 3, .answer_tokens = 3, .least = 3}),
            0u);
}

TEST(ChainChoice, from_stock_alone_takes_what_serves_a_token_and_never_a_new_one) {
  const Wanted wanted{.prompt_tokens = 3, .answer_tokens = 9, .from_stock = true};
  EXPECT_EQ(chosen({chain(1, 0, 2), chain(2, 6, 5), chain(3, 2, 3)}, wanted), 2u);
  for (const std::vector<ChainChoice>& none : {std::vector<ChainChoice>{}, {chain(1, 0, 2), chain(2, 6, 0)}}) {
    try {
      chosen(none, wanted);
      ADD_FAILURE() << none.size();
    } catch (const Error& error) {
      EXPECT_EQ(error.reason(), Reason::out_of_stock);
    }
  }
}

TEST(ChainChoice, counts_the_tokens_that_material_serves) {
  const Plan paper = test::tiny_plan(), open = test::tiny_plan(Profile::open);
  const Wanted wanted{.prompt_tokens = 3, .answer_tokens = 5};
  EXPECT_EQ(answer_served(paper, {{3, 3, 1, 0}}, wanted), 1u);
  EXPECT_EQ(answer_served(paper, {{5, 3, 3, 0}}, wanted), 3u);
  EXPECT_EQ(answer_served(paper, {{5, 3, 2, 0}}, wanted), 2u);
  EXPECT_EQ(answer_served(paper, {{5, 2, 3, 0}}, wanted), 0u);  // a token of the prompt lacks its entry
  EXPECT_EQ(answer_served(paper, {{16, 16, 16, 0}}, wanted), 5u);
  EXPECT_EQ(answer_served(open, {{5, 0, 3, 0}}, wanted), 3u);
  EXPECT_EQ(answer_served(open, {{9, 0, 9, 0}}, {.prompt_tokens = 3, .answer_tokens = 5, .draft = 2}), 3u);
}

}  // namespace
}  // namespace permllm
