#include "ring/ring_kernels.h"

#include "ring/simd.h"

#define HWY_WANT_AVX3_DL
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ring/ring_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace permllm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
using scalar::ring_tile;
#else

template <class T>
using Lanes = hn::CappedTag<T, k_group_bytes / sizeof(T)>;

// How a sum of products is kept: `add` one step of a row, the same in each lane, times one step of the columns. Constructors
// are written out, because GCC compiles its own for the target of the whole program.
template <class T>
struct WordSum {
  using Tag = Lanes<T>;
  hn::Vec<Tag> sum;
  HWY_INLINE WordSum() : sum(hn::Zero(Tag())) {}
  HWY_INLINE void add(hn::Vec<Tag> word, hn::Vec<Tag> column) { sum = hn::Add(sum, hn::Mul(word, column)); }
  HWY_INLINE hn::Vec<Tag> total() const { return sum; }
};

// Two words of 2 bytes a step. Their products and sums wrap around in 32 bits, of which the low 16 are right.
struct PairSum {
  using Tag = Lanes<std::uint32_t>;
  hn::Vec<Tag> sum;
  HWY_INLINE PairSum() : sum(hn::Zero(Tag())) {}
  HWY_INLINE void add(hn::Vec<Tag> word, hn::Vec<Tag> column) {
#if HWY_TARGET == HWY_AVX3_DL
    // Highway's target names another extension with this instruction, so that the compiler would refuse its intrinsic.
    asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(word.raw), "v"(column.raw));
#elif HWY_TARGET == HWY_AVX3
    sum.raw = _mm512_add_epi32(sum.raw, _mm512_madd_epi16(word.raw, column.raw));
#elif HWY_TARGET == HWY_AVX2
    sum.raw = _mm256_add_epi32(sum.raw, _mm256_madd_epi16(word.raw, column.raw));
#elif HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128
    sum.raw = _mm_add_epi32(sum.raw, _mm_madd_epi16(word.raw, column.raw));
#else
    const auto high = hn::Mul(hn::ShiftRight<16>(word), hn::ShiftRight<16>(column));
    sum = hn::Add(sum, hn::Add(high, hn::Mul(word, column)));
#endif
  }
  HWY_INLINE hn::Vec<Tag> total() const { return sum; }
};

#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
using WideSum = WordSum<std::uint64_t>;
#else
// Words of 8 bytes, which few processors multiply: low halves as 32 x 32 -> 64, cross products modulo 2^32.
struct WideSum {
  using Tag = Lanes<std::uint64_t>;
  using Halves = hn::Repartition<std::uint32_t, Tag>;
  hn::Vec<Tag> low;
  hn::Vec<Halves> cross;
  HWY_INLINE WideSum() : low(hn::Zero(Tag())), cross(hn::Zero(Halves())) {}
  HWY_INLINE void add(hn::Vec<Tag> word, hn::Vec<Tag> column) {
    const auto u = hn::BitCast(Halves(), word), x = hn::BitCast(Halves(), column);
    low = hn::Add(low, hn::MulEven(u, x));
    cross = hn::Add(cross, hn::Mul(hn::Shuffle2301(u), x));
  }
  HWY_INLINE hn::Vec<Tag> total() const {
    const auto both = hn::BitCast(Tag(), cross);
    return hn::Add(low, hn::ShiftLeft<32>(hn::Add(both, hn::ShiftRight<32>(both))));
  }
};
#endif

#if HWY_TARGET == HWY_AVX3_DL
// Rings of up to 52 bits: low 52 bits of both words multiplied, low 52 bits of the product added. Not an intrinsic, as above.
struct Sum52 {
  using Tag = Lanes<std::uint64_t>;
  hn::Vec<Tag> sum;
  HWY_INLINE Sum52() : sum(hn::Zero(Tag())) {}
  HWY_INLINE void add(hn::Vec<Tag> word, hn::Vec<Tag> column) {
    asm("vpmadd52luq %2, %1, %0" : "+v"(sum.raw) : "v"(word.raw), "v"(column.raw));
  }
  HWY_INLINE hn::Vec<Tag> total() const { return sum; }
};
#endif

