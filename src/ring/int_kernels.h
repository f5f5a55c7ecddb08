// Inner kernels of the provider's products, dispatched at run time, and their scalar twins. Shapes are checked by the caller.
//
// Packed weights. A block is 32 rows; it is a sequence of groups of 8 columns, from left to right; what is beyond the last
// row or column is 0. A group is four tiles of 32 rows x 2 columns, the two columns of a row side by side, so that a
// vector of 16-bit numbers multiplies pairs of columns. A plane is 32 x 2 words of 16 bits:
//   12 bits: three planes. Plane p holds tile p in its high 12 bits, and four bits of tile 3 in its low ones: bits 4p to
//            4p + 3. An arithmetic shift takes tiles 0 to 2 out; the low nibbles, put together, are tile 3.
//    8 bits: two planes. Plane p holds tile 2p in its high and tile 2p + 1 in its low byte.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ring/ring.h"

namespace permllm::kernels {

constexpr std::size_t k_block_rows = 32, k_group_cols = 8, k_group_pairs = k_group_cols / 2;
constexpr std::size_t k_plane_words = k_block_rows * 2;

constexpr std::size_t planes_of(int bits) { return static_cast<std::size_t>(bits) / 4; }
constexpr std::size_t group_bytes(int bits) { return k_block_rows * static_cast<std::size_t>(bits); }
static_assert(group_bytes(12) == 3 * k_plane_words * 2 && group_bytes(8) == 2 * k_plane_words * 2);

// x is cut into signed limbs of 16 bits.
constexpr std::size_t limbs_of(Ring ring) { return (static_cast<std::size_t>(ring.bits) + 15) / 16; }

// 32 rows of packed weights; aligned to 64 bytes.
struct IntBlock {
  const std::uint8_t* packed;
  std::size_t groups;
  int bits;  // of a weight: 12 or 8
};

// How many of n >= 1 vectors one call of int_block multiplies.
std::size_t int_vectors(Ring ring, std::size_t n);

// A block times `vectors` vectors, which int_vectors chose. x: [pair][vector][limb], the limbs of two columns in one
// number, the left one low; y: [vector][32] words modulo 2^64, of which the low ring.bits count.
void int_block(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Ring ring, Word* y);

// A block times four real vectors: x: [pair][4][2], y: [4][32].
void int_block_float(const IntBlock& block, const float* x, float* y);

// Name of the target that the calls above run on.
const char* int_target();

namespace scalar {
// The weight at (row, col) of a block.
int weight(const IntBlock& block, std::size_t row, std::size_t col);
void int_block(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Ring ring, Word* y);
void int_block_float(const IntBlock& block, const float* x, float* y);
}  // namespace scalar

}  // namespace permllm::kernels
