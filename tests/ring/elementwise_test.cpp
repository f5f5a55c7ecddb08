#include "ring/elementwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "ring/pack.h"

namespace permllm {
namespace {

// Run under several values of PERMLLM_SIMD, this compares every target with the definitions below.
Words random_words(std::size_t n, std::mt19937_64& random) {
  Words words(n);
  for (Word& word : words) word = random();
  return words;
}
std::vector<std::uint32_t> random_order(std::size_t n, std::mt19937_64& random) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::shuffle(order, random);
  return order;
}
Words random_signs(std::size_t n, std::mt19937_64& random) {
  Words signs(n);
  for (Word& sign : signs) sign = random() % 2 == 0 ? Word{1} : ~Word{0};
  return signs;
}
// Every length to 200, then large and odd ones.
std::vector<std::size_t> lengths() {
  std::vector<std::size_t> all(201);
  std::iota(all.begin(), all.end(), std::size_t{0});
  all.insert(all.end(), {1023, 4096, 16384, 130528 + 3});
  return all;
}

TEST(Elementwise, example) {
  const Words y0{10, 20, 30}, s0{0, 0, 4}, s1{2, 0, 0};
  const std::vector<std::uint32_t> order{2, 0, 1};
  const Words sign{1, ~Word{0}, 1};
  Words a(3);
  permute_cut(y0, s0, order, sign.data(), 8, 1, a);
  EXPECT_EQ(a, (Words{19, 9, ~Word{3}}));  // half of 30 + 8, 10 + 8, -20 + 8 + 4
  std::vector<std::int64_t> shown(3);
  open(a, s1, 1, Ring{8}, shown);
  EXPECT_EQ(shown, (std::vector<std::int64_t>{20, 9, -4}));
  Words y(3);
  unpermute_add(Words{1, 2, 3}, order, sign.data(), Words{100, 100, 100}, y);
  EXPECT_EQ(y, (Words{102, 97, 101}));
}

TEST(Elementwise, sums_and_differences) {
  std::mt19937_64 random(1);
  for (const std::size_t n : lengths()) {
    const Words a = random_words(n, random), b = random_words(n, random);
    Words sum = a, difference = a;
    add(sum, b);
    subtract(difference, b);
    for (std::size_t j = 0; j < n; ++j) {
      ASSERT_EQ(sum[j], a[j] + b[j]);
      ASSERT_EQ(difference[j], a[j] - b[j]);
    }
  }
}

TEST(Elementwise, permute_cut_agrees_with_the_definition) {
  std::mt19937_64 random(2);
  for (const std::size_t n : lengths()) {
    const Words y = random_words(n, random), s0 = random_words(n, random), signs = random_signs(n, random);
    const auto order = random_order(n, random);
    const Word level = random();
    for (const Word* sign : {static_cast<const Word*>(nullptr), signs.data()}) {
      const int drop = static_cast<int>(random() % 64);
      Words out(n), twin(n), in_place = s0;
      permute_cut(y, s0, order, sign, level, drop, out);
      scalar::permute_cut(y, s0, order, sign, level, drop, twin);
      permute_cut(y, in_place, order, sign, level, drop, in_place);
      for (std::size_t j = 0; j < n; ++j) {
        const Word g = sign == nullptr ? Word{1} : sign[order[j]];
        ASSERT_EQ(out[j], cut(y[order[j]] * g + level + s0[j], drop)) << n << " words, drop " << drop;
      }
      ASSERT_EQ(out, twin);
      ASSERT_EQ(out, in_place);
    }
  }
}

TEST(Elementwise, open_agrees_with_the_definition_in_every_ring) {
  std::mt19937_64 random(3);
  for (const std::size_t n : lengths()) {
    const Words a = random_words(n, random), s1 = random_words(n, random);
    for (int bits = 1 + static_cast<int>(n % 3); bits <= 64; bits += n > 200 ? 21 : 1) {
      const int drop = static_cast<int>(random() % 64);
      std::vector<std::int64_t> shown(n), twin(n);
      open(a, s1, drop, Ring{bits}, shown);
      scalar::open(a, s1, drop, Ring{bits}, twin);
      for (std::size_t j = 0; j < n; ++j) ASSERT_EQ(shown[j], centre(a[j] + cut(s1[j], drop), Ring{bits}));
      ASSERT_EQ(shown, twin);
    }
  }
}

TEST(Elementwise, unpermute_add_agrees_with_the_definition) {
  std::mt19937_64 random(4);
  for (const std::size_t n : lengths()) {
    const Words b = random_words(n, random), w = random_words(n, random), signs = random_signs(n, random);
    const auto order = random_order(n, random);
    for (const Word* sign : {static_cast<const Word*>(nullptr), signs.data()}) {
      Words y(n), twin(n);
      unpermute_add(b, order, sign, w, y);
      scalar::unpermute_add(b, order, sign, w, twin);
      for (std::size_t j = 0; j < n; ++j) {
        const Word g = sign == nullptr ? Word{1} : sign[order[j]];
        ASSERT_EQ(y[order[j]], b[j] * g + w[order[j]]);
      }
      ASSERT_EQ(y, twin);
    }
  }
}

TEST(Elementwise, dot_agrees_with_the_definition) {
  std::mt19937_64 random(5);
  for (const std::size_t n : lengths()) {
    const Words a = random_words(n, random), b = random_words(n, random);
    Word sum = 0;
    for (std::size_t j = 0; j < n; ++j) sum += a[j] * b[j];
    ASSERT_EQ(dot(a.data(), b.data(), n), sum) << n;
    ASSERT_EQ(scalar::dot(a.data(), b.data(), n), sum) << n;
  }
}

TEST(Elementwise, dots_add_products_of_rows) {
  std::mt19937_64 random(6);
  for (const std::size_t dim : {0, 1, 7, 8, 31, 64, 80, 96, 128, 131}) {
    for (const std::size_t n : {0, 1, 2, 3, 4, 5, 8, 17, 100}) {
      const std::size_t stride = dim + random() % 70;
      const Words q = random_words(dim, random), keys = random_words(n * stride, random);
      const Words before = random_words(n, random);
      Words out = before, twin = before;
      dots(q.data(), keys.data(), stride, n, dim, out.data());
      scalar::dots(q.data(), keys.data(), stride, n, dim, twin.data());
      for (std::size_t j = 0; j < n; ++j) {
        Word sum = before[j];
        for (std::size_t d = 0; d < dim; ++d) sum += q[d] * keys[j * stride + d];
        ASSERT_EQ(out[j], sum) << dim << " x " << n;
      }
      ASSERT_EQ(out, twin);
    }
  }
}

TEST(Elementwise, mix_rows_adds_weighted_rows) {
  std::mt19937_64 random(7);
  for (const std::size_t dim : {0, 1, 7, 8, 31, 64, 80, 96, 128, 131}) {
    for (const std::size_t n : {0, 1, 2, 3, 4, 5, 8, 17, 100}) {
      const std::size_t stride = dim + random() % 70;
      const Words weights = random_words(n, random), values = random_words(n * stride, random);
      const Words before = random_words(dim, random);
      Words out = before, twin = before;
      mix_rows(weights.data(), values.data(), stride, n, dim, out.data());
      scalar::mix_rows(weights.data(), values.data(), stride, n, dim, twin.data());
      for (std::size_t d = 0; d < dim; ++d) {
        Word sum = before[d];
        for (std::size_t j = 0; j < n; ++j) sum += weights[j] * values[j * stride + d];
        ASSERT_EQ(out[d], sum) << dim << " x " << n;
      }
      ASSERT_EQ(out, twin);
    }
  }
}

TEST(Pack, writes_and_reads_little_endian_bytes_and_nothing_else) {
  std::mt19937_64 random(8);
  for (const std::size_t n : lengths()) {
    for (int bits = 1 + static_cast<int>(n % 2); bits <= 64; bits += n > 200 ? 7 : 1) {
      const Ring ring{bits};
      const Words words = random_words(n, random);
      std::vector<std::uint8_t> bytes(n * ring.bytes() + 1, 0xA5);
      pack(words, ring, bytes.data());
      ASSERT_EQ(bytes.back(), 0xA5) << n << " words of " << bits;
      bytes.pop_back();
      Words back(n), exact(n);
      for (std::size_t j = 0; j < n; ++j) {
        exact[j] = words[j] & ring.mask();
        for (std::size_t k = 0; k < ring.bytes(); ++k) {
          ASSERT_EQ(bytes[j * ring.bytes() + k], static_cast<std::uint8_t>(exact[j] >> (8 * k))) << n << " of " << bits;
        }
      }
      bytes.shrink_to_fit();
      unpack(bytes.data(), ring, back);
      ASSERT_EQ(back, exact) << n << " words of " << bits;
      // Bits that the ring does not have do not come in.
      std::ranges::fill(bytes, std::uint8_t{0xFF});
      unpack(bytes.data(), ring, back);
      ASSERT_EQ(back, Words(n, ring.mask())) << n << " words of " << bits;
    }
  }
}

}  // namespace
}  // namespace permllm
