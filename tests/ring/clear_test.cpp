#include "ring/clear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace permllm {
namespace {

// Run under several values of PERMLLM_SIMD, this compares every target with the definitions below.
using Integers = std::vector<std::int64_t>;

// The definitions, in more bits than a double has.
long double silu_of(long double x) { return x / (1 + std::exp(-x)); }
long double gelu_of(long double x) {
  return x / (1 + std::exp(-2 * std::sqrt(2 / 3.14159265358979323846264338327950288L) * (x + 0.044715L * x * x * x)));
}

// Within one unit, or a few units in the last place of a double where those are larger.
void expect_encodes(Word word, long double exact, Format out) {
  const long double half = std::ldexp(1.0L, out.ring.bits - 1);
  const long double limit = std::min(half - 1, half * 0.999999L);
  const long double scaled = std::clamp(std::ldexp(exact, out.frac), -limit, limit);
  const auto got = static_cast<long double>(centre(word, out.ring));
  EXPECT_LE(std::abs(got - scaled), 1 + std::abs(scaled) * 0x1p-49L)
      << "frac " << out.frac << ", " << out.ring.bits << " bits: " << static_cast<double>(exact);
}

// Magnitudes from nothing to 2^largest, and the extremes.
Integers wide(std::size_t n, int largest, std::mt19937_64& random) {
  Integers values(n);
  for (std::int64_t& v : values) {
    const std::uint64_t bits = random() >> (63 - random() % static_cast<unsigned>(largest));
    v = static_cast<std::int64_t>(bits) * (random() % 2 == 0 ? 1 : -1);
  }
  if (n > 5) {
    values[0] = std::int64_t{1} << largest;
    values[1] = -values[0];
    values[2] = 0;
    values[3] = 1;
    values[4] = -1;
  }
  return values;
}

const Format k_formats[] = {{Ring{24}, 10}, {Ring{32}, 12}, {Ring{43}, 14}, {Ring{48}, 16}, {Ring{64}, 18}};

TEST(Clear, example) {
  const Format out{Ring{32}, 12};
  Words words(3);
  clear::softmax(Integers{100, 101, 100}, std::log(2.0), Ring{32}, out, words);
  EXPECT_EQ(words, (Words{1024, 2048, 1024}));
  clear::scale(Integers{-3, 0, 5}, 0, 0.5, out, words);
  EXPECT_EQ(decode(words[0], out), -1.5);
  EXPECT_EQ(clear::sum_of_squares(Integers{3, 4}, 0.5), 6.25);
}

TEST(Clear, scale_is_encode_to_the_bit) {
  std::mt19937_64 random(1);
  for (const Format out : k_formats) {
    for (std::size_t n = 0; n < 70; ++n) {
      const Integers row = wide(n, 51, random);
      for (const double factor : {1.0, 0x1p-20, 0.3, 1e9, 1e-9, std::nan(""), 1e300}) {
        Words words(n), twin(n);
        clear::scale(row, 1.25, factor, out, words);
        clear::scalar::scale(row, 1.25, factor, out, twin);
        ASSERT_EQ(words, twin);
        for (std::size_t j = 0; j < n; ++j)
          ASSERT_EQ(words[j], encode((static_cast<double>(row[j]) - 1.25) * factor, out));
      }
    }
  }
}

TEST(Clear, halves_round_to_even_and_the_largest_integers_are_exact) {
  const std::int64_t large = (std::int64_t{1} << 52) - 1;
  const Integers row{1, 3, 5, -1, -3, -5, large, -large};
  Words words(row.size());
  clear::scale(row, 0, 0.5, {Ring{64}, 0}, words);
  for (std::size_t j = 0; j < row.size(); ++j) {
    EXPECT_EQ(words[j], static_cast<Word>(std::llrint(static_cast<double>(row[j]) * 0.5)));
  }
}

TEST(Clear, sum_of_squares_agrees_for_every_length) {
  std::mt19937_64 random(2);
  for (std::size_t n = 0; n < 300; ++n) {
    const Integers row = wide(n, 40, random);
    long double exact = 0;
    for (const std::int64_t v : row) exact += std::pow(static_cast<long double>(v) * 0x1p-12L, 2.0L);
    EXPECT_NEAR(clear::sum_of_squares(row, 0x1p-12), static_cast<double>(exact), static_cast<double>(exact) * 1e-13);
    EXPECT_NEAR(clear::scalar::sum_of_squares(row, 0x1p-12), static_cast<double>(exact),
                static_cast<double>(exact) * 1e-13);
  }
}

TEST(Clear, products_and_gelu_agree_with_the_definitions) {
  std::mt19937_64 random(3);
  for (const Format out : k_formats) {
    for (const int largest : {10, 16, 24, 40}) {
      for (const std::size_t n : {0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33, 200, 1027}) {
        const double unit = 0x1p-10;
        const Integers gate = wide(n, largest, random), up = wide(n, largest, random);
        Words silus(n), gelus(n), plain(n);
        clear::silu_product(gate, up, unit, out, silus);
        clear::gelu_product(gate, up, unit, out, gelus);
        clear::gelu(gate, unit, out, plain);
        for (std::size_t j = 0; j < n; ++j) {
          const long double g = static_cast<long double>(gate[j]) * unit, u = static_cast<long double>(up[j]) * unit;
          expect_encodes(silus[j], silu_of(g) * u, out);
          expect_encodes(gelus[j], gelu_of(g) * u, out);
          expect_encodes(plain[j], gelu_of(g), out);
        }
        if (HasFailure()) return;
      }
    }
  }
}

TEST(Clear, real_numbers_give_what_integers_give) {
  std::mt19937_64 random(4);
  const Format out{Ring{48}, 18};
  for (std::size_t n = 0; n < 60; ++n) {
    const Integers gate = wide(n, 24, random), up = wide(n, 24, random);
    const std::vector<double> g(gate.begin(), gate.end()), u(up.begin(), up.end());
    Words from_integers(n), from_reals(n), twin(n);
    for (const double unit : {0x1p-10, 0.37e-3}) {
      clear::silu_product(gate, up, unit, out, from_integers);
      clear::silu_product(g, u, unit, out, from_reals);
      EXPECT_EQ(from_integers, from_reals);
      clear::gelu_product(gate, up, unit, out, from_integers);
      clear::gelu_product(g, u, unit, out, from_reals);
      EXPECT_EQ(from_integers, from_reals);
      clear::gelu(gate, unit, out, from_integers);
      clear::gelu(g, unit, out, from_reals);
      EXPECT_EQ(from_integers, from_reals);
      clear::scalar::gelu(g, unit, out, twin);
      for (std::size_t j = 0; j < n; ++j) EXPECT_LE(std::abs(centre(twin[j] - from_reals[j], out.ring)), 1);
    }
  }
}

TEST(Clear, not_a_number_never_escapes) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> gate{nan, infinity, -infinity, 1, 1, 1e300, -1e300, 0, nan};
  const std::vector<double> up{1, 1, 1, nan, infinity, 1e300, 1e300, infinity, nan};
  for (const Format out : k_formats) {
    const double half = std::ldexp(1.0, out.ring.bits - 1);
    const auto bounded = [&](const Words& words) {
      for (const Word word : words) EXPECT_LT(std::abs(static_cast<double>(static_cast<std::int64_t>(word))), half);
    };
    Words words(gate.size());
    clear::silu_product(gate, up, 1.0, out, words);
    bounded(words);
    clear::gelu_product(gate, up, 1.0, out, words);
    bounded(words);
    clear::gelu(gate, 1.0, out, words);
    bounded(words);
  }
}

