// What the sampler chooses, beside the distribution that its options define, computed here from the definition.
#include "user/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "permllm/error.h"

namespace permllm {
namespace {

const std::vector<float> k_logits{1.0f, -2.0f, 3.0f, 2.5f, 0.0f, 2.0f, -1.0f, 3.5f, 1.5f, -7.0f};

// By definition: softmax of logits / temperature; of its tokens the k likeliest; of those the fewest, from the likeliest on, that hold the share p of
// them; of those, none less likely than min_p of the likeliest; what is left, in proportion.
std::vector<double> distribution(const SamplingOptions& o) {
  struct Token {
    std::size_t id;
    double p;
  };
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < k_logits.size(); ++i)
    tokens.push_back({i, std::exp(double{k_logits[i]} / o.temperature)});
  std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.p > b.p; });
  if (o.top_k != 0) tokens.resize(std::min(o.top_k, tokens.size()));
  double sum = 0, held = 0;
  for (const Token& token : tokens) sum += token.p;
  std::vector<double> p(k_logits.size());
  for (const Token& token : tokens) {
    if (held >= o.top_p * sum) break;
    held += token.p;
    if (token.p >= o.min_p * tokens[0].p) p[token.id] = token.p;
  }
  double left = 0;
  for (const double x : p) left += x;
  for (double& x : p) x /= left;
  return p;
}

// How often each is chosen in 40,000 draws is within five standard deviations of that, and what has no probability never comes.
void expect_distribution(const SamplingOptions& options) {
  constexpr std::size_t k_draws = 40000;
  Sampler sampler(options);
  std::vector<std::size_t> counts(k_logits.size());
  for (std::size_t i = 0; i < k_draws; ++i) ++counts[sampler.choose(k_logits)];
  const std::vector<double> expected = distribution(options);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double mean = expected[i] * k_draws, deviation = std::sqrt(mean * (1 - expected[i]));
    EXPECT_NEAR(static_cast<double>(counts[i]), mean, 5 * deviation) << "token " << i;
  }
}
std::size_t tokens_of(const SamplingOptions& options) {
  const std::vector<double> p = distribution(options);
  return static_cast<std::size_t>(std::count_if(p.begin(), p.end(), [](double x) { return x > 0; }));
}

TEST(Sampler, draws_from_the_distribution_that_its_options_define) {
  // Each option cuts somewhere else: how many tokens stay.
  const std::vector<std::pair<SamplingOptions, std::size_t>> cases{
      {{.temperature = 1, .seed = 1}, 10},
      {{.temperature = 0.5, .seed = 2}, 10},
      {{.temperature = 1, .top_k = 3, .seed = 3}, 3},
      {{.temperature = 1, .top_p = 0.7, .seed = 4}, 3},
      {{.temperature = 2, .top_p = 0.7, .seed = 5}, 4},
      {{.temperature = 1, .min_p = 0.2, .seed = 6}, 4},
      {{.temperature = 1, .top_k = 6, .top_p = 0.9, .min_p = 0.3, .seed = 7}, 3},
      {{.temperature = 1, .top_k = 4, .top_p = 0.5, .seed = 8}, 2},  // the share is that of the four
  };
  for (const auto& [options, tokens] : cases) {
    SCOPED_TRACE(testing::Message() << "temperature " << options.temperature << ", top-k " << options.top_k
                                    << ", top-p " << options.top_p << ", min-p " << options.min_p);
    EXPECT_EQ(tokens_of(options), tokens);
    expect_distribution(options);
  }
}

TEST(Sampler, is_greedy_without_a_temperature) {
  Sampler sampler({.top_p = 0.1, .seed = 9});
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sampler.choose(k_logits), 7u);
}

// As the user sees them: in another order, in units of 2^-frac, and on a level of their own.
TEST(Sampler, a_seed_chooses_the_same_whatever_the_order_and_the_level) {
  const SamplingOptions options{.temperature = 1.3, .top_k = 8, .top_p = 0.95, .min_p = 0.01, .seed = 10};
  const std::vector<std::size_t> order{4, 9, 0, 7, 2, 8, 1, 6, 3, 5};
  constexpr int k_frac = 12;
  std::vector<std::int64_t> shuffled;
  for (const std::size_t i : order) shuffled.push_back(std::llround(std::ldexp(k_logits[i], k_frac)) - 123456789);
  Sampler one(options), other(options);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(order[other.choose(shuffled, k_frac)], one.choose(k_logits));
}

TEST(Sampler, options_out_of_range_are_refused) {
  for (const SamplingOptions& options :
       {SamplingOptions{.temperature = -1}, SamplingOptions{.temperature = std::nan("")}, SamplingOptions{.top_p = 0},
        SamplingOptions{.top_p = 1.5}, SamplingOptions{.min_p = -0.1}, SamplingOptions{.min_p = 2}}) {
    EXPECT_THROW(options.check(), Error);
  }
}

TEST(Sampler, the_models_own_likelihood_does_not_depend_on_a_common_level) {
  const std::vector<std::int64_t> logits{0, 256, 512};  // in 1/256: 0, 1 and 2
  const double sum = 1 + std::exp(1.0) + std::exp(2.0);
  for (const std::int64_t level : {0, -100'000, 1'000'000'000}) {
    std::vector<std::int64_t> moved = logits;
    for (std::int64_t& logit : moved) logit += level;
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_NEAR(Sampler::log_probability(moved, 8, i), static_cast<double>(i) - std::log(sum), 1e-12) << level;
  }
}

}  // namespace
}  // namespace permllm
