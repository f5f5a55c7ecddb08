// Sums of rows in wide words, against arithmetic of 128 bits.
#include "ring/mix_wide.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace permllm {
namespace {

using std::size_t;

// Words of the ring that is kept, and whatever above it.
Wide random_wide(std::mt19937_64& random) { return Wide{random()} << 64 | random(); }

// Modulo 2^104.
Wide kept(Wide word) { return word << 24 >> 24; }

template <class V>
void expect_sums(const std::vector<Wide>& weights, const std::vector<V>& values, size_t stride, size_t dim) {
  std::mt19937_64 random(dim);
  std::vector<Wide> out(dim), twin;
  for (Wide& word : out) word = random_wide(random);
  const std::vector<Wide> before = twin = out;
  mix_rows(weights.data(), values.data(), stride, weights.size(), dim, out.data());
  scalar::mix_rows(weights.data(), values.data(), stride, weights.size(), dim, twin.data());
  for (size_t d = 0; d < dim; ++d) {
    Wide sum = before[d];
    for (size_t j = 0; j < weights.size(); ++j) {
      const V value = values[j * stride + d];
      if constexpr (sizeof(V) == sizeof(Word)) {
        sum += weights[j] * static_cast<Wide>(static_cast<std::int64_t>(value));
      } else {
        sum += weights[j] * value;
      }
    }
    ASSERT_TRUE(kept(out[d]) == kept(sum)) << d << " of " << dim << ", " << weights.size() << " rows";
    ASSERT_TRUE(twin[d] == sum) << d << " of " << dim << ", " << weights.size() << " rows";
  }
}

TEST(MixWide, adds_weighted_rows_of_words_and_of_signed_integers) {
  std::mt19937_64 random(7);
  for (const size_t dim : {0, 1, 8, 15, 16, 40, 64, 128}) {
    for (const size_t n : {0, 1, 2, 17, 100}) {
      const size_t stride = dim + random() % 70;
      std::vector<Wide> weights(n), wide(n * stride);
      std::vector<Word> words(n * stride);
      for (Wide& weight : weights) weight = random_wide(random);
      for (Wide& value : wide) value = random_wide(random);
      for (Word& value : words) value = random();
      expect_sums(weights, wide, stride, dim);
      expect_sums(weights, words, stride, dim);
    }
  }
}

// The largest digits, of more rows than their sums bear at a time.
TEST(MixWide, carries_nothing_away_in_long_columns) {
  constexpr size_t k_rows = 9000;
  for (const Wide weight : {~Wide{0}, Wide{1} << 103, (Wide{1} << 52) - 1, Wide{1}}) {
    const std::vector<Wide> weights(k_rows, weight);
    expect_sums(weights, std::vector<Wide>(k_rows * 16, ~Wide{0}), 16, 16);
    for (const Word value : {~Word{0}, Word{1} << 63, (Word{1} << 52) - 1, (Word{1} << 63) - 1})
      expect_sums(weights, std::vector<Word>(k_rows * 16, value), 16, 16);
  }
}

}  // namespace
}  // namespace permllm
