// Matrices of ring words, for the offline phase: y = V r at the helper, y = U r at the user.
//
// Vectors are stored one after the other: x holds n vectors of matrix.cols() entries, y n vectors of matrix.rows().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "ring/executor.h"
#include "ring/large_bytes.h"
#include "ring/ring.h"

namespace permllm {

// The unsigned type in which one word of a ring is multiplied: 2, 4 or 8 bytes. Bulk data (U and V) has Ring::bytes() of each word.
constexpr std::size_t container_bytes(Ring ring) { return ring.bits <= 16 ? 2 : ring.bits <= 32 ? 4 : 8; }

// V at the helper: words of one ring, row-major, each in as many bytes as the ring has (Ring::bytes), little-endian. It owns them, or
// views bytes that outlive it.
class RingMatrix {
 public:
  RingMatrix() = default;
  RingMatrix(std::size_t rows, std::size_t cols, Ring ring);
  RingMatrix(std::size_t rows, std::size_t cols, Ring ring, std::span<const std::uint8_t> bytes);
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  Ring ring() const { return ring_; }
  std::span<std::uint8_t> bytes() { return owned_; }  // empty of a view
  std::span<const std::uint8_t> bytes() const {
    return viewed_.empty() ? std::span<const std::uint8_t>(owned_) : viewed_;
  }

 private:
  std::size_t rows_ = 0, cols_ = 0;
  Ring ring_;
  LargeBytes owned_;
  std::span<const std::uint8_t> viewed_;
};

// U: never stored. fill(offset, out) writes bytes [offset, offset + out.size()) of its expansion, which is the matrix
// row-major in little-endian words of Ring::bytes(). fill is called from several threads at once.
struct StreamedMatrix {
  std::size_t rows_ = 0, cols_ = 0;
  Ring ring_;
  std::function<void(std::uint64_t offset, std::span<std::uint8_t> out)> fill;
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  Ring ring() const { return ring_; }
};

// y = V x and y = U x in the matrix's ring, batched over vectors. x and y: 64-bit words of which the ring's low bits count;
// words of x need not be reduced, y is reduced.
void product(const RingMatrix& v, std::span<const Word> x, std::span<Word> y, Executor& executor);
void product(const StreamedMatrix& u, std::span<const Word> x, std::span<Word> y, Executor& executor);
// As of the provider's matrices, which have no ring of their own.
inline void product(const RingMatrix& v, Ring, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  product(v, x, y, executor);
}

}  // namespace permllm