// kCount vectors of columns, and the sums of one row with each. Plain members one inside the other: GCC 12 keeps those in
// registers, and an array of vectors on the stack.
template <class Sum, std::size_t kCount>
struct Columns {
  hn::Vec<typename Sum::Tag> first;
  Columns<Sum, kCount - 1> rest;
  template <class T>
  HWY_INLINE Columns(const T* x, std::size_t apart) : first(hn::Load(typename Sum::Tag(), x)), rest(x + apart, apart) {}
};
template <class Sum>
struct Columns<Sum, 0> {
  template <class T>
  HWY_INLINE Columns(const T*, std::size_t) {}
};

template <class Sum, std::size_t kCount>
struct RowSums {
  Sum first;
  RowSums<Sum, kCount - 1> rest;
  HWY_INLINE RowSums() {}
  HWY_INLINE void add(hn::Vec<typename Sum::Tag> word, const Columns<Sum, kCount>& columns) {
    first.add(word, columns.first);
    rest.add(word, columns.rest);
  }
  template <class T>
  HWY_INLINE void add_to(T* sums) const {
    const typename Sum::Tag d;
    hn::Store(hn::Add(hn::Load(d, sums), first.total()), d, sums);
    rest.add_to(sums + hn::Lanes(d));
  }
};
template <class Sum>
struct RowSums<Sum, 0> {
  HWY_INLINE RowSums() {}
  HWY_INLINE void add(hn::Vec<typename Sum::Tag>, const Columns<Sum, 0>&) {}
  template <class T>
  HWY_INLINE void add_to(T*) const {}
};

// Four rows times kCount vectors of columns, which lie `apart` from each other. row_sums: from one row of sums to the next.
template <class Sum, std::size_t kCount, class T>
HWY_INLINE void four_rows(const T* HWY_RESTRICT u, std::size_t stride, std::size_t steps, const T* HWY_RESTRICT x,
                          std::size_t apart, T* HWY_RESTRICT sums, std::size_t row_sums) {
  const typename Sum::Tag d;
  RowSums<Sum, kCount> a, b, e, f;
  for (std::size_t c = 0; c < steps; ++c) {
    const Columns<Sum, kCount> columns(x + c * (k_group_bytes / sizeof(T)), apart);
    a.add(hn::Set(d, u[c]), columns);
    b.add(hn::Set(d, u[stride + c]), columns);
    e.add(hn::Set(d, u[2 * stride + c]), columns);
    f.add(hn::Set(d, u[3 * stride + c]), columns);
  }
  a.add_to(sums);
  b.add_to(sums + row_sums);
  e.add_to(sums + 2 * row_sums);
  f.add_to(sums + 3 * row_sums);
}

