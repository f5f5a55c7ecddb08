// Matrices and the one call for every product: product(matrix, vectors, executor).
//
// Vectors are stored one after the other: x holds n vectors of matrix.cols() entries, y n vectors of matrix.rows().
// Kernels dispatch at run time (Highway); each has a scalar twin that tests compare with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ring/executor.h"
#include "ring/int_matrix.h"
#include "ring/ring.h"

namespace permllm {

// Real weights: of the reference engine, and what IntMatrix is made from.
struct FloatMatrix {
  std::size_t rows_ = 0, cols_ = 0;
  std::vector<float> values;  // row-major
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
};

// The unsigned type that holds one word of a ring in bulk data (U and V): 2, 4 or 8 bytes.
constexpr std::size_t container_bytes(Ring ring) { return ring.bits <= 16 ? 2 : ring.bits <= 32 ? 4 : 8; }

// V at the helper: words of one ring, row-major, each in its container, little-endian.
class RingMatrix {
 public:
  RingMatrix() = default;
  RingMatrix(std::size_t rows, std::size_t cols, Ring ring);
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  Ring ring() const { return ring_; }
  std::span<std::uint8_t> bytes() { return bytes_; }
  std::span<const std::uint8_t> bytes() const { return bytes_; }

 private:
  std::size_t rows_ = 0, cols_ = 0;
  Ring ring_;
  std::vector<std::uint8_t> bytes_;
};

// U: never stored. fill(offset, out) writes bytes [offset, offset + out.size()) of its expansion, which is the matrix
// row-major in little-endian containers. fill is called from several threads at once.
struct StreamedMatrix {
  std::size_t rows_ = 0, cols_ = 0;
  Ring ring_;
  std::function<void(std::uint64_t offset, std::span<std::uint8_t> out)> fill;
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  Ring ring() const { return ring_; }
};

// y = V x and y = U x in the matrix's ring, batched over vectors (offline phase). Words as above.
void product(const RingMatrix& v, std::span<const Word> x, std::span<Word> y, Executor& executor);
void product(const StreamedMatrix& u, std::span<const Word> x, std::span<Word> y, Executor& executor);
// y = W x in real numbers: the reference engine on real weights.
void product(const FloatMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor);

// Words to and from the wire: each reduced to its ring, little-endian, ring.bytes() bytes.
void pack(std::span<const Word> words, Ring ring, std::uint8_t* out);
void unpack(const std::uint8_t* in, Ring ring, std::span<Word> words);
void pack(std::span<const Wide> words, Ring ring, std::uint8_t* out);
void unpack(const std::uint8_t* in, Ring ring, std::span<Wide> words);

}  // namespace permllm
