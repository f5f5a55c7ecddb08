// Inner kernels of the provider's products, dispatched at run time, and their scalar twins. Shapes are checked by the caller.
//
// Packed weights. A block is 32 rows; it is a sequence of groups of 8 columns, from left to right; what is beyond the last
// row or column is 0. A group is four tiles of 32 rows x 2 columns, the two columns of a row side by side, so that a
// vector of 16-bit numbers multiplies pairs of columns. A plane is 32 x 2 words of 16 bits:
//   12 bits: three planes. Plane p holds tile p in its high 12 bits, and four bits of tile 3 in its low ones: bits 4p to
//            4p + 3. An arithmetic shift takes tiles 0 to 2 out; the low nibbles, put together, are tile 3.
//    8 bits: two planes. Plane p holds tile 2p in its high and tile 2p + 1 in its low byte.
//   codes:   the integers as functions of a file's own codes of 4 to 8 bits. With a x b = round(a b 2^-15), for a code q of `code_bits`,
//            the integer is ((q 2^s - Z) x G) x D, s = 14 - code_bits. G belongs to the column. D and Z belong to the row and a span of columns;
//            without zeros Z is 2^13, the middle of the codes. A span is the words D of 32 rows, Z likewise, a plane for each group, tile t
//            in bits 4t to 4t + 3, and planes of what codes have above four bits, h each: code i of a row's span half (i counts tiles
//            from left to right) in bits h i and up. The words G of all columns stand before the first block, padded to 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ring/packing.h"
#include "ring/ring.h"

namespace permllm::kernels {

constexpr std::size_t k_block_rows = 32, k_group_cols = 8, k_group_pairs = k_group_cols / 2;
constexpr std::size_t k_plane_words = k_block_rows * 2;

constexpr std::size_t planes_of(int bits) { return static_cast<std::size_t>(bits) / 4; }
constexpr std::size_t group_bytes(int bits) { return k_block_rows * static_cast<std::size_t>(bits); }
static_assert(group_bytes(12) == 3 * k_plane_words * 2 && group_bytes(8) == 2 * k_plane_words * 2);

// Integers as they are multiplied: a group's four tiles, one after the other.
constexpr std::size_t k_group_words = k_group_pairs * k_plane_words;
// Groups of codes that are unpacked at a time: their tiles stay in the first cache.
constexpr std::size_t k_unpacked_groups = 32;

// What a code becomes where Z is 0: codes of all widths reach up to 2^14.
constexpr int k_code_top = 14;
// round(a b 2^-15), as processors multiply fixed-point numbers.
constexpr std::int16_t multiply_fixed(std::int16_t a, std::int16_t b) {
  return static_cast<std::int16_t>((std::int32_t{a} * std::int32_t{b} + (1 << 14)) >> 15);
}

// What a code is multiplied as: `zero` is Z, `scale` D, `gain` G.
constexpr int integer_of_code(const CodeForm& form, unsigned code, std::int16_t scale, std::int16_t zero,
                              std::int16_t gain) {
  const auto less = static_cast<std::int16_t>(static_cast<int>(code << (k_code_top - form.bits)) - zero);
  return multiply_fixed(multiply_fixed(less, gain), scale);
}

// Bytes of a span of 32 rows: its scales, and zeros; where its high planes begin; all of it.
constexpr std::size_t scale_bytes(const CodeForm& form) { return k_block_rows * 2 * (form.zeros ? 2 : 1); }
constexpr std::size_t high_planes_at(const CodeForm& form) {
  return scale_bytes(form) + form.span / k_group_cols * 2 * k_plane_words;
}
constexpr std::size_t span_bytes(const CodeForm& form) {
  return high_planes_at(form) + form.span / k_group_cols * k_plane_words * static_cast<std::size_t>(form.bits - 4) / 2;
}
static_assert(span_bytes({4, 32, true}) == 640 && span_bytes({6, 16, false}) == 448);

// x is cut into signed limbs of 16 bits.
constexpr std::size_t limbs_of(Ring ring) { return (static_cast<std::size_t>(ring.bits) + 15) / 16; }

// 32 rows of packed weights; aligned to 64 bytes.
struct IntBlock {
  const std::uint8_t* packed;
  std::size_t groups;
  int bits;  // of a weight: 12 or 8; or 16: tiles, the numbers in them of k_coded_bits
};

// Of codes.
struct CodeBlock {
  const std::uint8_t* packed;  // aligned to 64 bytes
  const std::uint32_t* gains;  // of pairs of columns, the left one low
  CodeForm form;
};

// How many of n >= 1 vectors one call of int_block multiplies.
std::size_t int_vectors(Ring ring, std::size_t n);

// Adds a block times `vectors` vectors, which int_vectors chose. x: [pair][vector][limb], the limbs of two columns in one
// number, the left one low; y: [vector][32] words modulo 2^64, of which the low ring.bits count.
void int_block(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Ring ring, Word* y);

// Words of x shifted left by those of `shifts`, as int_block takes one vector in a ring of limbs_of(ring) limbs; what is behind the last word of an
// odd count is 0.
void cut_words(std::span<const Word> x, const std::uint8_t* shifts, Ring ring, std::uint32_t* limbs);

// y[r] = sums[r] 2^shifts[r], reduced to the ring.
void finish_rows(std::span<const Word> sums, const std::uint8_t* shifts, Ring ring, Word* y);

// Groups [first, first + groups), whole spans, of codes: their tiles. Whatever the bytes are, tiles hold numbers of at most 16 bits.
void unpack_codes(const CodeBlock& block, std::size_t first, std::size_t groups, std::int16_t* tiles);

// Adds `groups` groups of codes, whole spans, times one vector, as unpack_codes and int_block do.
void code_block(const CodeBlock& block, std::size_t groups, const std::uint32_t* x, Ring ring, Word* y);

// Adds a block times four real vectors: x: [pair][4][2], y: [4][32].
void int_block_float(const IntBlock& block, const float* x, float* y);

// Name of the target that the calls above run on.
const char* int_target();

namespace scalar {
// The weight at (row, col) of a block.
int weight(const IntBlock& block, std::size_t row, std::size_t col);
int weight(const CodeBlock& block, std::size_t row, std::size_t col);
void cut_words(std::span<const Word> x, const std::uint8_t* shifts, Ring ring, std::uint32_t* limbs);
void finish_rows(std::span<const Word> sums, const std::uint8_t* shifts, Ring ring, Word* y);
void unpack_codes(const CodeBlock& block, std::size_t first, std::size_t groups, std::int16_t* tiles);
void int_block(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Ring ring, Word* y);
void code_block(const CodeBlock& block, std::size_t groups, const std::uint32_t* x, Ring ring, Word* y);
void int_block_float(const IntBlock& block, const float* x, float* y);
}  // namespace scalar

}  // namespace permllm::kernels
