// The private choices of real models against float32, along float32's own answers: where both choose the same token, and how far the
// distributions of the next token are apart.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "model/load.h"
#include "model/reference.h"
#include "provider/offer.h"
#include "support/model.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

struct RealModel {
  const char* name;
  const char* path;
  const char* cases;  // greedy answers: prompts, tokens
  std::size_t steps;  // of each answer, 24 in `make test-large`
  bool large;         // not in `make test`
};
std::ostream& operator<<(std::ostream& out, const RealModel& m) { return out << m.name; }

constexpr RealModel k_models[] = {{"smollm2_135m", PERMLLM_TEST_MODEL, "smollm2_greedy.json", 24, false},
                                  {"gemma3_270m", PERMLLM_GEMMA, "gemma3_llama.json", 12, false},
                                  {"qwen25_coder_05b", PERMLLM_QWEN_05B, "qwen25_coder_05b_greedy.json", 6, false},
                                  {"qwen25_coder_15b", PERMLLM_QWEN_15B, "qwen25_coder_15b_greedy.json", 24, true}};

bool large() { return std::getenv("PERMLLM_LARGE") != nullptr; }

// What float32 says along one answer: the logits of each step.
struct Line {
  std::vector<TokenId> prompt, answer;
  std::vector<std::vector<float>> logits;
};

std::vector<Line> lines_of(const RealModel& model) {
  const FloatWeights real = load_float_weights(ModelFile::open(model.path), executor());
  std::vector<Line> lines;
  const nlohmann::json data = read_json(model.cases);
  for (const auto& r : data.at("results")) {
    Line line{r.at("prompt_ids"), r.contains("float_output_ids") ? r.at("float_output_ids") : r.at("output_ids"), {}};
    line.answer.resize(std::min<std::size_t>(line.answer.size(), large() ? 24 : model.steps));
    ReferenceCache cache;
    std::vector<TokenId> fed = line.prompt;
    for (const TokenId id : line.answer) {
      line.logits.push_back(reference_forward(real, fed, cache, executor()));
      fed = {id};
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

std::vector<double> log_probabilities(const auto& logits, double unit) {
  std::vector<double> p(logits.begin(), logits.end());
  for (double& v : p) v *= unit;
  const double greatest = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (const double v : p) sum += std::exp(v - greatest);
  for (double& v : p) v -= greatest + std::log(sum);
  return p;
}

class Choices : public testing::TestWithParam<std::tuple<RealModel, Variant>> {};
INSTANTIATE_TEST_SUITE_P(RealModels, Choices,
                         testing::Combine(testing::ValuesIn(k_models), testing::ValuesIn(k_variants)),
                         [](const auto& p) {
                           return fmt::format("{}_{}", std::get<0>(p.param).name, std::get<1>(p.param).name());
                         });

TEST_P(Choices, are_those_of_float32) {
  const auto& [model, variant] = GetParam();
  if (!large() && (model.large || (std::string(model.name) != k_models[0].name && variant.profile == Profile::fast)))
    GTEST_SKIP() << "make test-large asks it";
  const std::vector<Line> lines = lines_of(model);
  std::optional<bool> fused;
  if (variant.profile != Profile::open) fused = variant.fused;
  const OfferedModel offered =
      offer_model(model.path, {.context = 128, .profile = variant.profile, .fused = fused}, executor());
  const Plan& plan = offered.plan;
  std::size_t steps = 0, same = 0;
  double divergence = 0, worst_gap = 0;
  for (const Line& line : lines) {
    Rig rig(offered.weights, plan, executor());
    rig.deal_for_request(line.prompt.size(), line.answer.size());
    if (!plan.open()) rig.deal(Part::Kind::entry, line.answer.size() - 1);
    for (std::size_t step = 0; step < line.answer.size(); ++step, ++steps) {
      std::vector<double> got;
      rig.user().prompt(step == 0 ? line.prompt : std::vector<TokenId>{line.answer[step - 1]},
                        [&](std::span<const std::int64_t> logits) {
                          got = log_probabilities(logits, std::ldexp(1.0, -plan.choice_frac()));
                          return greedy(logits);
                        });
      const std::vector<double> want = log_probabilities(line.logits[step], 1);
      const TokenId chosen = rig.user().retrieve_last();
      if (!plan.open()) {  // in a fresh order, which the provider knows
        const auto order = rig.provider_coins().permutation(
            {Use::map_order, Site::logits, 0, static_cast<std::uint32_t>(step), 0}, got.size());
        std::vector<double> sorted(got.size());
        for (std::size_t k = 0; k < got.size(); ++k) sorted[order[k]] = got[k];
        got = std::move(sorted);
      }
      const auto best = static_cast<TokenId>(std::max_element(want.begin(), want.end()) - want.begin());
      ASSERT_EQ(static_cast<TokenId>(std::max_element(got.begin(), got.end()) - got.begin()), chosen);
      // What another engine chose in float32, or llama.cpp with activations of 8 bits.
      EXPECT_LT(want[best] - want[line.answer[step]], 0.15) << "step " << step;
      if (chosen == best) ++same;
      worst_gap = std::max(worst_gap, want[best] - want[chosen]);
      for (std::size_t k = 0; k < want.size(); ++k) divergence += std::exp(want[k]) * (want[k] - got[k]);
    }
  }
  divergence /= static_cast<double>(steps);
  fmt::print("{} {}: {} of {} choices as float32's, the others within {:.3f}; divergence {:.5f} nats\n", model.name,
             variant.name(), same, steps, worst_gap, divergence);
  // One in a hundred, and one or two by chance: each answer has a few ties within 0.05, which any rounding decides.
  EXPECT_LE(static_cast<double>(steps - same), 1 + 0.015 * static_cast<double>(steps));
  EXPECT_LE(worst_gap, 0.15);
  EXPECT_LE(divergence, 0.0005);
}

}  // namespace
}  // namespace permllm::test
