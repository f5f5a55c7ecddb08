#include "ring/float_matrix.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "ring/pack.h"

namespace permllm {
namespace {

Words random_words(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Words words(n);
  for (Word& word : words) word = random();
  return words;
}

TEST(FloatProduct, agrees_with_doubles) {
  Executor executor(2);
  for (const std::size_t n : {1, 3, 4, 9}) {
    const std::size_t rows = 37, cols = 301;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto value = [&] { return normal(random); };
    FloatMatrix w{rows, cols, std::vector<float>(rows * cols)};
    for (float& v : w.values) v = value();
    std::vector<float> x(n * cols), y(n * rows);
    for (float& v : x) v = value();
    product(w, x, y, executor);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t r = 0; r < rows; ++r) {
        double real = 0;
        for (std::size_t c = 0; c < cols; ++c) {
          real += static_cast<double>(w.values[r * cols + c]) * static_cast<double>(x[i * cols + c]);
        }
        ASSERT_NEAR(y[i * rows + r], real, 1e-3);
      }
    }
  }
}

TEST(FloatRow, agrees_with_its_scalar_twin) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> w(101), x(4 * 101);
  for (float& v : w) v = normal(random);
  for (float& v : x) v = normal(random);
  float y[4], z[4];
  kernels::float_row(w.data(), x.data(), 101, 101, y);
  kernels::scalar::float_row(w.data(), x.data(), 101, 101, z);
  for (int k = 0; k < 4; ++k) EXPECT_NEAR(y[k], z[k], 1e-4);
}

TEST(Pack, keeps_every_word_of_every_width_and_touches_nothing_else) {
  for (int bits = 1; bits <= 64; ++bits) {
    for (const std::size_t n : {0, 1, 7, 8, 9, 40}) {
      const Ring ring{bits};
      const Words words = random_words(n, static_cast<std::uint64_t>(bits));
      std::vector<std::uint8_t> bytes(n * ring.bytes() + 1, 0xee);
      pack(std::span<const Word>(words), ring, bytes.data());
      EXPECT_EQ(bytes.back(), 0xee);
      bytes.pop_back();
      bytes.shrink_to_fit();
      Words back(n);
      unpack(bytes.data(), ring, std::span<Word>(back));
      for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(back[i], words[i] & ring.mask());
    }
  }
}

}  // namespace
}  // namespace permllm
