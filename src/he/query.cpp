#include "he/query.h"

#include <openssl/crypto.h>

#include <algorithm>

#include "he/sample.h"
#include "rand/domains.h"

namespace permllm::he {
namespace {

std::span<Word> block_of(Words& words, std::size_t block) {
  return std::span(words).subspan(block * k_residues, k_residues);
}

// All ones where a and b are equal.
Word equal(Word a, Word b) {
  const Word x = a ^ b;
  return ((x | (Word{0} - x)) >> 63) - 1;
}

// Adds D X^-j in one block and 0 in all others: to every word of every block, D or 0 under a mask.
void add_message(Words& c0, const Parameters& p, std::size_t index) {
  // X^-j is -X^(N - j), for j = 0 it is 1.
  const Word j = index & (k_degree - 1), whole = equal(j, 0);
  const Word target = index - j + ((Word{k_degree} - j) & (k_degree - 1));
  for (std::size_t prime = 0; prime < 2; ++prime) {
    const Word modulus = k_primes[prime], scale = static_cast<Word>(scale_of(p.plain_bits) % modulus);
    const Word value = (scale & whole) | ((modulus - scale) & ~whole);
    for (std::size_t block = 0; block < p.blocks; ++block) {
      Word* words = &c0[block * k_residues + prime * k_degree];
      for (std::size_t i = 0; i < k_degree; ++i) {
        const Word less = words[i] + (value & equal(block * k_degree + i, target)) - modulus;
        words[i] = less + (modulus & (Word{0} - (less >> 63)));
      }
    }
  }
}

}  // namespace

std::size_t random_index(const Parameters& p, const Seed& seed) {
  Stream stream(seed, domain::he_index);
  SecretWords words(2);
  stream.read(words.words());
  const Uint128 n = p.positions();
  return static_cast<std::size_t>((n * words.words()[1] + (n * words.words()[0] >> 64)) >> 64);
}

Query encrypt(const SecretKey& secret, const Parameters& p, std::size_t index, const Seed& seed) {
  PERMLLM_ASSERT(index < p.positions());
  Query query{p, {}, Words(p.blocks * k_residues)};
  std::ranges::copy(derive(seed, domain::he_query_seed, "").bytes(), query.seed.begin());
  Words a = query_polynomials(query);
  SecretWords error(k_degree);
  Stream stream(seed, domain::he_query_error);
  for (std::size_t b = 0; b < p.blocks; ++b) {
    centred_binomial(stream, error.words());
    residues_of(error.words(), block_of(query.c0, b));
    const std::span<Word> product = block_of(a, b);
    evaluate(product);
    multiply(product, secret.factor());
    interpolate(product);
    subtract(block_of(query.c0, b), product);
  }
  OPENSSL_cleanse(a.data(), a.size() * sizeof(Word));
  add_message(query.c0, p, index);
  return query;
}

Words query_polynomials(const Query& query) {
  const Seed seed(query.seed);
  Words a(query.parameters.blocks * k_residues);
  for (std::size_t b = 0; b < query.parameters.blocks; ++b) {
    Stream stream(seed, static_cast<std::uint32_t>(b));
    uniform(stream, block_of(a, b));
  }
  return a;
}

PreparedQuery::PreparedQuery(const Query& query)
    : parameters_(query.parameters), c0_(query.c0), c1_(query_polynomials(query)) {
  PERMLLM_ASSERT(c0_.size() == parameters_.blocks * k_residues);
  for (Words* words : {&c0_, &c1_}) {
    for (std::size_t b = 0; b < parameters_.blocks; ++b) {
      evaluate(block_of(*words, b));
      make_factor(block_of(*words, b));
    }
  }
}

}  // namespace permllm::he
