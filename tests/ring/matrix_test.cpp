#include "ring/matrix.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "ring/kernels.h"

namespace permllm {
namespace {

Words random_words(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Words words(n);
  for (Word& word : words) word = random();
  return words;
}

template <class T>
void check_ring_product(int bits) {
  Executor executor(2);
  std::uint64_t seed = static_cast<std::uint64_t>(bits);
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{1, 1}, {7, 33}, {130, 576}}) {
    for (const std::size_t n : {1, 3, 8, 33, 64}) {
      RingMatrix v(rows, cols, Ring{bits});
      const Words entries = random_words(rows * cols, ++seed);
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const T word = static_cast<T>(entries[i]);
        std::memcpy(v.bytes().data() + i * sizeof(T), &word, sizeof(T));
      }
      const StreamedMatrix u{rows, cols, Ring{bits}, [&](std::uint64_t offset, std::span<std::uint8_t> out) {
                               std::memcpy(out.data(), v.bytes().data() + offset, out.size());
                             }};
      const Words x = random_words(n * cols, ++seed);
      Words y(n * rows), streamed(n * rows), want(n * rows);
      for (std::size_t b = 0; b < n; ++b) {
        for (std::size_t r = 0; r < rows; ++r) {
          Word sum = 0;
          for (std::size_t c = 0; c < cols; ++c) sum += entries[r * cols + c] * x[b * cols + c];
          want[b * rows + r] = sum & Ring{bits}.mask();
        }
      }
      product(v, x, y, executor);
      product(u, x, streamed, executor);
      ASSERT_EQ(y, want) << bits << " bits, " << rows << " x " << cols << ", " << n;
      ASSERT_EQ(streamed, want);
    }
  }
}

TEST(RingProduct, agrees_with_the_definition_in_two_byte_words) { check_ring_product<std::uint16_t>(16); }
TEST(RingProduct, agrees_with_the_definition_in_four_byte_words) {
  check_ring_product<std::uint32_t>(32);
  check_ring_product<std::uint32_t>(24);
}
TEST(RingProduct, agrees_with_the_definition_in_eight_byte_words) {
  check_ring_product<std::uint64_t>(64);
  check_ring_product<std::uint64_t>(43);
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

TEST(Kernels, equal_their_scalar_twins) {
  std::mt19937_64 random(3);
  alignas(64) std::uint64_t x[2 * 5 * 8], u[3 * 5];
  for (auto& v : x) v = random();
  for (auto& v : u) v = random();
  for (const std::size_t container : {2, 4, 8}) {
    const std::size_t groups = 2, lanes = 64 / container;
    Words y(3 * groups * lanes), z(y.size());
    kernels::ring_rows(u, container, 3, 5, x, groups, y.data());
    kernels::scalar::ring_rows(u, container, 3, 5, x, groups, z.data());
    EXPECT_EQ(y, z) << container;
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

}  // namespace
}  // namespace permllm
