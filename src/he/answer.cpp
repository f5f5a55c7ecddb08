#include "he/answer.h"

#include <algorithm>
#include <utility>

#include "he/kernels.h"
#include "he/roots.h"
#include "he/sample.h"
#include "rand/domains.h"

namespace permllm::he {
namespace {

// x modulo p, for x < 2^106, by 2^53 = 2^53 - p modulo p: each step takes 17 bits off, or what is above 2^53 to a bit or none.
Word residue(Uint128 x, Word p) {
  constexpr Word k_low = (Word{1} << k_prime_bits) - 1;
  const Word distance = (Word{1} << k_prime_bits) - p;
  for (int step = 0; step < 4; ++step) x = (x & k_low) + (x >> k_prime_bits) * distance;
  const Word less = static_cast<Word>(x) - p;
  return less + (p & (Word{0} - (less >> 63)));
}
static_assert((Word{1} << k_prime_bits) - k_primes[1] < Word{1} << 36);

// Entry k of T' for every k of a block: centred, 0 beyond the vocabulary; as words that are congruent modulo p, and below 2 p.
void fill_block(std::span<const std::uint32_t> table, const Parameters& parameters, std::size_t delta,
                std::size_t block, Word p, Word* out) {
  const Ring plain{parameters.plain_bits};
  std::size_t from = (block * k_degree + parameters.positions() - delta) % parameters.positions();
  for (std::size_t i = 0; i < k_degree;) {
    // To the end of the table, of the positions beyond it, or of the block.
    const bool inside = from < table.size();
    const std::size_t end = std::min((inside ? table.size() : parameters.positions()) - from + i, k_degree);
    for (; i < end; ++i, ++from) out[i] = p + (inside ? static_cast<Word>(centre(table[from], plain)) : 0);
    if (from == parameters.positions()) from = 0;
  }
}

// round(2^36 / q x), x given modulo both primes. Exact: the double is right to 2^-14, and what it leaves tells which way it was wrong.
Word switched(Word x0, Word x1) {
  constexpr Word k_p0 = k_primes[0], k_p1 = k_primes[1];
  constexpr Word k_inverse0 = inverse(k_p1 % k_p0, k_p0), k_inverse1 = inverse(k_p0 % k_p1, k_p1);
  constexpr double k_whole = static_cast<double>(Word{1} << k_reply_bits);
  // x = y0 p1 + y1 p0, or q less.
  const Word y0 = residue(Uint128{x0} * k_inverse0, k_p0), y1 = residue(Uint128{x1} * k_inverse1, k_p1);
  const double near = static_cast<double>(static_cast<std::int64_t>(y0)) * (k_whole / static_cast<double>(k_p0)) +
                      static_cast<double>(static_cast<std::int64_t>(y1)) * (k_whole / static_cast<double>(k_p1));
  Word result = static_cast<Word>(static_cast<std::int64_t>(near + 0.5));
  const Uint128 scaled = (Uint128{y0} * k_p1 + Uint128{y1} * k_p0)
                         << k_reply_bits;  // modulo 2^128, as is all of the difference
  const auto rest = static_cast<__int128>(scaled - result * k_modulus);
  constexpr auto k_half = static_cast<__int128>(k_modulus / 2);
  result += Word{rest > k_half} - Word{rest < -k_half};
  return result & Ring{k_reply_bits}.mask();
}

}  // namespace

PreparedKey::PreparedKey(const PublicKey& key, std::string_view context) : a_(common_polynomial(context)), b_(key.b) {
  for (Words* words : {&a_, &b_}) {
    evaluate(*words);
    make_factor(*words);
  }
}

Evaluated product_sum(const PreparedQuery& query, std::span<const std::uint32_t> table, std::size_t delta) {
  const Parameters& parameters = query.parameters();
  PERMLLM_ASSERT(table.size() == parameters.vocabulary && delta < parameters.positions());
  Evaluated sum{Words(k_residues), Words(k_residues)};
  SecretWords entries(k_degree);
  Word* values = entries.words().data();
  for (int prime = 0; prime < 2; ++prime) {
    const std::size_t at = static_cast<std::size_t>(prime) * k_degree;
    for (std::size_t b = 0; b < parameters.blocks; ++b) {
      fill_block(table, parameters, delta, b, k_primes[static_cast<std::size_t>(prime)], values);
      kernels::transform(values, prime);
      kernels::multiply_add(&sum.c0[at], &sum.c1[at], values, &query.c0(b)[at], &query.c1(b)[at], prime);
    }
    kernels::reduce(&sum.c0[at], prime);
    kernels::reduce(&sum.c1[at], prime);
  }
  return sum;
}

void add_zero(Evaluated& sum, const PreparedKey& key, const Seed& seed) {
  Stream stream(seed, domain::he_zero);
  SecretWords small(k_degree), u(k_residues), e(k_residues), product(k_residues);
  ternary(stream, small.words());
  residues_of(small.words(), u.words());
  evaluate(u.words());
  for (const auto& [to, factor] : {std::pair{&sum.c0, key.b()}, std::pair{&sum.c1, key.a()}}) {
    centred_binomial(stream, small.words());
    residues_of(small.words(), e.words());
    evaluate(e.words());
    std::ranges::copy(u.words(), product.words().begin());
    multiply(product.words(), factor);
    add(*to, product.words());
    add(*to, e.words());
  }
}

// The constant coefficient is the mean of the values.
Sample extract(const Evaluated& sum) {
  Sample sample{{}, sum.c1};
  interpolate(sample.c1);
  for (std::size_t prime = 0; prime < 2; ++prime) {
    const Word p = k_primes[prime];
    Uint128 total = 0;
    for (std::size_t i = 0; i < k_degree; ++i) total += sum.c0[prime * k_degree + i];
    // -(p - 1) / N is 1 / N modulo p.
    sample.c0[prime] = residue(Uint128{residue(total, p)} * (p - (p - 1) / k_degree), p);
  }
  return sample;
}

void flood(Sample& sample, const Seed& seed) {
  Stream stream(seed, domain::he_flood);
  SecretWords words(2);
  stream.read(words.words());
  const Uint128 raised = (Uint128{words.words()[1]} << 64 | words.words()[0]) & (2 * flood_noise() - 1);  // f + F
  for (std::size_t prime = 0; prime < 2; ++prime) {
    const Word p = k_primes[prime], lowered = p - static_cast<Word>(flood_noise() % p);
    sample.c0[prime] = residue(raised + sample.c0[prime] + lowered, p);
  }
}

Reply switch_modulus(const Sample& sample) {
  Reply reply{Words(k_degree + 1)};
  reply.words[0] = switched(sample.c0[0], sample.c0[1]);
  for (std::size_t i = 0; i < k_degree; ++i) reply.words[1 + i] = switched(sample.c1[i], sample.c1[k_degree + i]);
  return reply;
}

Reply answer(const PreparedKey& key, const PreparedQuery& query, std::span<const std::uint32_t> table,
             std::size_t delta, const Seed& seed) {
  Evaluated sum = product_sum(query, table, delta);
  add_zero(sum, key, seed);
  Sample sample = extract(sum);
  flood(sample, seed);
  return switch_modulus(sample);
}

std::uint32_t decrypt(const SecretKey& secret, const Parameters& p, const Reply& reply) {
  PERMLLM_ASSERT(reply.words.size() == k_degree + 1);
  const std::span<const Word> s = secret.coefficients(), c1 = std::span(reply.words).subspan(1);
  // The constant coefficient of c1 s, where X^N = -1.
  Word phase = reply.words[0] + c1[0] * s[0];
  for (std::size_t k = 1; k < k_degree; ++k) phase -= c1[k] * s[k_degree - k];
  const int below = k_reply_bits - p.plain_bits;
  const Word entry = (phase + (Word{1} << (below - 1))) >> below & Ring{p.plain_bits}.mask();
  if (entry >= p.vocabulary) throw Error(Code::malformed, "Reply.words", "the entry is beyond the vocabulary");
  return static_cast<std::uint32_t>(entry);
}

}  // namespace permllm::he
