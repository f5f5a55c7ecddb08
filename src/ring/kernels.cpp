#include "ring/kernels.h"

#include <cstdlib>
#include <cstring>
#include <string>

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
using scalar::ring_rows;
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

// kRows rows times one group of kVectors vectors of T; words of 2 and 4 bytes.
template <class T, std::size_t kRows>
void small_words(const T* HWY_RESTRICT u, std::size_t cols, const T* HWY_RESTRICT x, std::size_t batch, Word* HWY_RESTRICT y) {
  const hn::CappedTag<T, k_group_bytes / sizeof(T)> d;
  constexpr std::size_t kLanes = HWY_MIN(hn::MaxLanes(decltype(d)()), k_group_bytes / sizeof(T));
  constexpr std::size_t kGroup = k_group_bytes / sizeof(T), kVectors = kGroup / kLanes;
  hn::Vec<decltype(d)> acc[kRows][kVectors];
  for (auto& row : acc) {
    for (auto& vector : row) vector = hn::Zero(d);
  }
  for (std::size_t c = 0; c < cols; ++c) {
    hn::Vec<decltype(d)> column[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) column[v] = hn::Load(d, x + c * kGroup + v * kLanes);
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto word = hn::Set(d, u[r * cols + c]);
      for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = hn::Add(acc[r][v], hn::Mul(word, column[v]));
    }
  }
  HWY_ALIGN T out[kGroup];
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) hn::Store(acc[r][v], d, out + v * kLanes);
    for (std::size_t b = 0; b < kGroup; ++b) y[r * batch + b] = out[b];
  }
}

// The same for words of 8 bytes, which few processors multiply: low halves as 32 x 32 -> 64, cross products modulo 2^32.
template <std::size_t kRows>
void large_words(const std::uint64_t* HWY_RESTRICT u, std::size_t cols, const std::uint64_t* HWY_RESTRICT x,
                 std::size_t batch, Word* HWY_RESTRICT y) {
  constexpr std::size_t kGroup = k_group_bytes / 8;
  const hn::CappedTag<std::uint64_t, kGroup> d;
  constexpr std::size_t kLanes = HWY_MIN(hn::MaxLanes(decltype(d)()), kGroup), kVectors = kGroup / kLanes;
  using V = hn::Vec<decltype(d)>;
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  V acc[kRows][kVectors];
  for (auto& row : acc) {
    for (auto& vector : row) vector = hn::Zero(d);
  }
  for (std::size_t c = 0; c < cols; ++c) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const V column = hn::Load(d, x + c * kGroup + v * kLanes);
      for (std::size_t r = 0; r < kRows; ++r) {
        acc[r][v] = hn::Add(acc[r][v], hn::Mul(hn::Set(d, u[r * cols + c]), column));
      }
    }
  }
#else
  const hn::Repartition<std::uint32_t, decltype(d)> d32;
  V low[kRows][kVectors], acc[kRows][kVectors];
  hn::Vec<decltype(d32)> cross[kRows][kVectors];
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      low[r][v] = hn::Zero(d);
      cross[r][v] = hn::Zero(d32);
    }
  }
  for (std::size_t c = 0; c < cols; ++c) {
    hn::Vec<decltype(d32)> column[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) column[v] = hn::BitCast(d32, hn::Load(d, x + c * kGroup + v * kLanes));
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto word = hn::BitCast(d32, hn::Set(d, u[r * cols + c]));
      const auto swapped = hn::Shuffle2301(word);
      for (std::size_t v = 0; v < kVectors; ++v) {
        low[r][v] = hn::Add(low[r][v], hn::MulEven(word, column[v]));
        cross[r][v] = hn::Add(cross[r][v], hn::Mul(swapped, column[v]));
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const V both = hn::BitCast(d, cross[r][v]);
      acc[r][v] = hn::Add(low[r][v], hn::ShiftLeft<32>(hn::Add(both, hn::ShiftRight<32>(both))));
    }
  }
#endif
  HWY_ALIGN std::uint64_t out[kGroup];
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) hn::Store(acc[r][v], d, out + v * kLanes);
    for (std::size_t b = 0; b < kGroup; ++b) y[r * batch + b] = out[b];
  }
}

template <class T, std::size_t kRows>
HWY_INLINE void some_rows(const T* u, std::size_t cols, const T* x, std::size_t batch, Word* y) {
  if constexpr (sizeof(T) == 8) {
    large_words<kRows>(u, cols, x, batch, y);
  } else {
    small_words<T, kRows>(u, cols, x, batch, y);
  }
}

template <class T, std::size_t kRows>
void all_rows(const T* u, std::size_t rows, std::size_t cols, const T* x, std::size_t groups, Word* y) {
  constexpr std::size_t kGroup = k_group_bytes / sizeof(T);
  const std::size_t batch = groups * kGroup;
  for (std::size_t r = 0; r < rows;) {
    const bool several = rows - r >= kRows;
    for (std::size_t g = 0; g < groups; ++g) {
      const T* group = x + g * cols * kGroup;
      Word* to = y + r * batch + g * kGroup;
      if (several) {
        some_rows<T, kRows>(u + r * cols, cols, group, batch, to);
      } else {
        some_rows<T, 1>(u + r * cols, cols, group, batch, to);
      }
    }
    r += several ? kRows : 1;
  }
}

void ring_rows(const void* u, std::size_t container, std::size_t rows, std::size_t cols, const void* x, std::size_t groups,
               Word* y) {
  switch (container) {
    case 2:
      return all_rows<std::uint16_t, 4>(static_cast<const std::uint16_t*>(u), rows, cols,
                                        static_cast<const std::uint16_t*>(x), groups, y);
    case 4:
      return all_rows<std::uint32_t, 4>(static_cast<const std::uint32_t*>(u), rows, cols,
                                        static_cast<const std::uint32_t*>(x), groups, y);
    default:
      return all_rows<std::uint64_t, 2>(static_cast<const std::uint64_t*>(u), rows, cols,
                                        static_cast<const std::uint64_t*>(x), groups, y);
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
HWY_EXPORT(ring_rows);
HWY_EXPORT(int_block_float);
HWY_EXPORT(float_row);
HWY_EXPORT(target);

namespace {

// PERMLLM_SIMD caps the target ("scalar", "ssse3", "sse4", "avx2", "avx3"), so that tests can compare them.
const bool k_capped = [] {
  const char* cap = std::getenv("PERMLLM_SIMD");
  if (cap == nullptr) return false;
  const std::string name(cap);
  const std::int64_t best = name == "scalar"  ? HWY_SCALAR
                            : name == "ssse3" ? HWY_SSSE3
                            : name == "sse4"  ? HWY_SSE4
                            : name == "avx2"  ? HWY_AVX2
                                              : HWY_AVX3;
  // Targets are bits; a better one is a lower bit.
  hwy::SetSupportedTargetsForTest(hwy::SupportedTargets() & ~(best - 1));
  return true;
}();

}  // namespace

void int_block(const std::int16_t* tiles, std::size_t pairs, const std::int16_t* limbs, Ring ring, Word* y) {
  HWY_DYNAMIC_DISPATCH(int_block)(tiles, pairs, limbs, ring, y);
}
void ring_rows(const void* u, std::size_t container, std::size_t rows, std::size_t cols, const void* x, std::size_t groups,
               Word* y) {
  HWY_DYNAMIC_DISPATCH(ring_rows)(u, container, rows, cols, x, groups, y);
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
