// A1 whole, on a tiny model: without the coin of secret cuts it finds rows of the matrix behind attention, with it none.
#include "audit/regression.h"

#include <gtest/gtest.h>

#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

TEST(Regression, finds_rows_without_the_coin_alone) {
  Executor executor(2);
  for (const bool fused : {false, true}) {
    Plan plan = tiny_plan(Profile::paper, fused);
    // With as many bits as v has, o of all heads that share a v would move alike.
    for (LayerFractions& layer : plan.layers) layer.attention = frac::attention - 2;
    AuditSubject subject{tiny_weights(), plan, executor, {5, 6}};
    const Regression now = regress_on_own_bits(subject, 1500);
    EXPECT_EQ(now.rows, 1500u);
    EXPECT_EQ(now.all, plan.config.width);
    EXPECT_EQ(now.held, 0u);
    EXPECT_EQ(now.error, 1);
    EXPECT_LT(now.inputs, 0.1);
    subject.coined = false;
    const Regression old = regress_on_own_bits(subject, 1500);
    EXPECT_GT(old.held, plan.config.width / 4) << fused;
    EXPECT_LT(old.error, 0.05);
    EXPECT_GT(old.inputs, 0.8);
  }
}

TEST(Regression, fewer_rows_than_unknowns_are_not_tried) {
  Executor executor(2);
  const Plan plan = tiny_plan();
  EXPECT_EQ(regress_on_own_bits({tiny_weights(), plan, executor, {5, 6}}, plan.config.q_rows()).rows, 0u);
}

}  // namespace
}  // namespace permllm::test
