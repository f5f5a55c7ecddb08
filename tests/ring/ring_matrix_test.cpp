#include "ring/ring_matrix.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "ring/ring_kernels.h"

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
  for (const auto& [rows, cols] :
       {std::pair<std::size_t, std::size_t>{1, 1}, {7, 33}, {130, 577}, {66, 1}, {3, 4500}}) {
    for (const std::size_t n : {1, 3, 8, 33, 63, 64, 65}) {
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

TEST(RingProduct, agrees_with_the_definition_in_two_byte_words) {
  check_ring_product<std::uint16_t>(16);
  check_ring_product<std::uint16_t>(1);
}
TEST(RingProduct, agrees_with_the_definition_in_four_byte_words) {
  check_ring_product<std::uint32_t>(32);
  check_ring_product<std::uint32_t>(17);
}
TEST(RingProduct, agrees_with_the_definition_in_eight_byte_words) {
  check_ring_product<std::uint64_t>(64);
  check_ring_product<std::uint64_t>(33);
  check_ring_product<std::uint64_t>(43);
  check_ring_product<std::uint64_t>(52);
  check_ring_product<std::uint64_t>(53);
}

TEST(RingKernels, equal_their_scalar_twin) {
  constexpr std::size_t k_rows = 8, k_steps = 13, k_stride = 128;
  std::mt19937_64 random(3);
  for (const std::size_t groups : {1, 2, 3, 7, 8}) {
    for (const int bits : {16, 32, 43, 52, 53, 64}) {
      const std::size_t container = container_bytes(Ring{bits});
      alignas(64) Word u[k_rows * k_stride / 8], x[8 * k_steps * 8], y[k_rows * 8 * 8], z[k_rows * 8 * 8];
      for (Word& v : u) v = random();
      for (Word& v : x) v = random();
      for (std::size_t i = 0; i < std::size(y); ++i) y[i] = z[i] = random();
      const kernels::RingTile tile{Ring{bits}, container, u, k_stride, k_rows, k_steps, x, groups};
      kernels::ring_tile(tile, y);
      kernels::scalar::ring_tile(tile, z);
      // What is above the ring in a lane counts for nothing.
      const Word mask = container == 8 ? Ring{bits}.mask() : Ring{bits}.mask() * 0x100000001u;
      for (std::size_t i = 0; i < std::size(y); ++i)
        ASSERT_EQ(y[i] & mask, z[i] & mask) << bits << ' ' << groups << ' ' << i;
    }
  }
}

}  // namespace
}  // namespace permllm
