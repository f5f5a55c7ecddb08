// Gemma 3 270M, whose values lie so far apart that their size names nearly all places of a row: what keeps the attack by sorting (A2) off is how
// coarsely gate and up are shown.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "audit/sorting.h"
#include "support/model.h"

namespace permllm::test {
namespace {

class SortingGemma : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Fused, SortingGemma, testing::Bool());

// With more bits, as many as were shown up to wire version 8, as the control.
TEST_P(SortingGemma, finds_nothing_at_the_bits_of_the_plan_and_rows_of_gate_at_more) {
  constexpr std::size_t k_rows = 2500;
  const OfferedModel model = offer_model(PERMLLM_GEMMA, {.context = 64, .fused = GetParam()}, executor());
  const AuditSubject subject{model.weights, model.plan, executor(),
                             calibration_texts(model.vocabulary, model.plan.config).at(0)};
  const int shown = model.plan.up_frac(0) - model.plan.gate_up_reveal(0).drop, before = GetParam() ? 13 : 10;
  const Sorting now = align_by_sorting(subject, k_rows, 0), finer = align_by_sorting(subject, k_rows, before - shown);
  fmt::print("places {:.3f}, neurons {:.3f}, error {:.2f} with {} bits; {:.3f}, {:.3f}, {:.2f} with {}\n",
             now.rows_aligned, now.pairs_aligned, now.error, shown, finer.rows_aligned, finer.pairs_aligned,
             finer.error, before);
  EXPECT_GT(now.rows_aligned, 0.9);
  EXPECT_FALSE(now.found());
  EXPECT_TRUE(finer.found());
}

}  // namespace
}  // namespace permllm::test
