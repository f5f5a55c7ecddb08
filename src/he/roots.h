// Constants of the two primes: powers of the roots of X^N + 1, in the order in which the transform meets them.
#pragma once

#include <array>
#include <cstdint>

#include "he/parameters.h"

namespace permllm::he {

constexpr std::uint64_t times(std::uint64_t a, std::uint64_t b, std::uint64_t p) {
  return static_cast<std::uint64_t>(Uint128{a} * b % p);
}
constexpr std::uint64_t power(std::uint64_t base, std::uint64_t exponent, std::uint64_t p) {
  std::uint64_t result = 1;
  for (; exponent > 0; exponent >>= 1, base = times(base, base, p)) {
    if (exponent & 1) result = times(result, base, p);
  }
  return result;
}
constexpr std::uint64_t inverse(std::uint64_t x, std::uint64_t p) { return power(x, p - 2, p); }

inline constexpr std::array<std::uint64_t, 2> k_generators{3, 5};  // not squares: a power of each has order 2 N

// Layer l of a half of the transform has 2^l groups; a twiddle of the first half is one number for a group of rows, of the second 64,
// one for each column. All are factors, times 2^64.
inline constexpr std::size_t k_side = 64, k_groups = k_side - 1;
constexpr std::size_t group_index(std::size_t layer, std::size_t group) {
  return (std::size_t{1} << layer) - 1 + group;
}
struct Twiddles {
  std::array<std::uint64_t, k_groups> first{};
  std::array<std::uint64_t, k_groups * k_side> second{};
};
struct Roots {
  Twiddles forward, backward;     // powers of psi, and their inverses
  std::uint64_t to_factor = 0;    // 2^128: a product with it is a factor
  std::uint64_t by_degree = 0;    // the factor 1 / N
  std::uint64_t from_factor = 0;  // 1 / 2^64
};

constexpr Twiddles twiddles_of(std::uint64_t psi, std::uint64_t p) {
  std::array<std::uint64_t, k_degree> powers{};  // of psi, at the reversal of their exponent's bits
  const std::uint64_t one = static_cast<std::uint64_t>((Uint128{1} << 64) % p);
  std::uint64_t value = one;
  for (std::size_t i = 0; i < k_degree; ++i, value = times(value, psi, p)) {
    std::size_t reversed = 0;
    for (std::size_t bit = 1, other = k_degree / 2; other > 0; bit *= 2, other /= 2)
      reversed |= (i & bit) != 0 ? other : 0;
    powers[reversed] = value;
  }
  Twiddles all;
  for (std::size_t layer = 0; k_side >> layer > 1; ++layer) {
    for (std::size_t group = 0; group < std::size_t{1} << layer; ++group) {
      const std::size_t index = group_index(layer, group);
      all.first[index] = powers[(std::size_t{1} << layer) + group];
      for (std::size_t row = 0; row < k_side; ++row) {
        all.second[index * k_side + row] = powers[((k_side + row) << layer) + group];
      }
    }
  }
  return all;
}

constexpr Roots roots_of(std::size_t prime) {
  const std::uint64_t p = k_primes[prime], psi = power(k_generators[prime], (p - 1) / (2 * k_degree), p);
  const std::uint64_t one = static_cast<std::uint64_t>((Uint128{1} << 64) % p);
  return {twiddles_of(psi, p), twiddles_of(inverse(psi, p), p), times(one, one, p), times(one, inverse(k_degree, p), p),
          inverse(one, p)};
}

inline constexpr std::array<Roots, 2> k_roots{roots_of(0), roots_of(1)};

}  // namespace permllm::he
