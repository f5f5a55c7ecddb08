#include "ring/ring.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace permllm {
namespace {

TEST(RingTest, example) {
  const Format format{.ring = Ring{32}, .frac = 10};
  const Word a = encode(1.5, format), b = encode(-2.25, format);
  EXPECT_EQ(decode(a + b, format), -0.75);  // words are added as they are; decode reduces
}

TEST(RingTest, ring_sizes_and_masks) {
  EXPECT_EQ(Ring{1}.bytes(), 1U);
  EXPECT_EQ(Ring{8}.bytes(), 1U);
  EXPECT_EQ(Ring{9}.bytes(), 2U);
  EXPECT_EQ(Ring{64}.bytes(), 8U);
  EXPECT_EQ(Ring{1}.mask(), 1U);
  EXPECT_EQ(Ring{63}.mask(), ~Word{0} >> 1);
  EXPECT_EQ(Ring{64}.mask(), ~Word{0});
}

TEST(RingTest, centre_takes_the_integer_of_least_magnitude) {
  for (int bits : {1, 2, 16, 32, 48, 63, 64}) {
    const Ring ring{bits};
    const Word half = Word{1} << (bits - 1);
    EXPECT_EQ(centre(0, ring), 0);
    EXPECT_EQ(centre(ring.mask(), ring), -1);
    EXPECT_EQ(centre(half - 1, ring), static_cast<std::int64_t>(half - 1));
    EXPECT_EQ(centre(half, ring), -static_cast<std::int64_t>(half - 1) - 1);
    if (bits < 64) {
      EXPECT_EQ(centre((ring.mask() + 1) * 5 + 1, ring), bits == 1 ? -1 : 1);  // upper bits do not count
    }
  }
}

TEST(RingTest, encode_rounds_to_the_nearest_and_decode_returns_it) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> value(-1000, 1000);
  for (int i = 0; i < 10000; ++i) {
    const Format format{.ring = Ring{32 + i % 33}, .frac = i % 20};
    const double x = value(random);
    EXPECT_LE(std::abs(decode(encode(x, format), format) - x), std::ldexp(0.5, -format.frac));
  }
  EXPECT_EQ(encode(-1.0, {.ring = Ring{64}, .frac = 0}), ~Word{0});
}

TEST(RingTest, encode_clamps_what_the_ring_cannot_hold) {
  for (int bits = 2; bits <= 64; ++bits) {
    const Format format{.ring = Ring{bits}, .frac = 3};
    EXPECT_LT(decode(encode(std::nan(""), format), format), 0);  // a word like any other
    for (double x : {1e300, std::ldexp(1.0, bits), std::numeric_limits<double>::infinity()}) {
      EXPECT_GT(decode(encode(x, format), format), 0) << bits;
      EXPECT_LT(decode(encode(-x, format), format), 0) << bits;
    }
  }
}

void check_cut(Word value, int bits, int drop, Word share) {
  const Word sum = cut(value - share, drop) + cut(share, drop);
  const Word mask = Ring{bits - drop}.mask();
  const auto floor = static_cast<Word>(static_cast<std::int64_t>(value) >> drop);
  EXPECT_TRUE((sum & mask) == (floor & mask) || (sum & mask) == ((floor + 1) & mask));
}

TEST(RingTest, shares_cut_apart_sum_to_the_floor_or_one_unit_above) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100000; ++i) {
    const int bits = 2 + static_cast<int>(random() % 63);
    const int drop = 1 + static_cast<int>(random() % static_cast<unsigned>(bits - 1));
    check_cut(random(), bits, drop, random());
  }
}

// Over all low bits of a share, the one above comes as often as its distance says: nothing is lost in the mean but 2^-drop of a unit.
template <class W>
std::int64_t sum_over_shares(std::int64_t value, int drop) {
  std::int64_t sum = 0;
  for (W low = 0; low < W{1} << drop; ++low) {
    const W share = (W{12345} << (8 * sizeof(W) - 20)) + low, other = static_cast<W>(value) - share;
    sum += centre(cut(other, drop) + cut(share, drop), Ring{64 - drop});
  }
  return sum;
}
TEST(RingTest, a_cut_is_exact_in_the_mean) {
  for (const int drop : {1, 4, 7}) {
    for (std::int64_t value = -300; value <= 300; ++value) {
      EXPECT_EQ(sum_over_shares<Word>(value, drop), value + 1) << drop << " bits of " << value;
      EXPECT_EQ(sum_over_shares<Wide>(value, drop), value + 1) << drop << " bits of " << value;
    }
  }
  EXPECT_EQ(cut(Word{5}, 0), 5u);  // nothing to round
}

TEST(RingTest, dot_wraps) {
  const Words a{~Word{0}, Word{1} << 63, 3}, b{2, 2, 5};
  EXPECT_EQ(dot(a.data(), b.data(), 3), Word{13});
  EXPECT_EQ(dot(a.data(), b.data(), 0), Word{0});
}

}  // namespace
}  // namespace permllm
