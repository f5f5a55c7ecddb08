// Parameters of the encryption, and why its answers are always right and hide the table.
//
// The scheme is BFV (Fan, Vercauteren: ePrint 2012/144) in the ring R = Z[X] / (X^N + 1), N = 4096, modulo q = p0 p1 of 106
// bits: the row of 128 bits for a ternary secret and N = 4096 in the guidelines of 2024 (ePrint 2024/463). Secrets and u are
// uniform ternary, errors centred binomial: 21 bits less 21 bits, deviation sqrt(10.5) = 3.24, magnitude E = 21 at most.
// Messages are modulo t = 2^plain_bits; D = round(q / t) scales them.
//
//   user        query_b = (c0_b, a_b),  c0_b = -a_b s + e_b + D m_b,  m_b = X^-j in block b = floor(index / N), j = index mod N; else 0
//   provider    sum_b query_b T_b + (b u + e1, a u + e2),  (a, b) the user's public key, b = -a s + e
//               of it the constant coefficient of the first polynomial, to which it adds f, and all of the second
//   phase       D T[index] + sum_b (e_b T_b)[0] + (e u + e1 + e2 s)[0] + f
//
// Noise, in the worst case, B blocks, T centred, |T| <= t / 2; `product_noise`, `zero_noise`, `scale_noise` below:
//   product     E N B t / 2       an error of each coefficient of each block meets an entry: 2^37.4 at t = 2^17 and B = 32
//   zero        E (2 N + 1)       2^17.4
//   scale       t / 4             |D - q / t| <= 1/2, times T[index]
//   flood       F = 2^86          f is uniform in [-F, F)
//   switch      (N + 1) / 2       of 2^36: c0 and the N words of the ternary secret's polynomial are rounded to 36 bits each
// The answer is right where (product + zero + scale + F) 2^36 / q + (N + 1) / 2 < 2^36 / (2 t): asserted below for every t. At
// t = 2^18 the left side is half of the right and a sixty-fourth.
//
// What the user learns. It knows s, all e_b and e: everything but u, e1, e2, f. Let n be what its view adds to D T[index] but f.
// f + n is |n| / (2 F) from f in statistical distance, exactly. With n gone from the phase, (a, a u + e2) is a sample of ring-LWE
// whose secret is u: it hides sum_b a_b T_b. `a` must not be the user's choice: a small `a` would show u, then the table. So an answer
// is within |n| / (2 F) of one made of T[index] alone, and ring-LWE.
//   worst case  |n| = product + zero + scale: 2^-49.6 at t = 2^17 and 32 blocks, 2^-47.6 at t = 2^18 and 64
//   on average  over the errors of a user who follows the protocol, of any table that does not depend on them, the expectation of
//               |n| is at most sqrt(10.5 N B) t / 2 + zero + scale: 2^-60.8 and 2^-59.3
// The distances of a key's answers add up: 2^16 of them stay within 2^-43 on average (asserted), 2^-31.6 in the worst case.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace permllm::he {

using Uint128 = unsigned __int128;

inline constexpr std::size_t k_degree = 4096;  // N
// Both k 2^32 + 1, which makes the reduction of a product two multiplications (he/kernels.h), and 1 modulo 2 N.
inline constexpr std::array<std::uint64_t, 2> k_primes{0x1ffffc00000001, 0x1ffff500000001};
inline constexpr Uint128 k_modulus = Uint128{k_primes[0]} * k_primes[1];  // q
inline constexpr int k_prime_bits = 53;
inline constexpr int k_error_bits = 21;  // each side; E
inline constexpr int k_flood_bits = 86;  // F = 2^86
inline constexpr int k_reply_bits = 36;
inline constexpr int k_least_plain_bits = 9, k_most_plain_bits = 18;
inline constexpr std::size_t k_most_vocabulary = std::size_t{1} << k_most_plain_bits;
inline constexpr std::size_t k_queries_per_key = std::size_t{1} << 16;

// What is encoded in every object: version of its bytes, and the number of all constants above.
inline constexpr std::uint16_t k_version = 1, k_parameter_id = 1;

// What depends on the vocabulary.
struct Parameters {
  std::size_t vocabulary = 0;  // entries of a table, 1 to k_most_vocabulary
  int plain_bits = 0;          // t = 2^plain_bits >= vocabulary, at least 2^9
  std::size_t blocks = 0;      // of N entries each
  // Indices, rotations and their differences are modulo this.
  constexpr std::size_t positions() const { return blocks * k_degree; }
  friend constexpr bool operator==(const Parameters&, const Parameters&) = default;
};

// Errors: unsupported (vocabulary 0 or above 262,144).
Parameters parameters_of(std::size_t vocabulary);

// D = round(q / t).
constexpr Uint128 scale_of(int plain_bits) { return (k_modulus + (Uint128{1} << (plain_bits - 1))) >> plain_bits; }

constexpr Uint128 product_noise(int plain_bits, std::size_t blocks) {
  return Uint128{k_error_bits} * k_degree * blocks << (plain_bits - 1);
}
constexpr Uint128 zero_noise() { return Uint128{k_error_bits} * (2 * k_degree + 1); }
constexpr Uint128 scale_noise(int plain_bits) { return Uint128{1} << (plain_bits - 2); }
constexpr Uint128 flood_noise() { return Uint128{1} << k_flood_bits; }

// Everything before the switch.
constexpr Uint128 noise_of(int plain_bits, std::size_t blocks) {
  return product_noise(plain_bits, blocks) + zero_noise() + scale_noise(plain_bits) + flood_noise();
}
// The greatest noise before the switch with which an answer is still right: q / (2 t) - (N + 1) q / 2^37, rounded down.
constexpr Uint128 noise_limit(int plain_bits) {
  return (k_modulus >> (plain_bits + 1)) - ((k_degree + 1) * k_modulus >> (k_reply_bits + 1)) - 1;
}
constexpr bool always_right(int plain_bits, std::size_t blocks) {
  return noise_of(plain_bits, blocks) < noise_limit(plain_bits);
}

namespace detail {
constexpr bool all_right() {
  for (int bits = k_least_plain_bits; bits <= k_most_plain_bits; ++bits) {
    if (!always_right(bits, ((std::size_t{1} << bits) + k_degree - 1) / k_degree)) return false;
  }
  return true;
}
// Expectation of the noise that is flooded, its square root rounded up to sqrt(10.5) < 3.25 and to a power of two.
constexpr Uint128 average_noise(int plain_bits, std::size_t blocks) {
  std::size_t root = 1;
  while (root * root < blocks * k_degree) root *= 2;
  return (Uint128{13} * root << (plain_bits - 1)) / 4 + zero_noise() + scale_noise(plain_bits);
}
}  // namespace detail

static_assert(detail::all_right());
static_assert(k_primes[0] % (2 * k_degree) == 1 && k_primes[1] % (2 * k_degree) == 1 && k_modulus >> 106 == 0 &&
              k_modulus >> 105 == 1);
static_assert(k_queries_per_key * detail::average_noise(k_most_plain_bits, k_most_vocabulary / k_degree) <
              (flood_noise() * 2) >> 43);

}  // namespace permllm::he
