#include "he/polynomial.h"

#include <openssl/crypto.h>

#include "he/kernels.h"
#include "he/roots.h"

namespace permllm::he {
namespace {

// work(words of one prime, offset of them, prime)
template <class Work>
void for_each_prime(std::span<Word> polynomial, const Work& work) {
  PERMLLM_ASSERT(polynomial.size() == k_residues);
  for (int prime = 0; prime < 2; ++prime) {
    const std::size_t at = static_cast<std::size_t>(prime) * k_degree;
    work(polynomial.data() + at, at, prime);
  }
}

}  // namespace

SecretWords::~SecretWords() { OPENSSL_cleanse(words_.data(), words_.size() * sizeof(Word)); }

void residues_of(std::span<const Word> small, std::span<Word> out) {
  PERMLLM_ASSERT(small.size() == k_degree);
  for_each_prime(out, [&](Word* x, std::size_t, int prime) {
    const Word p = k_primes[static_cast<std::size_t>(prime)];
    for (std::size_t i = 0; i < k_degree; ++i) x[i] = small[i] + (p & (Word{0} - (small[i] >> 63)));
  });
}

void evaluate(std::span<Word> polynomial) {
  for_each_prime(polynomial, [](Word* x, std::size_t, int prime) { kernels::transform(x, prime); });
}

void interpolate(std::span<Word> polynomial) {
  for_each_prime(polynomial, [](Word* x, std::size_t, int prime) { kernels::transform_back(x, prime); });
}

void make_factor(std::span<Word> polynomial) {
  for_each_prime(polynomial, [](Word* x, std::size_t, int prime) {
    kernels::multiply_by(x, k_roots[static_cast<std::size_t>(prime)].to_factor, prime);
  });
}

void multiply(std::span<Word> values, std::span<const Word> factor) {
  PERMLLM_ASSERT(factor.size() == k_residues);
  for_each_prime(values, [&](Word* x, std::size_t at, int prime) { kernels::multiply(x, factor.data() + at, prime); });
}

void add(std::span<Word> sum, std::span<const Word> values) {
  PERMLLM_ASSERT(values.size() == k_residues);
  for_each_prime(sum, [&](Word* x, std::size_t at, int prime) { kernels::add(x, values.data() + at, prime); });
}

void subtract(std::span<Word> sum, std::span<const Word> values) {
  PERMLLM_ASSERT(values.size() == k_residues);
  for_each_prime(sum, [&](Word* x, std::size_t at, int prime) { kernels::subtract(x, values.data() + at, prime); });
}

}  // namespace permllm::he
