// Matrices and the one call for every product: product(matrix, vectors, executor).
//
// Vectors are stored one after the other: x holds n vectors of matrix.cols() entries, y n vectors of matrix.rows().
// Kernels dispatch at run time (Highway); each has a scalar twin that tests compare with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ring/executor.h"
#include "ring/ring.h"
#include "ring/ring_matrix.h"

namespace permllm {

constexpr int k_weight_bits = 12;  // |integer| < 2^(k_weight_bits - 1)

// Real weights: of the reference engine, and what IntMatrix is made from.
struct FloatMatrix {
  std::size_t rows_ = 0, cols_ = 0;
  std::vector<float> values;  // row-major
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
};

// The provider's weights: W ~ integer 2^-frac, |integer| < 2^11. Made once, at load time, in the kernel's tile order.
class IntMatrix {
 public:
  IntMatrix() = default;
  // Largest frac such that every |w| 2^frac <= 2^11 - 1.
  static int fraction_bits(float largest_magnitude);
  // Rounds each weight times 2^frac, which must be at most 2^11 - 1 in magnitude.
  IntMatrix(const FloatMatrix& weights, int frac, Executor& executor);

  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  int frac() const { return frac_; }
  int at(std::size_t row, std::size_t col) const;
  // Row r as plain integers, in order.
  void row(std::size_t r, std::span<std::int16_t> out) const;
  // Tiles, for the kernels.
  const std::int16_t* tiles() const { return tiles_[0].weights; }

 private:
  // 16 rows x 2 columns: for each row its two weights side by side. Blocks of 16 rows, in each the tiles from left to
  // right; what is beyond the last row or column is 0.
  struct alignas(64) Tile {
    std::int16_t weights[32] = {};
  };
  std::size_t rows_ = 0, cols_ = 0;
  int frac_ = 0;
  std::unique_ptr<Tile[]> tiles_;
};

// y = W x in the ring (x and y: 64-bit words of which the ring's low bits count; words of x need not be reduced, y is
// reduced). The provider's online product: one vector is bound by memory, many by arithmetic.
void product(const IntMatrix& w, Ring ring, std::span<const Word> x, std::span<Word> y, Executor& executor);
// y = W x in real numbers: the reference engine, on real weights and on the provider's integers (times 2^-frac).
void product(const FloatMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor);
void product(const IntMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor);

// Words to and from the wire: each reduced to its ring, little-endian, ring.bytes() bytes.
void pack(std::span<const Word> words, Ring ring, std::uint8_t* out);
void unpack(const std::uint8_t* in, Ring ring, std::span<Word> words);

}  // namespace permllm
