#include "ring/matrix.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "ring/kernels.h"

namespace permllm {
namespace {

IntMatrix random_int_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed, Executor& executor, bool extreme = false) {
  FloatMatrix real{rows, cols, std::vector<float>(rows * cols)};
  std::mt19937_64 random(seed);
  for (float& v : real.values) v = extreme ? (random() % 2 ? 2047.f : -2047.f) : static_cast<float>(static_cast<int>(random() % 4095) - 2047);
  return IntMatrix(real, 0, executor);
}

Words random_words(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Words words(n);
  for (Word& word : words) word = random();
  return words;
}

// The product by the definition.
Words expected(const IntMatrix& w, Ring ring, const Words& x) {
  const std::size_t n = x.size() / w.cols();
  Words y(n * w.rows());
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t r = 0; r < w.rows(); ++r) {
      Word sum = 0;
      for (std::size_t c = 0; c < w.cols(); ++c) sum += static_cast<Word>(std::int64_t{w.at(r, c)}) * x[i * w.cols() + c];
      y[i * w.rows() + r] = sum & ring.mask();
    }
  }
  return y;
}

TEST(IntProduct, agrees_with_the_definition_for_every_ring_and_odd_shapes) {
  Executor executor(2);
  std::uint64_t seed = 1;
  for (const int bits : {1, 16, 17, 32, 42, 43, 48, 56, 64}) {
    for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{1, 1}, {15, 3}, {17, 64}, {48, 577}, {33, 1536}}) {
      for (const std::size_t n : {1, 2, 5}) {
        const IntMatrix w = random_int_matrix(rows, cols, ++seed, executor);
        const Words x = random_words(n * cols, ++seed);
        Words y(n * rows);
        product(w, Ring{bits}, x, y, executor);
        ASSERT_EQ(y, expected(w, Ring{bits}, x)) << bits << " bits, " << rows << " x " << cols << ", " << n;
      }
    }
  }
}

TEST(IntProduct, does_not_overflow_at_the_largest_weights_and_limbs) {
  Executor executor(1);
  for (const bool mixed : {false, true}) {
    FloatMatrix extreme{16, 4096, std::vector<float>(std::size_t{16} * 4096, -2047.f)};
    for (std::size_t r = 1; mixed && r < 16; r += 2) std::fill_n(&extreme.values[r * 4096], 4096, 2047.f);
    const IntMatrix w(extreme, 0, executor);
    for (const int bits : {16, 32, 48, 64}) {
      // Every limb is -2^15 after recoding, or as near as carries allow.
      const Words x(4096, 0x7fff7fff7fff8000u);
      Words y(16);
      product(w, Ring{bits}, x, y, executor);
      EXPECT_EQ(y, expected(w, Ring{bits}, x)) << bits;
    }
  }
}

TEST(FloatProduct, agrees_with_doubles_for_real_and_integer_weights) {
  Executor executor(2);
  for (const std::size_t n : {1, 3, 4, 9}) {
    const std::size_t rows = 37, cols = 301;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto value = [&] { return normal(random); };
    FloatMatrix w{rows, cols, std::vector<float>(rows * cols)};
    for (float& v : w.values) v = value();
    const IntMatrix rounded(w, 8, executor);
    for (std::size_t c = 0; c < cols; ++c) ASSERT_EQ(rounded.at(5, c), std::lrint(w.values[5 * cols + c] * 256));
    std::vector<float> x(n * cols), y(n * rows), z(n * rows);
    for (float& v : x) v = value();
    product(w, x, y, executor);
    product(rounded, x, z, executor);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t r = 0; r < rows; ++r) {
        double real = 0, integer = 0;
        for (std::size_t c = 0; c < cols; ++c) {
          real += static_cast<double>(w.values[r * cols + c]) * static_cast<double>(x[i * cols + c]);
          integer += rounded.at(r, c) / 256.0 * static_cast<double>(x[i * cols + c]);
        }
        ASSERT_NEAR(y[i * rows + r], real, 1e-3);
        ASSERT_NEAR(z[i * rows + r], integer, 1e-3);
      }
    }
  }
}

TEST(Kernels, equal_their_scalar_twins) {
  std::mt19937_64 random(3);
  constexpr std::size_t k_pairs = 77;
  alignas(64) std::int16_t tiles[k_pairs * 32], limbs[k_pairs * 8];
  for (auto& v : tiles) v = static_cast<std::int16_t>(static_cast<int>(random() % 4095) - 2047);
  for (auto& v : limbs) v = static_cast<std::int16_t>(random());
  for (const int bits : {16, 32, 48, 64}) {
    Word y[16], z[16];
    kernels::int_block(tiles, k_pairs, limbs, Ring{bits}, y);
    kernels::scalar::int_block(tiles, k_pairs, limbs, Ring{bits}, z);
    for (int r = 0; r < 16; ++r) EXPECT_EQ(y[r] & Ring{bits}.mask(), z[r] & Ring{bits}.mask()) << bits;
  }
}

TEST(Pack, keeps_every_word_of_every_width_and_touches_nothing_else) {
  for (int bits = 1; bits <= 64; ++bits) {
    for (const std::size_t n : {0, 1, 7, 8, 9, 40}) {
      const Ring ring{bits};
      const Words words = random_words(n, static_cast<std::uint64_t>(bits));
      std::vector<std::uint8_t> bytes(n * ring.bytes() + 1, 0xee);
      pack(words, ring, bytes.data());
      EXPECT_EQ(bytes.back(), 0xee);
      bytes.pop_back();
      bytes.shrink_to_fit();
      Words back(n);
      unpack(bytes.data(), ring, back);
      for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(back[i], words[i] & ring.mask());
    }
  }
}

TEST(IntMatrix, fraction_bits_fill_eleven_bits_and_no_more) {
  for (const float largest : {1e-3f, 0.1f, 0.9999f, 1.0f, 3.7f, 2047.f}) {
    const int frac = IntMatrix::fraction_bits(largest);
    EXPECT_LE(std::nearbyint(std::ldexp(largest, frac)), 2047.f);
    EXPECT_GT(std::ldexp(largest, frac + 1), 2047.f);
  }
}

}  // namespace
}  // namespace permllm
