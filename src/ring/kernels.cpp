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
using scalar::int_block;
using scalar::int_block_float;
#else

// Sixteen rows fill one 512-bit vector of 32-bit lanes, or several shorter ones.
using D32 = hn::CappedTag<std::int32_t, k_tile_rows>;
using D16 = hn::Repartition<std::int16_t, D32>;

// acc[row] += w[row][0] x[0] + w[row][1] x[1], for 16-bit w and x and 32-bit accumulators: x holds the pair in each lane.
template <class V32>
HWY_INLINE V32 multiply_add_pairs(V32 w, V32 x, V32 acc) {
#if HWY_TARGET == HWY_AVX2
  return V32{_mm256_add_epi32(acc.raw, _mm256_madd_epi16(w.raw, x.raw))};
#elif HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return V32{_mm512_add_epi32(acc.raw, _mm512_madd_epi16(w.raw, x.raw))};
#else
  const auto even = hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(w)), hn::ShiftRight<16>(hn::ShiftLeft<16>(x)));
  const auto odd = hn::Mul(hn::ShiftRight<16>(w), hn::ShiftRight<16>(x));
  return hn::Add(acc, hn::Add(even, odd));
#endif
}

// Largest |sum| that one pair adds to an accumulator, and how many pairs fit 32 bits.
constexpr std::int64_t k_pair_bound = 2 * ((std::int64_t{1} << (k_weight_bits - 1)) - 1) * (std::int64_t{1} << 15);
constexpr std::size_t k_widen_every = 16;
static_assert(k_pair_bound * static_cast<std::int64_t>(k_widen_every) <= INT32_MAX);

template <std::size_t kLimbs, std::size_t kWiden>
void int_block_limbs(const std::int16_t* HWY_RESTRICT tiles, std::size_t pairs, const std::int16_t* HWY_RESTRICT limbs,
                     Word* HWY_RESTRICT y) {
  const D32 d;
  const hn::Repartition<std::int64_t, D32> d64;
  constexpr std::size_t kLanes = HWY_MIN(hn::MaxLanes(D32()), k_tile_rows), kVectors = k_tile_rows / kLanes;
  using V = hn::Vec<D32>;
  V acc[kLimbs][kVectors];
  // Limb l only matters modulo 2^(bits - 16 l): where that is at most 32 bits, 32-bit wrap-around is the arithmetic.
  HWY_ALIGN std::int64_t wide[kWiden == 0 ? 1 : kWiden][k_tile_rows] = {};
  for (auto& limb : acc) {
    for (auto& vector : limb) vector = hn::Zero(d);
  }
  const auto* w = reinterpret_cast<const std::int32_t*>(tiles);
  const auto* x = reinterpret_cast<const std::int32_t*>(limbs);
  for (std::size_t p = 0; p < pairs;) {
    const std::size_t end = kWiden == 0 ? pairs : HWY_MIN(pairs, p + k_widen_every);
    for (; p < end; ++p) {
      V rows[kVectors];
      for (std::size_t v = 0; v < kVectors; ++v) rows[v] = hn::Load(d, w + p * k_tile_rows + v * kLanes);
      for (std::size_t l = 0; l < kLimbs; ++l) {
        const V pair = hn::Set(d, x[p * kLimbs + l]);
        for (std::size_t v = 0; v < kVectors; ++v) acc[l][v] = multiply_add_pairs(rows[v], pair, acc[l][v]);
      }
    }
    for (std::size_t l = 0; l < kWiden; ++l) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        std::int64_t* to = wide[l] + v * kLanes;
        const auto low = hn::PromoteTo(d64, hn::LowerHalf(acc[l][v]));
        const auto high = hn::PromoteTo(d64, hn::UpperHalf(hn::Half<D32>(), acc[l][v]));
        hn::Store(hn::Add(hn::Load(d64, to), low), d64, to);
        hn::Store(hn::Add(hn::Load(d64, to + kLanes / 2), high), d64, to + kLanes / 2);
        acc[l][v] = hn::Zero(d);
      }
    }
  }
  HWY_ALIGN std::int32_t narrow[k_tile_rows];
  for (std::size_t r = 0; r < k_tile_rows; ++r) y[r] = 0;
  for (std::size_t l = 0; l < kLimbs; ++l) {
    if (l < kWiden) {
      for (std::size_t r = 0; r < k_tile_rows; ++r) y[r] += static_cast<Word>(wide[l][r]) << (16 * l);
    } else {
      for (std::size_t v = 0; v < kVectors; ++v) hn::Store(acc[l][v], d, narrow + v * kLanes);
      for (std::size_t r = 0; r < k_tile_rows; ++r) y[r] += static_cast<Word>(std::int64_t{narrow[r]}) << (16 * l);
    }
  }
}