void check_softmax(const Integers& scores, double unit, Ring shown, Format out) {
  Words words(scores.size()), twin(scores.size());
  clear::softmax(scores, unit, shown, out, words);
  clear::scalar::softmax(scores, unit, shown, out, twin);
  std::vector<long double> weights;
  for (const std::int64_t v : scores) {
    weights.push_back(static_cast<long double>(centre(static_cast<Word>(v) - static_cast<Word>(scores[0]), shown)) *
                      static_cast<long double>(unit));
  }
  const long double greatest = *std::ranges::max_element(weights);
  long double sum = 0;
  for (long double& w : weights) sum += w = std::exp(w - greatest);
  for (std::size_t j = 0; j < scores.size(); ++j) {
    expect_encodes(words[j], weights[j] / sum, out);
    EXPECT_LE(std::abs(centre(words[j] - twin[j], out.ring)), 1);
  }
}

TEST(Clear, softmax_agrees_with_the_definition) {
  std::mt19937_64 random(5);
  for (const Format out : k_formats) {
    for (const int bits : {16, 24, 32, 40, 48}) {
      const Ring shown{bits};
      for (const std::size_t n : {1, 2, 3, 7, 8, 9, 16, 31, 100, 200, 1027}) {
        for (const double unit : {1.0, 0x1p-8 / 8, 0x1p-12, 0x1p-20}) {
          Integers scores(n);  // anywhere in a window that lies anywhere in the ring, so that some rows wrap
          const Word level = random(), window = Ring{bits - 2}.mask() >> (random() % 12);
          for (std::int64_t& v : scores) v = centre(level + (random() & window), shown);
          check_softmax(scores, unit, shown, out);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST(Clear, softmax_of_one_of_equal_and_of_none) {
  for (const Format out : k_formats) {
    Words one(1), equal(64), none;
    clear::softmax(Integers{-7}, 0x1p-8, Ring{24}, out, one);
    EXPECT_EQ(one[0], encode(1.0, out));
    clear::softmax(Integers(64, 123456), 0x1p-8, Ring{24}, out, equal);
    EXPECT_EQ(equal, Words(64, encode(1.0 / 64, out)));
    clear::softmax(Integers{}, 0x1p-8, Ring{24}, out, none);
  }
  std::vector<double> nothing;
  clear::softmax(nothing);
}

TEST(Clear, softmax_of_real_numbers) {
  std::mt19937_64 random(6);
  std::normal_distribution<double> normal(-400, 30);
  for (std::size_t n = 1; n < 200; ++n) {
    std::vector<double> row(n);
    for (double& x : row) x = normal(random);
    std::vector<double> twin = row, exact = row;
    clear::softmax(row);
    clear::scalar::softmax(twin);
    const double greatest = *std::ranges::max_element(exact);
    double sum = 0;
    for (double& x : exact) sum += x = std::exp(x - greatest);
    for (std::size_t j = 0; j < n; ++j) {
      EXPECT_NEAR(row[j], exact[j] / sum, 1e-14);
      EXPECT_NEAR(twin[j], exact[j] / sum, 1e-14);
    }
  }
}

}  // namespace
}  // namespace permllm
