// Polynomials of R modulo the two primes, as words.
//
// Residues: N coefficients modulo the first prime, then N modulo the second; k_residues words. Evaluated: as many values at the roots
// of X^N + 1, in an order of no meaning. A factor is an evaluated polynomial times 2^64 (Montgomery's form): a product of
// something evaluated and a factor is evaluated. All are reduced, each below its prime.
#pragma once

#include <cstddef>
#include <span>

#include "he/parameters.h"
#include "ring/ring.h"

namespace permllm::he {

inline constexpr std::size_t k_residues = 2 * k_degree;

// Words that are zeroed when dropped.
class SecretWords {
 public:
  explicit SecretWords(std::size_t count) : words_(count) {}
  ~SecretWords();
  SecretWords(SecretWords&&) noexcept = default;
  std::span<Word> words() { return words_; }
  std::span<const Word> words() const { return words_; }

 private:
  Words words_;
};

// Residues of a polynomial with small coefficients (signed, in N words), |x| < 2^52.
void residues_of(std::span<const Word> small, std::span<Word> out);
// In place: residues to values and back, values to a factor.
void evaluate(std::span<Word> polynomial);
void interpolate(std::span<Word> polynomial);
void make_factor(std::span<Word> polynomial);
// values *= factor.
void multiply(std::span<Word> values, std::span<const Word> factor);
// sum += values, sum -= values; of residues or values.
void add(std::span<Word> sum, std::span<const Word> values);
void subtract(std::span<Word> sum, std::span<const Word> values);

}  // namespace permllm::he
