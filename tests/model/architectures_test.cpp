// The tiny model of every architecture, loaded and run by the reference engine, beside the independent oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/load.h"
#include "model/reference.h"
#include "support/tiny_models.h"

namespace permllm::test {
namespace {

class Architectures : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, Architectures, testing::ValuesIn(tiny_model_names()), [](const auto& model) {
  std::string name = model.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Each entry of a vector differs by at most a part of the vector's largest entry and 1.
void expect_close(std::span<const float> got, const std::vector<double>& want, double tolerance,
                  const std::string& where) {
  ASSERT_EQ(got.size(), want.size()) << where;
  double largest = 0;
  for (const double v : want) largest = std::max(largest, std::fabs(v));
  for (std::size_t i = 0; i < want.size(); ++i)
    ASSERT_NEAR(double{got[i]}, want[i], tolerance * (largest + 1)) << where << ", entry " << i;
}

// An entry of q or k stands where rotary pairs are adjacent: their order in a head is not that of the file. The entries of each
// head are the same numbers.
std::vector<double> sorted_heads(std::vector<double> values, std::size_t head_dim) {
  for (auto head = values.begin(); head < values.end(); head += static_cast<std::ptrdiff_t>(head_dim)) {
    std::sort(head, head + static_cast<std::ptrdiff_t>(head_dim));
  }
  return values;
}

template <class Matrix>
void compare(const TinyModel& model, const Weights<Matrix>& weights, double tolerance) {
  Executor executor(1);
  const Config& c = weights.config;
  if (c.normed_residual) tolerance = std::max(tolerance, 2e-4);  // gains times sqrt(2 layers), rounded to 16 bits
  EXPECT_EQ(c.architecture, model.architecture);
  for (const TinyPrompt& prompt : model.prompts) {
    std::size_t compared = 0, head = 0;
    const auto observe = [&](const Observation& seen) {
      if (seen.kind == "logits") return;  // not capped yet; compared below
      if (seen.kind == "final") return;   // of the last token "norm.final", of the others nothing comes
      const std::string kind(seen.kind),
          where = kind + " of layer " + std::to_string(seen.layer) + ", token " + std::to_string(seen.token);
      head = kind == "score" ? head % c.heads : 0;
      std::vector<double> want = prompt.at(kind, seen.layer, seen.token, head);
      if (kind == "score") ++head, want.resize(seen.values.size());  // the oracle shows keys that come later as well
      ++compared;
      if (kind == "qkv" || kind == "qk") {
        const auto qk = static_cast<std::ptrdiff_t>(c.qk_rows());
        std::vector<double> mine(seen.values.begin(), seen.values.end());
        const auto heads = [&](const std::vector<double>& v) {
          return sorted_heads({v.begin(), v.begin() + qk}, c.head_dim);
        };
        const std::vector<double> got = heads(mine);
        expect_close(std::vector<float>(got.begin(), got.end()), heads(want), tolerance, where);
        want.erase(want.begin(), want.begin() + qk);
        expect_close(seen.values.subspan(c.qk_rows()), want, tolerance, where);
      } else {
        expect_close(seen.values, want, tolerance, where);
      }
    };
    ReferenceCache cache;
    std::vector<float> logits = reference_forward(weights, prompt.ids, cache, executor, observe);
    EXPECT_GT(compared, c.layers * prompt.ids.size() * 7);
    expect_close(logits, prompt.at("logits", c.layers, prompt.ids.size() - 1), tolerance, "logits");
    for (std::size_t i = 0; i < prompt.greedy.size(); ++i) {
      const auto best = static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      ASSERT_EQ(best, prompt.greedy[i]) << "greedy token " << i;
      logits = reference_forward(weights, {&best, 1}, cache, executor);
      if (i < prompt.decode.size())
        expect_close(logits, prompt.decode[i], tolerance, "logits behind greedy token " + std::to_string(i));
    }
  }
}

TEST_P(Architectures, real_weights_give_what_the_oracle_says) {
  const TinyModel model = tiny_model(GetParam());
  Executor executor(2);
  compare(model, load_float_weights(ModelFile::open(model.path), executor), 5e-5);
}

// The weights of the tiny models are integers of at most 12 bits; but for Gemma's embeddings, times sqrt(width).
TEST_P(Architectures, integers_give_what_the_oracle_says) {
  const TinyModel model = tiny_model(GetParam());
  Executor executor(2);
  compare(model, load_int_weights(ModelFile::open(model.path), executor),
          model.architecture.starts_with("gemma") ? 0.1 : 5e-5);
}

// Where numbers leave float32, nothing is chosen.
TEST(Reference, logits_that_are_no_numbers_are_refused) {
  Executor executor(1);
  FloatWeights weights = load_float_weights(ModelFile::open(tiny_model("llama").path), executor);
  ReferenceCache cache;
  EXPECT_NO_THROW(reference_forward(weights, std::vector<TokenId>{5}, cache, executor));
  for (float& v : weights.layers[0].o.values) v = 3e38f;
  ReferenceCache other;
  try {
    reference_forward(weights, std::vector<TokenId>{5}, other, executor);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::unsupported);
    EXPECT_EQ(error.field(), "logits");
  }
}

}  // namespace
}  // namespace permllm::test
