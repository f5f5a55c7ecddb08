// Seeds, tables and an integer reference for the tests of src/he. The reference works modulo q in large integers, by the schoolbook,
// and draws from OpenSSL's own counter mode: it shares no arithmetic with the library, which works modulo two primes, at the roots
// of X^N + 1.
#pragma once

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <bit>
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

namespace reference {

using Integer = boost::multiprecision::int256_t;
using Polynomial = std::vector<Integer>;  // N coefficients, 0 to q - 1
using Small = std::vector<std::int64_t>;  // N coefficients of magnitude 2^17 at most

inline Integer q() { return Integer(k_primes[0]) * k_primes[1]; }
inline Integer reduced(const Integer& x) {
  const Integer rest = x % q();
  return rest < 0 ? Integer(rest + q()) : rest;
}
inline Integer centred(const Integer& x) {
  const Integer rest = reduced(x);
  return rest > q() / 2 ? Integer(rest - q()) : rest;
}
// The number below q that leaves x0 and x1.
inline Integer joined(Word x0, Word x1) {
  using boost::multiprecision::powm;
  const Integer p0 = k_primes[0], p1 = k_primes[1];
  const Integer step = (Integer(x1) - Integer(x0) % p1 + p1) * powm(p0, p1 - 2, p1) % p1;
  return Integer(x0) + p0 * step;
}
// Polynomial `number` of residues in coefficients.
inline Polynomial joined(std::span<const Word> residues, std::size_t number = 0) {
  const std::span<const Word> words = residues.subspan(number * k_residues, k_residues);
  Polynomial out(k_degree);
  for (std::size_t i = 0; i < k_degree; ++i) out[i] = joined(words[i], words[k_degree + i]);
  return out;
}
// Of something evaluated.
inline Polynomial coefficients_of(Words values) {
  interpolate(values);
  return joined(values);
}

// a b modulo X^N + 1 and q: all N^2 products, of limbs of 27 bits of a.
inline Polynomial product(const Polynomial& a, const Small& b) {
  Polynomial out(k_degree);
  for (int limb = 0; limb < 4; ++limb) {
    std::vector<std::int64_t> x(k_degree), sums(2 * k_degree);
    for (std::size_t i = 0; i < k_degree; ++i)
      x[i] = static_cast<std::int64_t>((a[i] >> (27 * limb)) & ((1 << 27) - 1));
    for (std::size_t i = 0; i < k_degree; ++i) {
      for (std::size_t j = 0; j < k_degree; ++j) sums[i + j] += x[j] * b[i];
    }
    for (std::size_t i = 0; i < k_degree; ++i) out[i] += Integer(sums[i] - sums[i + k_degree]) << (27 * limb);
  }
  for (Integer& x : out) x = reduced(x);
  return out;
}
template <class Other>
Polynomial sum(Polynomial a, const Other& b) {
  for (std::size_t i = 0; i < k_degree; ++i) a[i] = reduced(a[i] + b[i]);
  return a;
}
inline Polynomial negative(Polynomial a) {
  for (Integer& x : a) x = reduced(-x);
  return a;
}

// OpenSSL's counter mode from a block whose first four bytes are a number.
class Stream {
 public:
  Stream(const Seed& key, std::uint32_t number) : context_(EVP_CIPHER_CTX_new()) {
    const std::array<std::uint8_t, 16> begin{static_cast<std::uint8_t>(number >> 24),
                                             static_cast<std::uint8_t>(number >> 16),
                                             static_cast<std::uint8_t>(number >> 8), static_cast<std::uint8_t>(number)};
    EVP_EncryptInit_ex(context_, EVP_aes_128_ctr(), nullptr, key.bytes().data(), begin.data());
  }
  ~Stream() { EVP_CIPHER_CTX_free(context_); }
  Stream(const Stream&) = delete;
  std::uint64_t word() {
    const std::array<std::uint8_t, 8> zeros{};
    std::array<std::uint8_t, 8 + 16> out{};
    int n = 0;
    EVP_EncryptUpdate(context_, out.data(), &n, zeros.data(), 8);
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < 8; ++i) word |= std::uint64_t{out[i]} << (8 * i);
    return word;
  }
  Small ternary() {
    Small out(k_degree);
    for (auto& x : out) x = static_cast<std::int64_t>(Integer(word()) * 3 / (Integer(1) << 64)) - 1;
    return out;
  }
  Small errors() {
    Small out(k_degree);
    for (auto& x : out) {
      const std::uint64_t bits = word();
      x = std::popcount(bits & 0x1fffff) - std::popcount(~bits >> 21 & 0x1fffff);
    }
    return out;
  }
  Polynomial uniform() {
    std::array<std::vector<Word>, 2> residues;
    for (std::size_t prime = 0; prime < 2; ++prime) {
      std::size_t drawn = 0;
      for (; residues[prime].size() < k_degree; ++drawn) {
        const Word x = word() % (Word{1} << 53);
        if (x < k_primes[prime]) residues[prime].push_back(x);
      }
      if (drawn % 2 == 1) word();  // the rest of a block is left
    }
    Polynomial out(k_degree);
    for (std::size_t i = 0; i < k_degree; ++i) out[i] = joined(residues[0][i], residues[1][i]);
    return out;
  }

 private:
  EVP_CIPHER_CTX* context_;
};

}  // namespace reference
}  // namespace permllm::he