// Into the second cache, because the first holds what is being multiplied: four rows' share of what the next tile needs.
HWY_INLINE void fetch_ahead(const RingTile& tile, std::size_t first) {
  // Its columns follow on these.
  const std::size_t lines = tile.groups * tile.steps;
  const auto* columns = static_cast<const std::uint8_t*>(tile.x) + lines * k_group_bytes;
  for (std::size_t i = lines * first / tile.rows; i < lines * (first + k_row_step) / tile.rows; ++i) {
    __builtin_prefetch(columns + i * k_group_bytes, 0, 2);
  }
  if (tile.ahead == nullptr) return;
  for (std::size_t r = first; r < first + k_row_step; ++r) {
    const auto* row = static_cast<const std::uint8_t*>(tile.ahead) + r * tile.ahead_stride;
    for (std::size_t b = 0; b < tile.ahead_bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
  }
}

template <class Sum, std::size_t kCount>
void all_rows(const RingTile& tile, std::size_t group, std::size_t lane, void* sums) {
  using T = hn::TFromD<typename Sum::Tag>;
  constexpr std::size_t kGroup = k_group_bytes / sizeof(T), kLanes = HWY_MIN(hn::MaxLanes(typename Sum::Tag()), kGroup);
  const std::size_t stride = tile.stride / sizeof(T), row_sums = tile.groups * kGroup;
  const std::size_t apart = kLanes == kGroup ? tile.steps * kGroup : kLanes;
  for (std::size_t r = 0; r < tile.rows; r += k_row_step) {
    if (group == 0 && lane == 0) fetch_ahead(tile, r);
    four_rows<Sum, kCount>(static_cast<const T*>(tile.u) + r * stride, stride, tile.steps,
                           static_cast<const T*>(tile.x) + group * tile.steps * kGroup + lane, apart,
                           static_cast<T*>(sums) + r * row_sums + group * kGroup + lane, row_sums);
  }
}

// As many vectors of columns at a time as registers hold the sums of: where a vector is a whole group, up to four groups;
// else two parts of a group, or one where a sum takes two registers.
template <class Sum>
void all_groups(const RingTile& tile, void* sums) {
  using T = hn::TFromD<typename Sum::Tag>;
  constexpr std::size_t kGroup = k_group_bytes / sizeof(T), kLanes = HWY_MIN(hn::MaxLanes(typename Sum::Tag()), kGroup);
  if constexpr (kLanes == kGroup) {
    std::size_t g = 0;
    for (; g + 4 <= tile.groups; g += 4) all_rows<Sum, 4>(tile, g, 0, sums);
    if (g + 2 <= tile.groups) all_rows<Sum, 2>(tile, g, 0, sums), g += 2;
    if (g < tile.groups) all_rows<Sum, 1>(tile, g, 0, sums);
  } else {
    constexpr std::size_t kCount = sizeof(Sum) > sizeof(T) * kLanes ? 1 : 2;
    for (std::size_t g = 0; g < tile.groups; ++g) {
      for (std::size_t lane = 0; lane < kGroup; lane += kCount * kLanes) all_rows<Sum, kCount>(tile, g, lane, sums);
    }
  }
}

void ring_tile(const RingTile& tile, void* sums) {
#if HWY_TARGET == HWY_AVX3_DL
  if (tile.container == 8 && tile.ring.bits <= 52 && __builtin_cpu_supports("avx512ifma"))
    return all_groups<Sum52>(tile, sums);
#endif
  switch (tile.container) {
    case 2:
      return all_groups<PairSum>(tile, sums);
    case 4:
      return all_groups<WordSum<std::uint32_t> >(tile, sums);
    default:
      return all_groups<WideSum>(tile, sums);
  }
}

#endif  // HWY_SCALAR

}  // namespace permllm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm::kernels {

HWY_EXPORT(ring_tile);

namespace {
const bool k_capped = cap_simd();
}  // namespace

void ring_tile(const RingTile& tile, void* sums) { HWY_DYNAMIC_DISPATCH(ring_tile)(tile, sums); }

namespace scalar {
namespace {

// T: a lane; a step holds sizeof(T) / sizeof(W) words.
template <class T, class W>
void tile_of(const RingTile& tile, T* sums) {
  constexpr std::size_t k_lanes = k_group_bytes / sizeof(T), k_words = sizeof(T) / sizeof(W);
  for (std::size_t r = 0; r < tile.rows; ++r) {
    const auto* row = reinterpret_cast<const W*>(static_cast<const std::uint8_t*>(tile.u) + r * tile.stride);
    for (std::size_t g = 0; g < tile.groups; ++g) {
      const W* x = static_cast<const W*>(tile.x) + g * tile.steps * k_lanes * k_words;
      for (std::size_t lane = 0; lane < k_lanes; ++lane) {
        T& sum = sums[(r * tile.groups + g) * k_lanes + lane];
        for (std::size_t c = 0; c < tile.steps * k_words; ++c) {
          sum += static_cast<T>(T{row[c]} * T{x[(c / k_words * k_lanes + lane) * k_words + c % k_words]});
        }
      }
    }
  }
}

}  // namespace

void ring_tile(const RingTile& tile, void* sums) {
  switch (tile.container) {
    case 2:
      return tile_of<std::uint32_t, std::uint16_t>(tile, static_cast<std::uint32_t*>(sums));
    case 4:
      return tile_of<std::uint32_t, std::uint32_t>(tile, static_cast<std::uint32_t*>(sums));
    default:
      return tile_of<std::uint64_t, std::uint64_t>(tile, static_cast<std::uint64_t*>(sums));
  }
}

}  // namespace scalar
}  // namespace permllm::kernels
#endif  // HWY_ONCE
