// Inner kernels of product(), dispatched at run time, and their scalar twins. Shapes are checked by the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ring/matrix.h"

namespace permllm::kernels {

// Rows of a ring matrix times a batch. u: `rows` rows of `cols` containers; x: [group][col][k_group_bytes / container];
// y: [row][batch] words. batch: a multiple of the group's lanes; rows: any.
constexpr std::size_t k_group_bytes = 64;
void ring_rows(const void* u, std::size_t container, std::size_t rows, std::size_t cols, const void* x, std::size_t groups,
               Word* y);

// One real row times four real vectors of `cols` entries, `stride` apart.
void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y);

// Name of the target that the calls above run on.
const char* target();

namespace scalar {
void ring_rows(const void* u, std::size_t container, std::size_t rows, std::size_t cols, const void* x, std::size_t groups,
               Word* y);
void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y);
}  // namespace scalar

}  // namespace permllm::kernels
