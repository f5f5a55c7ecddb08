// Factors of single entries: a diagonal matrix. Words of a ring, at each party its own: integers of `frac` fraction bits at
// the provider, V and U at the others.
#pragma once

#include <cstddef>
#include <span>

#include "permllm/error.h"
#include "ring/executor.h"
#include "ring/ring.h"

namespace permllm {

struct Gain {
  Words words;
  int frac = 0;
  bool empty() const { return words.empty(); }
  // The factor itself, of the provider's integers.
  double value(std::size_t j) const { return decode(words[j], {Ring{64}, frac}); }
};
constexpr int k_gain_bits = 16;  // |integer| < 2^(k_gain_bits - 1)

// y = g x entry by entry, for each of x's vectors, modulo 2^64.
inline void product(const Gain& g, std::span<const Word> x, std::span<Word> y, Executor&) {
  const std::size_t n = g.words.size();
  PERMLLM_ASSERT(n > 0 && x.size() % n == 0 && x.size() == y.size());
  for (std::size_t begin = 0; begin < x.size(); begin += n) {
    for (std::size_t j = 0; j < n; ++j) y[begin + j] = g.words[j] * x[begin + j];
  }
}
inline void product(const Gain& g, Ring, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  product(g, x, y, executor);
}

}  // namespace permllm
