// Seeds, tables and an integer reference for the tests of src/he. The reference works modulo q in one large integer, by the
// schoolbook: it shares no arithmetic with the library, which works modulo two primes and at the roots of X^N + 1.
#pragma once

#include <algorithm>
#include <array>
#include <boost/multiprecision/cpp_int.hpp>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "he/answer.h"

namespace permllm::he {

inline Seed seed_of(std::uint64_t n) {
  std::array<std::uint8_t, Seed::k_bytes> bytes{};
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(n >> (8 * i));
  return Seed{bytes};
}

// A random order of the vocabulary.
inline std::vector<std::uint32_t> random_table(const Parameters& p, std::uint64_t seed) {
  std::vector<std::uint32_t> table(p.vocabulary);
  std::iota(table.begin(), table.end(), 0u);
  std::mt19937_64 random(seed);
  std::ranges::shuffle(table, random);
  return table;
}

}  // namespace permllm::he