void int_block(const std::int16_t* tiles, std::size_t pairs, const std::int16_t* limbs, Ring ring, Word* y) {
  switch (limbs_of(ring)) {
    case 1: return int_block_limbs<1, 0>(tiles, pairs, limbs, y);
    case 2: return int_block_limbs<2, 0>(tiles, pairs, limbs, y);
    case 3: return int_block_limbs<3, 1>(tiles, pairs, limbs, y);
    default: return int_block_limbs<4, 2>(tiles, pairs, limbs, y);
  }
}

void int_block_float(const std::int16_t* HWY_RESTRICT tiles, std::size_t pairs, const float* HWY_RESTRICT x,
                     float* HWY_RESTRICT y) {
  const D32 d;
  const hn::Repartition<float, D32> df;
  constexpr std::size_t kLanes = HWY_MIN(hn::MaxLanes(D32()), k_tile_rows), kVectors = k_tile_rows / kLanes;
  hn::Vec<decltype(df)> acc[4][kVectors];
  for (auto& vector : acc) {
    for (auto& part : vector) part = hn::Zero(df);
  }
  const auto* w = reinterpret_cast<const std::int32_t*>(tiles);
  for (std::size_t p = 0; p < pairs; ++p) {
    hn::Vec<decltype(df)> even[kVectors], odd[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto both = hn::Load(d, w + p * k_tile_rows + v * kLanes);
      even[v] = hn::ConvertTo(df, hn::ShiftRight<16>(hn::ShiftLeft<16>(both)));
      odd[v] = hn::ConvertTo(df, hn::ShiftRight<16>(both));
    }
    for (std::size_t k = 0; k < 4; ++k) {
      const auto left = hn::Set(df, x[p * 8 + k * 2]), right = hn::Set(df, x[p * 8 + k * 2 + 1]);
      for (std::size_t v = 0; v < kVectors; ++v) {
        acc[k][v] = hn::MulAdd(odd[v], right, hn::MulAdd(even[v], left, acc[k][v]));
      }
    }
  }
  for (std::size_t k = 0; k < 4; ++k) {
    for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(acc[k][v], df, y + k * k_tile_rows + v * kLanes);
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

HWY_EXPORT(int_block);
HWY_EXPORT(int_block_float);
HWY_EXPORT(float_row);
HWY_EXPORT(target);

namespace {

const bool k_capped = cap_target();

}  // namespace

void int_block(const std::int16_t* tiles, std::size_t pairs, const std::int16_t* limbs, Ring ring, Word* y) {
  HWY_DYNAMIC_DISPATCH(int_block)(tiles, pairs, limbs, ring, y);
}
void int_block_float(const std::int16_t* tiles, std::size_t pairs, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(int_block_float)(tiles, pairs, x, y);
}
void float_row(const float* w, const float* x, std::size_t stride, std::size_t cols, float* y) {
  HWY_DYNAMIC_DISPATCH(float_row)(w, x, stride, cols, y);
}
const char* target() { return HWY_DYNAMIC_DISPATCH(target)(); }

namespace scalar {

void int_block(const std::int16_t* tiles, std::size_t pairs, const std::int16_t* limbs, Ring ring, Word* y) {
  const std::size_t count = limbs_of(ring);
  for (std::size_t r = 0; r < k_tile_rows; ++r) {
    y[r] = 0;
    for (std::size_t p = 0; p < pairs; ++p) {
      for (std::size_t l = 0; l < count; ++l) {
        for (std::size_t c = 0; c < 2; ++c) {
          const std::int64_t product = std::int64_t{tiles[(p * k_tile_rows + r) * 2 + c]} * limbs[(p * count + l) * 2 + c];
          y[r] += static_cast<Word>(product) << (16 * l);
        }
      }
    }
  }
}

void int_block_float(const std::int16_t* tiles, std::size_t pairs, const float* x, float* y) {
  for (std::size_t k = 0; k < 4; ++k) {
    for (std::size_t r = 0; r < k_tile_rows; ++r) {
      float sum = 0;
      for (std::size_t p = 0; p < pairs; ++p) {
        for (std::size_t c = 0; c < 2; ++c) {
          sum += static_cast<float>(tiles[(p * k_tile_rows + r) * 2 + c]) * x[p * 8 + k * 2 + c];
        }
      }
      y[k * k_tile_rows + r] = sum;
    }
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
