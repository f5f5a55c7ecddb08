// What a filling does next, by what it is at.
#include "user/filling_state.h"

#include <gtest/gtest.h>

#include "support/tiny_plan.h"

namespace permllm {
namespace {

using Phase = FillingState::Phase;
using Step = FillingState::Step;

// Of a chain of which nothing is made, and all is wanted.
FillingState all_wanted(const Plan& plan) {
  const auto slots = static_cast<std::uint32_t>(plan.slots);
  FillingState state;
  state.target = {{slots, slots, slots, 0}};
  state.ahead = slots;
  state.order = 8;
  return state;
}

TEST(FillingState, makes_orders_of_no_more_pieces_than_were_asked_for) {
  const Plan plan = test::tiny_plan();
  const FillingState state = all_wanted(plan);
  EXPECT_EQ(state.step(plan), Step::make);
  const auto order = state.next(plan);
  ASSERT_TRUE(order);
  EXPECT_EQ(order->kind, k_entry_kind);
  EXPECT_EQ(order->first, 0u);
  EXPECT_EQ(order->count, std::min<std::uint32_t>(8, static_cast<std::uint32_t>(plan.slots)));
}

TEST(FillingState, never_runs_further_ahead_of_use_than_it_may) {
  const Plan plan = test::tiny_plan();
  FillingState state = all_wanted(plan);
  state.ahead = 2;
  state.made = {{2, 2, 2, 0}};
  EXPECT_EQ(state.step(plan), Step::wait);
  EXPECT_FALSE(state.next(plan));
  state.needed = {{3, 3, 3, 0}};  // somebody waits for one more
  ASSERT_TRUE(state.next(plan));
  EXPECT_EQ(state.next(plan)->count, 1u);
  state.needed = {};
  state.used = {{1, 1, 1, 0}};
  EXPECT_EQ(state.step(plan), Step::wait);  // an order of one piece is not worth its trip
}

// Blocks take pieces of each kind alike, entries among them, so that more is wanted of each than may be made ahead.
TEST(FillingState, makes_every_kind_that_somebody_waits_for) {
  const Plan plan = test::tiny_plan();
  constexpr std::uint32_t k_all = 500, k_block = 5;
  FillingState state;
  state.target = {{k_all, k_all, k_all, 0}};
  state.ahead = 70;
  state.order = 64;
  for (std::uint32_t used = 0; used < k_all; used += k_block) {
    state.used = {{used, used, used, 0}};
    state.needed = {{used + k_block, used + k_block, used + k_block, 0}};
    while (const auto order = state.next(plan)) {
      EXPECT_TRUE(within(state.needed, state.made) || order->first < state.needed[order->kind]);
      EXPECT_LE(order->first + order->count, std::max(used + static_cast<std::uint32_t>(state.ahead), used + k_block));
      state.made[order->kind] += order->count;
    }
    ASSERT_TRUE(within(state.needed, state.made)) << used;
  }
}

TEST(FillingState, rests_when_all_is_made_and_takes_leave_only_where_it_is_connected) {
  const Plan plan = test::tiny_plan();
  FillingState state = all_wanted(plan);
  state.made = state.target;
  for (const Phase phase : {Phase::apart, Phase::connected}) {
    state.phase = phase;
    state.ending = false;
    EXPECT_EQ(state.step(plan), Step::wait);
    state.ending = true;
    EXPECT_EQ(state.step(plan), phase == Phase::connected ? Step::finish : Step::wait);
  }
  state.made = {};
  EXPECT_EQ(state.step(plan), Step::finish);  // no further order, whatever is wanted
}

TEST(FillingState, a_failed_one_waits_and_a_stopped_one_leaves) {
  const Plan plan = test::tiny_plan();
  FillingState state = all_wanted(plan);
  for (const bool ending : {false, true}) {
    state.ending = ending;
    state.phase = Phase::failed;
    EXPECT_EQ(state.step(plan), Step::wait);
    state.phase = Phase::stopped;
    EXPECT_EQ(state.step(plan), Step::leave);
  }
}

}  // namespace
}  // namespace permllm
