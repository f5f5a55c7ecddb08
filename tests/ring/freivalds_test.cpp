#include "ring/freivalds.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "ring/float_matrix.h"

namespace permllm {
namespace {

using Integer = __int128;

std::vector<std::int64_t> integers(std::size_t n, int bits, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int64_t> x(n);
  for (std::int64_t& v : x) v = static_cast<std::int64_t>(random()) >> (64 - bits);
  return x;
}
Words numbers(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Words s(n);
  for (Word& word : s) word = below_check_prime(random());
  return s;
}
// W x over the integers.
std::vector<std::int64_t> product_of(const IntMatrix& w, std::span<const std::int64_t> x) {
  std::vector<std::int64_t> y(w.rows());
  for (std::size_t r = 0; r < w.rows(); ++r) {
    for (std::size_t c = 0; c < w.cols(); ++c) y[r] += w.at(r, c) * x[c];
  }
  return y;
}

TEST(Freivalds, example_a_product_is_told_from_any_other) {
  Executor executor(2);
  const IntMatrix w = IntMatrix::random(70, 40, 12, 1, executor);
  const Words s = numbers(w.rows(), 2);
  const Combination of = combine(s, w, executor);
  const auto x = integers(w.cols(), 20, 3);
  auto y = product_of(w, x);
  const Word right = dot_modulo_prime(of.sum, x, 20);
  EXPECT_EQ(dot_modulo_prime(s, y, 48), right);
  for (std::size_t j = 0; j < y.size(); ++j) {
    for (const std::int64_t by : {1, -1, 1 << 20}) {
      y[j] += by;
      EXPECT_NE(dot_modulo_prime(s, y, 48), right) << j;
      y[j] -= by;
    }
  }
}

// Negative controls: why s is secret, and why products that are checked have 56 bits at most.
TEST(Freivalds, an_error_that_fits_the_secret_or_the_prime_is_not_found) {
  const Words s = numbers(3, 4);
  std::vector<std::int64_t> y{1000, -7, 12345};
  const Word right = dot_modulo_prime(s, y, 64);
  auto other = y;
  other[0] += static_cast<std::int64_t>(s[1]);
  other[1] -= static_cast<std::int64_t>(s[0]);
  EXPECT_EQ(dot_modulo_prime(s, other, 64), right);
  other = y;
  other[2] -= static_cast<std::int64_t>(k_check_prime);
  EXPECT_EQ(dot_modulo_prime(s, other, 64), right);
  other[2] += 1;
  EXPECT_NE(dot_modulo_prime(s, other, 64), right);
}

TEST(Freivalds, residues_are_those_of_long_division) {
  const auto prime = static_cast<Integer>(k_check_prime);
  std::mt19937_64 random(5);
  std::vector<Integer> all{0, 1, -1, prime, -prime, prime - 1, prime + 1, 2 * prime};
  const Integer most = static_cast<Integer>(~(Wide{1} << 127));
  all.insert(all.end(), {most, -most, -most - 1});
  for (int i = 0; i < 1000; ++i) all.push_back(static_cast<Integer>(Wide{random()} << 64 | random()) >> (i % 120));
  for (const Integer x : all) {
    const Integer expected = ((x % prime) + prime) % prime;
    EXPECT_TRUE(residue(x) == static_cast<Word>(expected)) << static_cast<std::int64_t>(x);
  }
  EXPECT_EQ(below_check_prime(~Word{0}), 0u);
  EXPECT_EQ(below_check_prime((Word{7} << 61) + 5), 5u);
}

TEST(Freivalds, sums_of_the_largest_numbers_do_not_wrap) {
  const auto prime = static_cast<Integer>(k_check_prime);
  for (const int bits : {1, 8, 40, 56, 63, 64}) {
    for (const bool negative : {false, true}) {
      const std::size_t n = 20'000;
      const std::int64_t most = negative ? -static_cast<std::int64_t>(Word{1} << (bits - 1))
                                         : static_cast<std::int64_t>((Word{1} << (bits - 1)) - 1);
      const Words a(n, k_check_prime - 1);
      const std::vector<std::int64_t> x(n, most);
      // a is -1 there.
      const Integer expected = ((-static_cast<Integer>(most) * static_cast<Integer>(n)) % prime + prime) % prime;
      EXPECT_EQ(dot_modulo_prime(a, x, bits), static_cast<Word>(expected)) << bits;
    }
  }
}

// Every packing, shifts of rows and columns, more rows than are added up together, columns that fill no band.
TEST(Freivalds, combinations_are_sums_over_all_rows) {
  Executor executor(2);
  for (const int bits : {8, 12}) {
    FloatMatrix real{300, 1100, std::vector<float>(300 * 1100)};
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal(0, 0.02f);
    for (std::size_t r = 0; r < real.rows(); ++r) {
      for (std::size_t c = 0; c < real.cols(); ++c)
        real.values[r * real.cols() + c] = normal(random) * (r % 7 == 0 ? 1.f : 0.05f);
    }
    std::vector<std::uint8_t> shifts(real.cols());
    for (std::size_t c = 0; c < shifts.size(); ++c) shifts[c] = static_cast<std::uint8_t>(c % 3);
    const IntMatrix w(real, {IntMatrix::fraction_bits(0.2f, bits), shifts, 2}, executor, bits);
    Words s = numbers(w.rows(), 8);
    s[0] = k_check_prime - 1;
    const Combination of = combine(s, w, executor);
    double longest = 0;
    for (std::size_t c = 0; c < w.cols(); ++c) {
      Integer sum = 0;
      for (std::size_t r = 0; r < w.rows(); ++r) sum = residue(sum) + static_cast<Integer>(s[r]) * w.at(r, c);
      ASSERT_EQ(of.sum[c], residue(sum)) << bits << " column " << c;
    }
    for (std::size_t r = 0; r < w.rows(); ++r) {
      double square = 0;
      for (std::size_t c = 0; c < w.cols(); ++c) square += static_cast<double>(w.at(r, c)) * w.at(r, c);
      longest = std::max(longest, std::sqrt(square));
    }
    EXPECT_GE(static_cast<double>(of.longest_row), longest);
    EXPECT_LE(static_cast<double>(of.longest_row), longest + 2);
  }
}

TEST(Freivalds, a_product_that_may_wrap_is_said_to) {
  const std::vector<std::int64_t> x{3, -4};
  EXPECT_TRUE(cannot_wrap(25, x, 8));   // 125 < 128
  EXPECT_FALSE(cannot_wrap(26, x, 8));  // 130
  EXPECT_FALSE(cannot_wrap(~std::uint64_t{0}, x, 64));
  EXPECT_TRUE(cannot_wrap(1, {}, 1));
}

}  // namespace
}  // namespace permllm
