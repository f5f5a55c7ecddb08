#include "ring/float_matrix.h"

#include <algorithm>

#include "permllm/error.h"
#include "ring/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ring/float_matrix.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace permllm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
using scalar::float_row;
#else

void float_row(const float* HWY_RESTRICT w, const float* HWY_RESTRICT x, std::size_t stride, std::size_t cols,
               float* HWY_RESTRICT y) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  auto a = hn::Zero(d), b = hn::Zero(d), e = hn::Zero(d), f = hn::Zero(d);
  std::size_t c = 0;
  for (; c + lanes <= cols; c += lanes) {
    const auto weights = hn::LoadU(d, w + c);
    a = hn::MulAdd(weights, hn::LoadU(d, x + c), a);
    b = hn::MulAdd(weights, hn::LoadU(d, x + stride + c), b);
    e = hn::MulAdd(weights, hn::LoadU(d, x + 2 * stride + c), e);
    f = hn::MulAdd(weights, hn::LoadU(d, x + 3 * stride + c), f);
  }
  y[0] = hn::GetLane(hn::SumOfLanes(d, a));
  y[1] = hn::GetLane(hn::SumOfLanes(d, b));
  y[2] = hn::GetLane(hn::SumOfLanes(d, e));
  y[3] = hn::GetLane(hn::SumOfLanes(d, f));
  for (; c < cols; ++c) {
    for (std::size_t k = 0; k < 4; ++k) y[k] += w[c] * x[k * stride + c];
  }
}

#endif  // HWY_SCALAR

}  // namespace permllm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm {
namespace kernels {

HWY_EXPORT(float_row);

namespace {
const bool k_capped = cap_simd();
}

void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y) {
  HWY_DYNAMIC_DISPATCH(float_row)(w, x, stride, cols, y);
}

namespace scalar {

void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y) {
  for (std::size_t k = 0; k < 4; ++k) {
    y[k] = 0;
    for (std::size_t c = 0; c < cols; ++c) y[k] += w[c] * x[k * stride + c];
  }
}

}  // namespace scalar
}  // namespace kernels

void product(const FloatMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor) {
  PERMLLM_ASSERT(w.cols() > 0 && x.size() % w.cols() == 0);
  const std::size_t n = x.size() / w.cols();
  PERMLLM_ASSERT(y.size() == n * w.rows());
  constexpr std::size_t k_rows = 32;
  executor.parallel((w.rows() + k_rows - 1) / k_rows, [&](std::size_t task) {
    for (std::size_t r = task * k_rows; r < std::min(w.rows(), (task + 1) * k_rows); ++r) {
      for (std::size_t i = 0; i < n; i += 4) {
        // Fewer than four vectors are left: the first stands in for the missing.
        const std::size_t count = std::min<std::size_t>(4, n - i);
        float out[4];
        kernels::float_row(w.values.data() + r * w.cols(), x.data() + i * w.cols(), count == 4 ? w.cols() : 0, w.cols(),
                           out);
        if (count == 4) {
          for (std::size_t k = 0; k < 4; ++k) y[(i + k) * w.rows() + r] = out[k];
        } else {
          for (std::size_t k = 0; k < count; ++k) {
            kernels::float_row(w.values.data() + r * w.cols(), x.data() + (i + k) * w.cols(), 0, w.cols(), out);
            y[(i + k) * w.rows() + r] = out[0];
          }
        }
      }
    }
  });
}

}  // namespace permllm
#endif  // HWY_ONCE
