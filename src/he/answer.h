// Answers: one entry of the provider's table, under the user's key, and nothing else of the table.
//
//   user        index s uniform, encrypted ahead; wants entry i: sends delta = s - i modulo positions
//   provider    T'[k] = table[(k - delta) mod positions], 0 where that is no entry; answers T'[s] = table[i]
#pragma once

#include <cstdint>
#include <span>

#include "he/query.h"

namespace permllm::he {

// A user's public key, evaluated; made once.
class PreparedKey {
 public:
  PreparedKey(const PublicKey& key, std::string_view context);
  std::span<const Word> a() const { return a_; }  // factors (he/polynomial.h)
  std::span<const Word> b() const { return b_; }

 private:
  Words a_, b_;
};

// Words of 36 bits: c0 + c1 s = 2^36 / t entry + noise, in the constant coefficient.
struct Reply {
  Words words;  // c0, then the N coefficients of c1
  // "version", "parameters", "words". Errors when read: malformed, naming the field.
  template <class Io>
  void visit(Io& io) {
    number_is(io, "version", k_version);
    number_is(io, "parameters", k_parameter_id);
    packed_words(io, "words", words, k_degree + 1, k_reply_bits);
  }
};
constexpr std::size_t reply_bytes() { return 4 + packed_bytes(k_degree + 1, k_reply_bits); }

// table: p.vocabulary entries below p.vocabulary; delta < positions; seed: of this answer alone. One path, whatever the table.
Reply answer(const PreparedKey& key, const PreparedQuery& query, std::span<const std::uint32_t> table,
             std::size_t delta, const Seed& seed);

// The entry; below p.vocabulary where the answer was made as above.
// Errors: malformed, "Reply.words" (an entry beyond the vocabulary).
std::uint32_t decrypt(const SecretKey& secret, const Parameters& p, const Reply& reply);

// The steps of `answer`, in order.

// A ciphertext, both polynomials evaluated.
struct Evaluated {
  Words c0, c1;
};
// One coefficient of c0 and all of c1, as residues: c0 modulo each prime, c1 in coefficients.
struct Sample {
  std::array<Word, 2> c0{};
  Words c1;
};
// sum_b query_b T'_b.
Evaluated product_sum(const PreparedQuery& query, std::span<const std::uint32_t> table, std::size_t delta);
// Adds (b u + e1, a u + e2): without it c1 would be a public function of the table.
void add_zero(Evaluated& sum, const PreparedKey& key, const Seed& seed);
Sample extract(const Evaluated& sum);
// Adds f, uniform in [-2^86, 2^86), to c0: without it the phase would show a sum over the table, weighted by errors that the user knows.
void flood(Sample& sample, const Seed& seed);
// round(2^36 / q x) of every word.
Reply switch_modulus(const Sample& sample);

}  // namespace permllm::he
