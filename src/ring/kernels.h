// Inner kernels of product(), dispatched at run time, and their scalar twins. Shapes are checked by the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ring/matrix.h"

namespace permllm::kernels {

constexpr std::size_t k_tile_rows = 16;  // lanes are rows; a tile is 16 rows x 2 columns, the two columns side by side
constexpr std::size_t k_max_limbs = 4;   // of 16 bits

constexpr std::size_t limbs_of(Ring ring) { return (static_cast<std::size_t>(ring.bits) + 15) / 16; }

// One block of 16 rows of weights (tiles, `pairs` of them) times one vector in limbs. limbs: [pair][limb][2] signed 16-bit.
// y: 16 words, modulo 2^64 of which ring.bits count.
void int_block(const std::int16_t* tiles, std::size_t pairs, const std::int16_t* limbs, Ring ring, Word* y);

// 16 rows of integer weights times four real vectors: x: [pair][4][2], y: [4][16].
void int_block_float(const std::int16_t* tiles, std::size_t pairs, const float* x, float* y);
// One real row times four real vectors of `cols` entries, `stride` apart.
void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y);

// Name of the target that the calls above run on.
const char* target();

namespace scalar {
void int_block(const std::int16_t* tiles, std::size_t pairs, const std::int16_t* limbs, Ring ring, Word* y);
void int_block_float(const std::int16_t* tiles, std::size_t pairs, const float* x, float* y);
void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y);
}  // namespace scalar

}  // namespace permllm::kernels
