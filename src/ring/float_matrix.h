// Real weights: of the reference engine, and what IntMatrix is made from.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "ring/executor.h"

namespace permllm {

struct FloatMatrix {
  std::size_t rows_ = 0, cols_ = 0;
  std::vector<float> values;  // row-major
  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
};

// y = W x in real numbers; x holds n vectors of cols() entries, y n of rows().
void product(const FloatMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor);

namespace kernels {

// One real row times four real vectors of `cols` entries, `stride` apart.
void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y);
namespace scalar {
void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y);
}

}  // namespace kernels
}  // namespace permllm
