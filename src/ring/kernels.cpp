#include "ring/kernels.h"
#include "ring/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ring/kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace permllm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
using scalar::float_row;
using scalar::ring_rows;
#else

// The sum of products of one row with one vector of columns. Sums are plain members of plain variables: GCC 12 keeps those in
// registers, and an array of vectors on the stack.
template <class D>
struct RowSum {
  D d;
  hn::Vec<D> sum = hn::Zero(D());
  HWY_INLINE void add(hn::TFromD<D> word, hn::Vec<D> column) { sum = hn::Add(sum, hn::Mul(hn::Set(d, word), column)); }
  HWY_INLINE hn::Vec<D> total() const { return sum; }
};

#if !(HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86)
// Words of 8 bytes, which few processors multiply: low halves as 32 x 32 -> 64, cross products modulo 2^32.
template <class D>
struct WideRowSum {
  using D32 = hn::Repartition<std::uint32_t, D>;
  D d;
  hn::Vec<D> low = hn::Zero(D());
  hn::Vec<D32> cross = hn::Zero(D32());
  HWY_INLINE void add(std::uint64_t word, hn::Vec<D> column) {
    const auto u = hn::BitCast(D32(), hn::Set(d, word)), x = hn::BitCast(D32(), column);
    low = hn::Add(low, hn::MulEven(u, x));
    cross = hn::Add(cross, hn::Mul(hn::Shuffle2301(u), x));
  }
  HWY_INLINE hn::Vec<D> total() const {
    const auto both = hn::BitCast(d, cross);
    return hn::Add(low, hn::ShiftLeft<32>(hn::Add(both, hn::ShiftRight<32>(both))));
  }
};
#endif

// Up to four rows times one group of columns.
template <class T>
void four_rows(const T* HWY_RESTRICT u, std::size_t rows, std::size_t cols, const T* HWY_RESTRICT x, std::size_t batch,
               Word* HWY_RESTRICT y) {
  constexpr std::size_t kGroup = k_group_bytes / sizeof(T);
  const hn::CappedTag<T, kGroup> d;
  using D = hn::CappedTag<T, kGroup>;
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  using Sum = RowSum<D>;
#else
  using Sum = std::conditional_t<sizeof(T) == 8, WideRowSum<D>, RowSum<D>>;
#endif
  constexpr std::size_t kLanes = HWY_MIN(hn::MaxLanes(D()), kGroup);
  // Missing rows are the last one again.
  const T* row[4];
  for (std::size_t r = 0; r < 4; ++r) row[r] = u + HWY_MIN(r, rows - 1) * cols;
  HWY_ALIGN T out[4][kGroup];
  for (std::size_t v = 0; v < kGroup; v += kLanes) {
    Sum s0{d}, s1{d}, s2{d}, s3{d};
    for (std::size_t c = 0; c < cols; ++c) {
      const auto column = hn::Load(d, x + c * kGroup + v);
      s0.add(row[0][c], column);
      s1.add(row[1][c], column);
      s2.add(row[2][c], column);
      s3.add(row[3][c], column);
    }
    hn::Store(s0.total(), d, out[0] + v);
    hn::Store(s1.total(), d, out[1] + v);
    hn::Store(s2.total(), d, out[2] + v);
    hn::Store(s3.total(), d, out[3] + v);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t b = 0; b < kGroup; ++b) y[r * batch + b] = out[r][b];
  }
}

template <class T>
void all_rows(const void* u, std::size_t rows, std::size_t cols, const void* x, std::size_t groups, Word* y) {
  constexpr std::size_t kGroup = k_group_bytes / sizeof(T);
  const std::size_t batch = groups * kGroup;
  for (std::size_t r = 0; r < rows; r += 4) {
    for (std::size_t g = 0; g < groups; ++g) {
      four_rows(static_cast<const T*>(u) + r * cols, HWY_MIN(rows - r, 4), cols, static_cast<const T*>(x) + g * cols * kGroup,
                batch, y + r * batch + g * kGroup);
    }
  }
}

void ring_rows(const void* u, std::size_t container, std::size_t rows, std::size_t cols, const void* x, std::size_t groups,
               Word* y) {
  switch (container) {
    case 2: return all_rows<std::uint16_t>(u, rows, cols, x, groups, y);
    case 4: return all_rows<std::uint32_t>(u, rows, cols, x, groups, y);
    default: return all_rows<std::uint64_t>(u, rows, cols, x, groups, y);
  }
}

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

const char* target() { return hwy::TargetName(HWY_TARGET); }

}  // namespace permllm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm::kernels {

HWY_EXPORT(ring_rows);
HWY_EXPORT(float_row);
HWY_EXPORT(target);

namespace {

const bool k_capped = cap_simd();

}  // namespace

void ring_rows(const void* u, std::size_t container, std::size_t rows, std::size_t cols, const void* x, std::size_t groups,
               Word* y) {
  HWY_DYNAMIC_DISPATCH(ring_rows)(u, container, rows, cols, x, groups, y);
}
void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y) {
  HWY_DYNAMIC_DISPATCH(float_row)(w, x, stride, cols, y);
}
const char* target() { return HWY_DYNAMIC_DISPATCH(target)(); }

namespace scalar {

template <class T>
void rows_of(const T* u, std::size_t rows, std::size_t cols, const T* x, std::size_t groups, Word* y) {
  constexpr std::size_t k_group = k_group_bytes / sizeof(T);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t b = 0; b < groups * k_group; ++b) {
      Word sum = 0;
      for (std::size_t c = 0; c < cols; ++c) {
        sum += Word{u[r * cols + c]} * x[((b / k_group) * cols + c) * k_group + b % k_group];
      }
      y[r * groups * k_group + b] = static_cast<T>(sum);
    }
  }
}

void ring_rows(const void* u, std::size_t container, std::size_t rows, std::size_t cols, const void* x, std::size_t groups,
               Word* y) {
  switch (container) {
    case 2: return rows_of(static_cast<const std::uint16_t*>(u), rows, cols, static_cast<const std::uint16_t*>(x), groups, y);
    case 4: return rows_of(static_cast<const std::uint32_t*>(u), rows, cols, static_cast<const std::uint32_t*>(x), groups, y);
    default: return rows_of(static_cast<const std::uint64_t*>(u), rows, cols, static_cast<const std::uint64_t*>(x), groups, y);
  }
}

void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y) {
  for (std::size_t k = 0; k < 4; ++k) {
    y[k] = 0;
    for (std::size_t c = 0; c < cols; ++c) y[k] += w[c] * x[k * stride + c];
  }
}

}  // namespace scalar
}  // namespace permllm::kernels
#endif  // HWY_ONCE
