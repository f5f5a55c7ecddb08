#include "offline/plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::unsupported);
    return error.what();
  }
  return "accepted";
}

TEST(PlanTest, rings_grow_with_the_calibrated_ranges) {
  Ranges ranges = tiny_ranges();
  EXPECT_EQ(Plan::make(tiny_weights(), ranges, 16).residual.bits, 48);
  ranges.residual = 150000;  // attention sinks of some models
  const Plan wide = Plan::make(tiny_weights(), ranges, 16);
  EXPECT_EQ(wide.residual.bits, 48);  // 26 + 1 + 21 bits
  ranges.residual = 300000;
  EXPECT_EQ(Plan::make(tiny_weights(), ranges, 16).residual.bits, 56);
}

TEST(PlanTest, a_range_that_fits_no_ring_is_refused_by_name) {
  const auto with = [](const std::function<void(Ranges&)>& change) {
    Ranges ranges = tiny_ranges();
    change(ranges);
    return refusal([&] { Plan::make(tiny_weights(), ranges, 16); });
  };
  EXPECT_EQ(with([](Ranges&) {}), "accepted");
  EXPECT_NE(with([](Ranges& r) { r.residual = 1e12; }).find("the residual's range (1e+12)"), std::string::npos);
  EXPECT_NE(with([](Ranges& r) { r.score = 1e9; }).find("scores"), std::string::npos);
  EXPECT_NE(with([](Ranges& r) { r.v = 1e12; }).find("values"), std::string::npos);
  EXPECT_NE(with([](Ranges& r) { r.qk = 1e12; }).find("qkv"), std::string::npos);
  EXPECT_NE(with([](Ranges& r) { r.gate_up[1] = 1e12; }).find("layer 1: matrix up"), std::string::npos);
  EXPECT_NE(with([](Ranges& r) { r.logit = 1e15; }).find("the logits' range (1e+15)"), std::string::npos);
}

// Two sides with different plans must not talk: every number that a box consumes is in the hash.
TEST(PlanTest, the_hash_covers_every_number_but_the_names) {
  const Plan plan = tiny_plan();
  std::set<std::string> hashes{plan.hash()};
  const std::vector<std::function<void(Plan&)>> changes{
      [](Plan& p) { ++p.slots; },
      [](Plan& p) { ++p.layers[1].qkv; },
      [](Plan& p) { ++p.layers[0].o; },
      [](Plan& p) { ++p.layers[0].up; },
      [](Plan& p) { ++p.layers[0].down; },
      [](Plan& p) { ++p.embed_frac; },
      [](Plan& p) { ++p.head_frac; },
      [](Plan& p) { p.residual.bits += 8; },
      [](Plan& p) { p.head.bits += 8; },
      [](Plan& p) { p.ranges.gate_up[1] *= 2; },
      [](Plan& p) { p.config.rope_base *= 2; },
      [](Plan& p) { p.config.norm_eps *= 2; },
      [](Plan& p) { p.config.vocab += 1; },
      [](Plan& p) { p.config.ff += 1; },
      [](Plan& p) { p.config.heads *= 2; },
  };
  for (const auto& change : changes) {
    Plan other = plan;
    change(other);
    EXPECT_TRUE(hashes.insert(other.hash()).second);
  }
  Plan renamed = plan;
  renamed.config.name = "another name";
  EXPECT_EQ(renamed.hash(), plan.hash());
}

}  // namespace
}  // namespace permllm::test
