// Chooses a position among logits of unknown order and level.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace permllm {

struct SamplingOptions {
  double temperature = 0;  // 0: greedy
  std::size_t top_k = 0;   // 0: all
  double top_p = 1;
  double min_p = 0;
  std::uint64_t seed = 0;

  // Errors: usage, naming the option and its range.
  void check() const;
};

// The choice is a function of the logits' values and the seed, not of their order, and does not change when a constant is
// added to all of them.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) { options.check(); }

  // logits in units of 2^-frac.
  std::size_t choose(std::span<const std::int64_t> logits, int frac);
  std::size_t choose(std::span<const float> logits);
  // The natural logarithm of the probability that the model itself gives a position, at a temperature of 1 and without what narrows the choice. A level
  // common to all logits plays no part.
  static double log_probability(std::span<const std::int64_t> logits, int frac, std::size_t position);

 private:
  template <class Logit>
  std::size_t pick(std::span<const Logit> logits, double unit);

  SamplingOptions options_;
  std::mt19937_64 random_;
};

}  // namespace permllm
