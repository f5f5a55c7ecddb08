// Random polynomials, each from a fixed number of random bytes without a branch, but for the uniform ones, which are public.
#pragma once

#include <span>
#include <string_view>

#include "he/polynomial.h"
#include "rand/counter_mode.h"

namespace permllm::he {

// Words of AES-128 in counter mode, read once from front to back.
class Stream {
 public:
  // Under what `domain` derives from the seed.
  Stream(const Seed& seed, std::string_view domain);
  // Stream `number` of a public seed.
  Stream(const Seed& seed, std::uint32_t number);
  // At the next block boundary.
  void read(std::span<Word> out);

 private:
  CounterMode cipher_;
  CounterBlock next_{};
};

// Uniform in {-1, 0, 1}, each within 2^-64: three times a word, the high half of it, less one.
void ternary(Stream& stream, std::span<Word> out);
// Centred binomial: how many of 42 bits are set, less 21.
void centred_binomial(Stream& stream, std::span<Word> out);
// Residues of a uniform polynomial: for each prime, the first N of the stream's words that are below it, of their low 53 bits.
void uniform(Stream& stream, std::span<Word> out);

}  // namespace permllm::he
