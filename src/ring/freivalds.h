// Freivalds' check of products of integer matrices (R. Freivalds, 1977), with one secret vector for many products.      docs/protocol.md 4.14
//
// s has an entry for each row of W, secret from whoever multiplies; s W is made once. y = W x over the integers is then s y = (s W) x modulo a prime,
// and of any other y that holds for 2 of 2^61 values of a secret entry at most: of those s_j with s_j (y - W x)_j fixed, y - W x not 0 modulo the
// prime. Numbers are reduced modulo 2^61 - 1; steps and addresses depend on lengths alone.
#pragma once

#include <cstdint>
#include <span>

#include "ring/executor.h"
#include "ring/int_matrix.h"
#include "ring/ring.h"

namespace permllm {

inline constexpr Word k_check_prime = (Word{1} << 61) - 1;

// A word of a uniform stream as a number below the prime: its low 61 bits; all of them set is 0.
constexpr Word below_check_prime(Word word) {
  const Word low = word & k_check_prime;
  return low == k_check_prime ? 0 : low;
}
// x modulo the prime.
Word residue(__int128 x);
// The sum of a[i] x[i] modulo the prime: a below the prime, |x[i]| < 2^(bits - 1), bits at most 64. As long as x.
Word dot_modulo_prime(std::span<const Word> a, std::span<const std::int64_t> x, int bits);

// s W modulo the prime, of s below it, by column; and the length of the longest row of W, rounded up.
struct Combination {
  Words sum;
  std::uint64_t longest_row = 0;
};
Combination combine(std::span<const Word> s, const IntMatrix& w, Executor& executor);

// Whether W x cannot wrap in a ring of `bits` bits: no row of W is longer than `longest_row`, so by Cauchy-Schwarz no entry is larger than that times
// the length of x.
bool cannot_wrap(std::uint64_t longest_row, std::span<const std::int64_t> x, int bits);

}  // namespace permllm
