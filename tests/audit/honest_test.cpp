// The measures of what an honest user can take, on a tiny model: with the coin of secret cuts nothing comes of the user's own bits, without it much.
#include "audit/honest.h"

#include <gtest/gtest.h>

#include "model/load.h"
#include "plan/calibrate.h"
#include "support/tiny_models.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

TEST(Honest, own_bits_explain_nothing_and_without_the_coin_much) {
  Executor executor(2);
  for (const Profile profile : {Profile::paper, Profile::fast}) {
    for (const bool fused : {false, true}) {
      const Plan plan = tiny_plan(profile, fused);
      AuditSubject subject{tiny_weights(), plan, executor, {5, 6}};
      const OwnBits now = repeat_one_token(subject, 1000).own;
      EXPECT_FALSE(now.violated()) << now.of_row.share;
      EXPECT_NEAR(now.of_row.share, 0, 0.05);
      EXPECT_EQ(now.cuts.size(), 3u);
      EXPECT_GT(now.moves, 0);
      subject.coined = false;
      const OwnBits old = repeat_one_token(subject, 1000).own;
      EXPECT_TRUE(old.violated());
      EXPECT_GT(old.of_row.share, 0.4);
      for (const OwnBits::Cut& cut : old.cuts) EXPECT_GT(cut.by.share, 0.2) << cut.name;
    }
  }
}

TEST(Honest, no_kind_of_model_is_passed_over) {
  Executor executor(2);
  for (const std::string& name : tiny_model_names()) {
    const TinyModel model = tiny_model(name);
    const IntWeights weights = load_int_weights(ModelFile::open(model.path), executor);
    if (weights.config.prefix) continue;  // refused (witness_test.cpp)
    const Plan plan = Plan::make(weights, calibrate(weights, model.prompts.back().ids, executor), 40, Profile::paper);
    AuditSubject subject{weights, plan, executor, {5, 6}};
    const Repeated now = repeat_one_token(subject, 600);
    EXPECT_FALSE(now.own.violated()) << name << " " << now.own.of_row.share << " " << now.own.of_row.chance;
    subject.coined = false;
    EXPECT_TRUE(repeat_one_token(subject, 600).own.violated()) << name;
  }
}

// With every place known and every rounding given, least squares find the weights, and more rows do better.
TEST(Honest, the_limit_falls_with_the_rows) {
  Executor executor(2);
  const Plan plan = tiny_plan();
  const Limit limit = repeat_one_token({tiny_weights(), plan, executor, {5, 6}}, 16000).limit;
  ASSERT_EQ(limit.points.size(), 5u);
  for (std::size_t i = 1; i < limit.points.size(); ++i) {
    EXPECT_GT(limit.points[i].rows, limit.points[i - 1].rows);
    EXPECT_LT(limit.points[i].output, limit.points[i - 1].output);
    EXPECT_LE(limit.points[i].gate_up, limit.points[i - 1].gate_up * 1.05);
  }
  EXPECT_TRUE(limit.points[3].measured);
  EXPECT_FALSE(limit.points[4].measured);
  EXPECT_LT(limit.points[3].output, 0.2);
  EXPECT_NEAR(limit.points[3].output / limit.points[1].output, 0.5, 0.1);  // four times the rows
}

TEST(Honest, scores_name_queries_and_keys_without_the_coin_alone) {
  Executor executor(2);
  const Plan plan = tiny_plan();
  AuditSubject subject{tiny_weights(), plan, executor, {5, 6}};
  const Scores now = repeat_two_tokens(subject, 3000);
  EXPECT_LT(std::abs(now.query), now.chance);
  EXPECT_LT(std::abs(now.key), now.chance);
  subject.coined = false;
  const Scores old = repeat_two_tokens(subject, 3000);
  EXPECT_GT(old.query, 0.5);
  EXPECT_GT(old.key, 0.5);
}

}  // namespace
}  // namespace permllm::test
