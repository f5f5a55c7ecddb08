// What rows are worth, by formula: against what the audit measures.
#include "audit/worth.h"

#include <gtest/gtest.h>

#include <fstream>

#include "audit/honest.h"
#include "base/temporary_directory.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

TEST(Worth, the_formula_is_what_the_audit_measures) {
  Executor executor(2);
  for (const bool fused : {false, true}) {
    // Fewer bits than v has: else the heads that share a v move alike, and are not told apart.
    for (const int attention : {8, 9}) {
      Plan plan = tiny_plan(Profile::paper, fused);
      for (LayerFractions& layer : plan.layers) layer.attention = attention;
      const Worth worth = worth_of(plan, tiny_weights());
      const Limit::Point measured = repeat_one_token({tiny_weights(), plan, executor, {5, 6}}, 4000).limit.points.at(3);
      const double unknowns = static_cast<double>(plan.config.q_rows()),
                   error = k_known * std::sqrt((static_cast<double>(worth.honest) - unknowns) / (4000 - unknowns));
      EXPECT_NEAR(measured.output / error, 1, 0.35) << fused << " " << attention;
    }
  }
}

TEST(Worth, a_bit_more_of_what_goes_into_the_matrix_makes_it_four_times_the_rows) {
  Plan plan = tiny_plan();
  plan.layers[0].attention = 12;
  const double before = static_cast<double>(worth_of(plan, tiny_weights()).honest - plan.config.q_rows());
  plan.layers[0].attention = 13;
  const double after = static_cast<double>(worth_of(plan, tiny_weights()).honest - plan.config.q_rows());
  EXPECT_NEAR(after / before, 4, 0.5);
}

TEST(Worth, it_is_said_in_a_line) {
  const Worth worth{12000, 1729};
  EXPECT_EQ(worth_of_rows(worth, 8200).find("8200 of 12000 rows at which an honest user"), 0u);
  const std::string line = verdict_of(tiny_plan(), tiny_weights());
  EXPECT_NE(line.find(std::to_string(worth_of(tiny_plan(), tiny_weights()).honest) + " rows to know"),
            std::string::npos);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(verdict_of(tiny_plan(Profile::open), tiny_weights()), "the weights are public");
}

TEST(Worth, is_kept_beside_the_provider_for_who_has_no_model) {
  const TemporaryDirectory state;
  EXPECT_FALSE(kept_worth(state.path()));
  keep_worth(state.path(), tiny_plan(), tiny_weights());
  const Worth made = worth_of(tiny_plan(), tiny_weights());
  EXPECT_EQ(kept_worth(state.path())->honest, made.honest);
  EXPECT_EQ(kept_worth(state.path())->deviating, made.deviating);
  std::ofstream(state.path() / "worth.json") << "{\"honest\": -1}";
  EXPECT_THROW(kept_worth(state.path()), Error);
  keep_worth(state.path(), tiny_plan(Profile::open),
             tiny_weights());  // public weights: nothing to tell, and nothing stale
  EXPECT_FALSE(kept_worth(state.path()));
}

}  // namespace
}  // namespace permllm::test
