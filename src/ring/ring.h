// Words, rings and fixed point (docs/protocol.md 2).
//
// A value x is the integer round(x 2^frac) in a ring 2^bits. It is kept in a 64-bit word of which only the low
// `bits` bits count; wrap-around is the arithmetic. What is sent is reduced to its ring.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "permllm/error.h"

namespace permllm {

using Word = std::uint64_t;
using Words = std::vector<Word>;
// Words of the few rings that 64 bits do not hold: p.v where the residual's ring is wide (docs/protocol.md 2.6).
using Wide = unsigned __int128;

// The integers modulo 2^bits; 1 <= bits <= 64, or up to 128 in words of the type Wide.
struct Ring {
  int bits = 64;
  constexpr std::size_t bytes() const { return static_cast<std::size_t>(bits + 7) / 8; }  // on the wire, a word
  template <class W = Word>
  constexpr W mask() const {
    constexpr int k_bits = static_cast<int>(8 * sizeof(W));
    return bits >= k_bits ? static_cast<W>(~W{0}) : static_cast<W>((W{1} << bits) - 1);
  }
  friend constexpr bool operator==(Ring, Ring) = default;
};

// A ring and the number of fraction bits of the values in it.
struct Format {
  Ring ring;
  int frac = 0;
  friend constexpr bool operator==(Format, Format) = default;
};

// How a masked value is shown: its low `drop` bits are rounded away at both parties, then `keep` bits are sent.
// drop + keep <= bits: with more, a word is wrong once in 2^(bits - its length).
struct Reveal {
  int drop = 0;
  int keep = 64;
  constexpr Ring sent() const { return Ring{keep}; }
};

// Half a unit of what a cut leaves.
constexpr Word half_unit(int drop) { return (Word{1} << drop) >> 1; }
// One party's half of `cut`: an arithmetic right shift of its share of a value in `ring`, rounded to the nearest. The two results are a sharing
// in the ring 2^(bits - drop) of a value within a unit of the exact one, which it is in the mean. Only those low bits may ever be sent.
constexpr Word cut(Word share, int drop) {
  return static_cast<Word>(static_cast<std::int64_t>(share + half_unit(drop)) >> drop);
}
constexpr Word cut(Wide share, int drop) {
  return static_cast<Word>(static_cast<__int128>(share + half_unit(drop)) >> drop);
}

// The element of the ring as the integer of least magnitude.
constexpr std::int64_t centre(Word x, Ring ring) {
  const int unused = 64 - ring.bits;
  return static_cast<std::int64_t>(x << unused) >> unused;
}

// 2^exponent, for exponents of normal numbers.
constexpr double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(1023 + exponent) << 52);
}

inline double decode(Word x, Format format) {
  return static_cast<double>(centre(x, format.ring)) * power_of_two(-format.frac);
}

// round(x 2^frac), clamped to the ring's range: no value, however large or not a number, changes what is sent but its
// own word. The limit is half - 1 in small rings, where rounding would pass a limit nearer to half, and somewhat less
// in large ones, where half - 1 is not a double.
inline Word encode(double x, Format format) {
  const double half = power_of_two(format.ring.bits - 1);
  const double limit = std::min(half - 1, half * 0.999999);
  const double scaled = x * power_of_two(format.frac);
  const double bounded = scaled > limit ? limit : scaled >= -limit ? scaled : -limit;
  return static_cast<Word>(static_cast<std::int64_t>(std::llrint(bounded)));
}

// Dot product modulo 2^64; the caller reduces. With the other loops over words, in ring/elementwise.cpp.
Word dot(const Word* a, const Word* b, std::size_t n);

}  // namespace permllm
