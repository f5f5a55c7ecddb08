#include "ring/ring_matrix.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
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

// By the definition, word by word.
Words expected_product(const Words& entries, std::size_t rows, std::size_t cols, const Words& x, Ring ring) {
  const std::size_t n = x.size() / cols;
  Words want(n * rows);
  for (std::size_t b = 0; b < n; ++b) {
    for (std::size_t r = 0; r < rows; ++r) {
      Word sum = 0;
      for (std::size_t c = 0; c < cols; ++c) sum += entries[r * cols + c] * x[b * cols + c];
      want[b * rows + r] = sum & ring.mask();
    }
  }
  return want;
}

// Entries as bytes, each in as many as the ring has; what is above the ring stays in them.
void write_words(const Words& entries, Ring ring, std::span<std::uint8_t> out) {
  for (std::size_t i = 0; i < entries.size(); ++i) std::memcpy(&out[i * ring.bytes()], &entries[i], ring.bytes());
}

void check_ring_product(int bits, std::size_t rows, std::size_t cols, std::size_t n) {
  Executor executor(2);
  const Ring ring{bits};
  const std::uint64_t seed = static_cast<std::uint64_t>(bits) * 1000003 + rows * 1009 + cols * 31 + n;
  RingMatrix v(rows, cols, ring);
  ASSERT_EQ(v.bytes().size(), rows * cols * static_cast<std::size_t>((bits + 7) / 8));
  const Words entries = random_words(rows * cols, seed), x = random_words(n * cols, seed + 1);
  write_words(entries, ring, v.bytes());
  const StreamedMatrix u{rows, cols, ring, [&](std::uint64_t offset, std::span<std::uint8_t> out) {
                           ASSERT_LE(offset + out.size(), v.bytes().size());
                           std::memcpy(out.data(), v.bytes().data() + offset, out.size());
                         }};
  Words y(n * rows), streamed(n * rows);
  product(v, x, y, executor);
  product(u, x, streamed, executor);
  const Words want = expected_product(entries, rows, cols, x, ring);
  ASSERT_EQ(y, want) << bits << " bits, " << rows << " x " << cols << ", " << n;
  ASSERT_EQ(streamed, want) << bits << " bits, " << rows << " x " << cols << ", " << n;
}

// Rings of every number of bytes, whole bytes or not, in every shape that ends within a vector, a block or a panel.
TEST(RingProduct, agrees_with_the_definition_in_rings_of_every_width) {
  for (const int bits : {1, 8, 9, 16, 17, 24, 25, 32, 33, 40, 43, 48, 52, 53, 56, 57, 64}) {
    for (const auto& [rows, cols] :
         {std::pair<std::size_t, std::size_t>{1, 1}, {7, 33}, {130, 577}, {66, 1}, {3, 4500}}) {
      for (const std::size_t n : {1, 3, 8, 33, 64, 65}) check_ring_product(bits, rows, cols, n);
    }
  }
}

// All matrices of one row and two words, times all vectors, in rings of few bits; in larger ones the words where carries are.
TEST(RingProduct, of_two_words_is_right_for_all_of_them) {
  Executor executor(1);
  for (const int bits : {1, 2, 3, 24, 40, 48, 56}) {
    const Ring ring{bits};
    Words words;
    if (bits <= 3) {
      for (Word w = 0; w <= ring.mask(); ++w) words.push_back(w);
    } else {
      words = {0,
               1,
               ring.mask(),
               ring.mask() >> 1,
               (ring.mask() >> 1) + 1,
               ring.mask() ^ 0xff,
               0x0123456789abcdef & ring.mask()};
    }
    Words x;
    for (const Word a : words) {
      for (const Word b : words) x.insert(x.end(), {a, b});
    }
    for (const Word a : words) {
      for (const Word b : words) {
        RingMatrix v(1, 2, ring);
        write_words({a, b}, ring, v.bytes());
        Words y(x.size() / 2);
        product(v, x, y, executor);
        ASSERT_EQ(y, expected_product({a, b}, 1, 2, x, ring)) << bits << " bits, " << a << " " << b;
      }
    }
  }
}

// A matrix that lies at an odd address, and ends where its memory does: nothing is read behind it (the sanitizers look).
TEST(RingProduct, reads_a_view_at_any_address_and_nothing_behind_it) {
  Executor executor(1);
  for (const int bits : {24, 40, 48, 56}) {
    const Ring ring{bits};
    constexpr std::size_t k_rows = 5, k_cols = 77;
    const Words entries = random_words(k_rows * k_cols, 5), x = random_words(3 * k_cols, 6);
    const std::size_t size = entries.size() * ring.bytes();
    const auto memory = std::make_unique<std::uint8_t[]>(size + 1);
    write_words(entries, ring, std::span(memory.get() + 1, size));
    Words y(3 * k_rows);
    product(RingMatrix(k_rows, k_cols, ring, std::span<const std::uint8_t>(memory.get() + 1, size)), x, y, executor);
    EXPECT_EQ(y, expected_product(entries, k_rows, k_cols, x, ring)) << bits;
  }
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
