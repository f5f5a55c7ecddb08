#include "user/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "permllm/error.h"

namespace permllm {

void SamplingOptions::check() const {
  const auto require = [](bool holds, const char* option, double value, const char* range) {
    if (!holds) throw Error(Code::usage, option, fmt::format("{}, expected {}", value, range));
  };
  require(temperature >= 0 && temperature <= 100, "temperature", temperature, "a number from 0 (greedy) to 100");
  require(top_p > 0 && top_p <= 1, "top_p", top_p, "a number above 0 and up to 1");
  require(min_p >= 0 && min_p <= 1, "min_p", min_p, "a number from 0 to 1");
}

template <class Logit>
std::size_t Sampler::pick(std::span<const Logit> logits, double unit) {
  PERMLLM_ASSERT(!logits.empty());
  if (options_.temperature == 0) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  // Candidates from the best down: top-k of them, by value.
  std::vector<std::uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto better = [&](std::uint32_t a, std::uint32_t b) { return logits[a] > logits[b]; };
  const std::size_t kept = options_.top_k == 0 ? order.size() : std::min(options_.top_k, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), better);
  order.resize(kept);

  const double best = static_cast<double>(logits[order[0]]);
  std::vector<double> weights(kept);
  double sum = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    weights[i] = std::exp((static_cast<double>(logits[order[i]]) - best) * unit / options_.temperature);
    sum += weights[i];
  }
  // top-p: the least number of best candidates that hold this share; min-p: none less likely than this part of the best.
  double held = 0;
  std::size_t count = 0;
  while (count < kept && (count == 0 || (held < options_.top_p * sum && weights[count] >= options_.min_p)))
    held += weights[count++];
  double left = std::generate_canonical<double, 53>(random_) * held;
  for (std::size_t i = 0; i < count; ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[count - 1];
}

std::size_t Sampler::choose(std::span<const std::int64_t> logits, int frac) {
  return pick(logits, std::ldexp(1.0, -frac));
}
std::size_t Sampler::choose(std::span<const float> logits) { return pick(logits, 1.0); }

double Sampler::log_probability(std::span<const std::int64_t> logits, int frac, std::size_t position) {
  const auto best = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  const double unit = std::ldexp(1.0, -frac);
  double sum = 0;
  for (const std::int64_t logit : logits) sum += std::exp((static_cast<double>(logit) - best) * unit);
  return (static_cast<double>(logits[position]) - best) * unit - std::log(sum);
}

}  // namespace permllm
