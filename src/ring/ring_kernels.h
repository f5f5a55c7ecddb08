// Inner kernels of the offline products, dispatched at run time, and their scalar twin. Shapes are checked by the caller.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ring/ring.h"

namespace permllm::kernels {

// A step is what one lane multiplies at once: a word of 4 or 8 bytes, or two words of 2 bytes side by side, whose products
// are added in the lane. A lane is as wide as a step; one step of k_group_bytes holds a word, or two, of each vector.
constexpr std::size_t k_group_bytes = 64;
constexpr std::size_t step_bytes(std::size_t container) { return container == 8 ? 8 : 4; }
constexpr std::size_t group_lanes(std::size_t container) { return k_group_bytes / step_bytes(container); }

constexpr std::size_t k_row_step = 4;  // rows are multiplied in fours

// Rows of a ring matrix times a batch, over some of the columns.
struct RingTile {
  Ring ring;
  std::size_t container = 0;  // bytes of a word of u
  const void* u = nullptr;    // `rows` rows of `steps` steps, `stride` bytes apart
  std::size_t stride = 0, rows = 0, steps = 0;
  const void* x = nullptr;  // [group][step][lane], aligned to a group
  std::size_t groups = 0;
  // Where the next tile's rows lie in main memory, or null: `ahead_bytes` of each, fetched while these are multiplied.
  const void* ahead = nullptr;
  std::size_t ahead_stride = 0, ahead_bytes = 0;
};
// Adds to sums, [row][group][lane], aligned to a group, modulo 2^(ring.bits). tile.rows: a multiple of k_row_step.
void ring_tile(const RingTile& tile, void* sums);

namespace scalar {
void ring_tile(const RingTile& tile, void* sums);
}  // namespace scalar

}  // namespace permllm::kernels
