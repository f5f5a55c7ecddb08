// Gemma 3 270M, a real model with norms behind its matrices and residual entries of 10^5: the reference engine against
// llama.cpp, the provider's integers against float32, and the private answer against both, at the declared cost.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/load.h"
#include "model/reference.h"
#include "page/declared.h"
#include "support/model.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

// Tokens, greedily chosen by llama.cpp (scripts/golden_llama.sh).
struct LlamaCase {
  std::vector<TokenId> prompt_ids, output_ids;
};
std::vector<LlamaCase> llama_cases() {
  std::vector<LlamaCase> cases;
  const nlohmann::json golden = read_json("gemma3_llama.json");
  for (const auto& r : golden.at("results")) cases.push_back({r.at("prompt_ids"), r.at("output_ids")});
  return cases;
}

// The best token, and how far its logit is above the second best.
struct Choice {
  TokenId best;
  double gap;
};
Choice choice(std::vector<float> logits) {
  const auto best = std::max_element(logits.begin(), logits.end());
  const float greatest = std::exchange(*best, -INFINITY);
  return {static_cast<TokenId>(best - logits.begin()),
          double{greatest} - double{*std::max_element(logits.begin(), logits.end())}};
}

const FloatWeights& real() {
  static const FloatWeights weights = load_float_weights(ModelFile::open(PERMLLM_GEMMA), executor());
  return weights;
}

const OfferedModel& gemma() {
  static const OfferedModel offered = offer_model(PERMLLM_GEMMA, {.context = 64, .fused = {}}, executor());
  return offered;
}

// Along llama.cpp's own answers: float32 chooses as it does, and the integers as float32, but where two tokens are nearly as good: llama.cpp rounds
// activations to 8 bits.
TEST(Gemma, float32_agrees_with_llama_cpp_and_integers_with_float32_but_where_the_gap_is_small) {
  std::size_t steps = 0, as_llama = 0, as_float = 0;
  for (const LlamaCase& c : llama_cases()) {
    ReferenceCache real_cache, cache;
    std::vector<TokenId> ids = c.prompt_ids;
    for (const TokenId id : c.output_ids) {
      const Choice own = choice(reference_forward(real(), ids, real_cache, executor()));
      const Choice integers = choice(reference_forward(gemma().weights, ids, cache, executor()));
      ++steps;
      as_llama += own.best == id ? 1 : 0;
      as_float += integers.best == own.best ? 1 : 0;
      EXPECT_TRUE(own.best == id || own.gap < 0.15) << "gap " << own.gap;
      EXPECT_TRUE(integers.best == own.best || own.gap < 0.15) << "gap " << own.gap;
      ids = {id};
    }
  }
  EXPECT_GE(steps, 100u);
  EXPECT_GE(as_llama * 100, steps * 95);
  EXPECT_GE(as_float * 100, steps * 98);
  fmt::print("of {} steps float32 chooses as llama.cpp in {}, the integers as float32 in {}\n", steps, as_llama,
             as_float);
}

class GemmaVariants : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Variants, GemmaVariants,
                         testing::Values(Variant{Profile::paper, true}, Variant{Profile::fast, true},
                                         Variant{Profile::open, false}, k_checked_variant),
                         [](const auto& variant) { return variant.param.name(); });

TEST_P(GemmaVariants, answer_as_the_integers_do_at_the_declared_cost) {
  constexpr std::size_t k_steps = 8;
  Plan plan = Plan::make(gemma().weights, gemma().plan.ranges, 64, GetParam().profile, GetParam().fused);
  plan.checked = GetParam().checked;
  const std::size_t rounds_a_layer = plan.open() ? 4 : plan.profile == Profile::fast ? 6 : 8;
  std::size_t differences = 0;
  for (std::size_t which : {0u, 1u}) {
    const LlamaCase c = llama_cases()[which];
    Rig rig(gemma().weights, plan, executor());
    ReferenceCache cache;
    Choice want = choice(reference_forward(gemma().weights, c.prompt_ids, cache, executor()));
    rig.deal_for_request(c.prompt_ids.size(), k_steps);
    rig.user().prompt(c.prompt_ids, greedy);
    Cost declared = pass_cost(plan, 0, c.prompt_ids.size(), true);
    for (std::size_t step = 0; step + 1 < k_steps; ++step) {
      const TokenId got = rig.user().advance([](TokenId) { return true; }, greedy);
      const Cost pass = pass_cost(plan, c.prompt_ids.size() + step, 1, false);
      EXPECT_EQ(pass.rounds, rounds_a_layer * plan.config.layers + (plan.open() ? 1 : 2));
      declared += pass;
      if (got != want.best) {
        ++differences;
        EXPECT_LT(want.gap, 0.15) << "step " << step;
      }
      want = choice(reference_forward(gemma().weights, {&got, 1}, cache, executor()));
    }
    EXPECT_EQ(rig.user().beyond(), 0u);
    EXPECT_EQ(rig.traffic().sent.payload_bytes, declared.online.user_to_provider);
    EXPECT_EQ(rig.traffic().received.payload_bytes, declared.online.provider_to_user);
    EXPECT_EQ(rig.traffic().round_trips, declared.rounds);
  }
  EXPECT_LE(differences, 1u);
}

}  // namespace
}  // namespace permllm::test
