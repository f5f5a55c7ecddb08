#include "he/sample.h"

#include <algorithm>
#include <array>
#include <functional>

namespace permllm::he {

Stream::Stream(const Seed& seed, std::string_view domain) : cipher_(derive(seed, domain, "")) {}

Stream::Stream(const Seed& seed, std::uint32_t number)
    : cipher_(seed),
      next_{static_cast<std::uint8_t>(number >> 24), static_cast<std::uint8_t>(number >> 16),
            static_cast<std::uint8_t>(number >> 8), static_cast<std::uint8_t>(number)} {}

void Stream::read(std::span<Word> out) {
  cipher_.read(next_, {reinterpret_cast<std::uint8_t*>(out.data()), out.size_bytes()});
  next_ = block_after(next_, (out.size_bytes() + 15) / 16);
}

void ternary(Stream& stream, std::span<Word> out) {
  stream.read(out);
  for (Word& word : out) word = static_cast<Word>((Uint128{word} * 3) >> 64) - 1;
}

void centred_binomial(Stream& stream, std::span<Word> out) {
  stream.read(out);
  for (Word& word : out) {
    // Bits are added in the word, by pairs, fours and bytes: an instruction that counts them may be missing, and a table would be
    // addressed by a secret.
    Word bits = word & ((Word{1} << (2 * k_error_bits)) - 1);
    bits -= bits >> 1 & 0x5555555555555555;
    bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
    word = (bits * 0x0101010101010101 >> 56) - k_error_bits;
  }
}

void uniform(Stream& stream, std::span<Word> out) {
  std::array<Word, 2> pair;  // a block
  for (std::size_t prime = 0; prime < 2; ++prime) {
    const std::span<Word> words = out.subspan(prime * k_degree, k_degree);
    const auto below = [&](Word word) { return word < k_primes[prime]; };
    stream.read(words);
    for (Word& word : words) word &= (Word{1} << k_prime_bits) - 1;
    auto end = std::remove_if(words.begin(), words.end(), std::not_fn(below));
    while (end != words.end()) {
      stream.read(pair);
      for (Word word : pair) {
        word &= (Word{1} << k_prime_bits) - 1;
        if (end != words.end() && below(word)) *end++ = word;
      }
    }
  }
}

}  // namespace permllm::he
