#include "ring/int_kernels.h"

#include <cstring>
#include <vector>

#include "ring/simd.h"

#define HWY_WANT_AVX3_DL 1  // vpdpwssd
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ring/int_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef PERMLLM_RING_INT_KERNELS_ONCE
#define PERMLLM_RING_INT_KERNELS_ONCE
namespace permllm::kernels {
namespace {

// x + bias has limbs of 2^15 more than the signed limbs of x: carries go where borrows would.
constexpr Word k_limb_bias = 0x8000800080008000u;

}  // namespace
}  // namespace permllm::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace permllm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
using scalar::code_block;
using scalar::cut_words;
using scalar::finish_rows;
using scalar::int_block;
using scalar::int_block_float;
using scalar::unpack_codes;
std::size_t int_vectors(Ring, std::size_t) { return 1; }
#else

// A strip is as many rows as a vector has 32-bit lanes; a block is a few strips.
using D32 = hn::CappedTag<std::int32_t, 16>;
using D64 = hn::Repartition<std::int64_t, D32>;
using D16 = hn::Repartition<std::int16_t, D32>;
using V32 = hn::Vec<D32>;
using V16 = hn::Vec<D16>;
constexpr std::size_t kLanes = HWY_MIN(hn::MaxLanes(D32()), 16), kStrips = k_block_rows / kLanes;
static_assert(kStrips % 2 == 0);

// acc[row] += w[row][0] x[0] + w[row][1] x[1], for 16-bit w and x and 32-bit accumulators that wrap around.
HWY_INLINE V32 multiply_add_pairs(V16 weights, V32 x, V32 acc) {
  // Sums are added in assembly: GCC would regroup them, which takes more registers than there are.
#if HWY_TARGET == HWY_AVX2
  asm("vpaddd %1, %0, %0" : "+x"(acc.raw) : "x"(_mm256_madd_epi16(weights.raw, x.raw)));
  return acc;
#elif HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3_DL
  // Highway's option string for this target lacks avx512vnni, which its run-time test asks for: no intrinsic.
  asm("vpdpwssd %2, %1, %0" : "+v"(acc.raw) : "v"(weights.raw), "v"(x.raw));
  return acc;
#elif HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3
  asm("vpaddd %1, %0, %0" : "+v"(acc.raw) : "v"(_mm512_madd_epi16(weights.raw, x.raw)));
  return acc;
#else
  const auto w = hn::BitCast(D32(), weights);
  const auto even = hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(w)), hn::ShiftRight<16>(hn::ShiftLeft<16>(x)));
  const auto odd = hn::Mul(hn::ShiftRight<16>(w), hn::ShiftRight<16>(x));
  return hn::Add(acc, hn::Add(even, odd));
#endif
}

// One strip of a group: four tiles as numbers of 16 bits.
struct Tiles {
  V16 w0, w1, w2, w3;
};

template <int kBits>
HWY_INLINE Tiles unpack_tiles(const std::int16_t* HWY_RESTRICT group) {
  const D16 d;
  const auto a = hn::Load(d, group), b = hn::Load(d, group + k_plane_words);
  if constexpr (kBits == 16) {
    return {a, b, hn::Load(d, group + 2 * k_plane_words), hn::Load(d, group + 3 * k_plane_words)};
  } else if constexpr (kBits == 8) {
    return {hn::ShiftRight<8>(a), hn::ShiftRight<8>(hn::ShiftLeft<8>(a)), hn::ShiftRight<8>(b),
            hn::ShiftRight<8>(hn::ShiftLeft<8>(b))};
  } else {
    const auto c = hn::Load(d, group + 2 * k_plane_words);
#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3_DL
    // Each step shifts the low nibble of the next plane in from above.
    const V16 ba{_mm512_shrdi_epi16(_mm512_slli_epi16(a.raw, 12), b.raw, 4)};
    const V16 nibbles{_mm512_shrdi_epi16(ba.raw, c.raw, 4)};
#elif HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3
    // A selection by bits is one instruction.
    const auto ab = hn::IfVecThenElse(hn::Set(d, 15), a, hn::ShiftLeft<4>(b));
    const auto nibbles = hn::IfVecThenElse(hn::Set(d, 0x0fff), hn::ShiftLeft<4>(ab), hn::ShiftLeft<12>(c));
#else
    const auto low = hn::Set(d, 15);
    const auto ab = hn::Or(hn::ShiftLeft<4>(hn::And(a, low)), hn::ShiftLeft<8>(hn::And(b, low)));
    const auto nibbles = hn::Or(ab, hn::ShiftLeft<12>(c));
#endif
    return {hn::ShiftRight<4>(a), hn::ShiftRight<4>(b), hn::ShiftRight<4>(c), hn::ShiftRight<4>(nibbles)};
  }
}

// Limb l only matters modulo 2^(bits - 16 l). Where that is at most 32 bits, 32-bit wrap-around is the arithmetic. The sums
// of the other limbs, the wide ones, are low + 2^16 high: after every few groups all but the low 16 bits move to `high`.
constexpr std::int64_t k_limb_bound = std::int64_t{1} << 15;
constexpr std::int64_t k_low_bound = (std::int64_t{1} << 16) - 1;

constexpr std::int64_t group_bound(int bits) {
  return static_cast<std::int64_t>(k_group_cols) * ((std::int64_t{1} << (bits - 1)) - 1) * k_limb_bound;
}
constexpr std::size_t widen_every(int bits) { return bits == 8 ? 64 : bits == 12 ? 4 : 2; }  // groups
static_assert(static_cast<std::int64_t>(widen_every(12)) * group_bound(12) + k_low_bound <= INT32_MAX);
static_assert(static_cast<std::int64_t>(widen_every(8)) * group_bound(8) + k_low_bound <= INT32_MAX);
static_assert(static_cast<std::int64_t>(widen_every(16)) * group_bound(k_coded_bits) + k_low_bound <= INT32_MAX);

// The sums of one vector, two strips and kLimbs limbs, the first kWide of which are wide. Sums are members of a recursive
// structure: GCC 12 keeps those in registers, and an array of vectors on the stack.
template <std::size_t kLimbs, std::size_t kWide>
struct LimbSums {
  V32 a = hn::Zero(D32()), b = hn::Zero(D32()), high_a = hn::Zero(D32()), high_b = hn::Zero(D32());
  LimbSums<kLimbs - 1, kWide == 0 ? 0 : kWide - 1> next;

  HWY_INLINE void add(V16 wa, V16 wb, const std::uint32_t* HWY_RESTRICT x) {
    const auto pair = hn::Set(D32(), static_cast<std::int32_t>(*x));
    a = multiply_add_pairs(wa, pair, a);
    b = multiply_add_pairs(wb, pair, b);
    next.add(wa, wb, x + 1);
  }
  HWY_INLINE void widen() {
    if constexpr (kWide > 0) {
      const auto low = hn::Set(D32(), k_low_bound);
      high_a = hn::Add(high_a, hn::ShiftRight<16>(a));
      high_b = hn::Add(high_b, hn::ShiftRight<16>(b));
      a = hn::And(a, low);
      b = hn::And(b, low);
      next.widen();
    }
  }
  // The sum of the limbs in place, of one half of strip a or b.
  template <bool kUpper>
  HWY_INLINE hn::Vec<D64> total(bool strip_b) const {
    auto sum = extend<kUpper>(strip_b ? b : a);
    if constexpr (kWide > 0) sum = hn::Add(sum, hn::ShiftLeft<16>(extend<kUpper>(strip_b ? high_b : high_a)));
    if constexpr (kLimbs > 1) sum = hn::Add(sum, hn::ShiftLeft<16>(next.template total<kUpper>(strip_b)));
    return sum;
  }
  template <bool kUpper>
  static HWY_INLINE hn::Vec<D64> extend(V32 v) {
    if constexpr (kUpper)
      return hn::PromoteTo(D64(), hn::UpperHalf(hn::Half<D32>(), v));
    else
      return hn::PromoteTo(D64(), hn::LowerHalf(hn::Half<D32>(), v));
  }
};
template <>
struct LimbSums<0, 0> {
  HWY_INLINE void add(V16, V16, const std::uint32_t*) {}
};

// The sums of kVectors vectors.
template <std::size_t kVectors, std::size_t kLimbs, std::size_t kWide>
struct Sums {
  LimbSums<kLimbs, kWide> own;
  Sums<kVectors - 1, kLimbs, kWide> rest;

  HWY_INLINE void add(V16 wa, V16 wb, const std::uint32_t* HWY_RESTRICT x) {
    own.add(wa, wb, x);
    rest.add(wa, wb, x + kLimbs);
  }
  HWY_INLINE void widen() {
    own.widen();
    rest.widen();
  }
  HWY_INLINE void add_to(Word* HWY_RESTRICT y) const {
    const D64 d;
    auto* to = reinterpret_cast<std::int64_t*>(y);
    const auto add = [d](hn::Vec<D64> sum, std::int64_t* at) { hn::StoreU(hn::Add(sum, hn::LoadU(d, at)), d, at); };
    add(own.template total<false>(false), to);
    add(own.template total<true>(false), to + kLanes / 2);
    add(own.template total<false>(true), to + kLanes);
    add(own.template total<true>(true), to + kLanes + kLanes / 2);
    rest.add_to(y + k_block_rows);
  }
};
template <std::size_t kLimbs, std::size_t kWide>
struct Sums<0, kLimbs, kWide> {
  HWY_INLINE void add(V16, V16, const std::uint32_t*) {}
  HWY_INLINE void widen() {}
  HWY_INLINE void add_to(Word*) const {}
};

// The processor's own prefetch stops at the end of a page, so the weights of one vector are fetched ahead of the
// multiplications. Where arithmetic is little for each byte, loads come fast enough to lead that prefetch, and it only
// needs help across pages. Where it is much, loads come too late to lead it: weights are called from afar into the
// second cache, which can wait for more of them than the first, and from near into the first.
template <int kBits, std::size_t kLimbs>
constexpr bool fetches_far() {
  constexpr std::size_t kMuch = HWY_TARGET <= HWY_AVX3_DL ? 4 : HWY_TARGET <= HWY_AVX3 ? 3 : 2;
  return kLimbs * 12 >= kMuch * static_cast<std::size_t>(kBits);
}

template <std::size_t kBytes, bool kFar>
HWY_INLINE void fetch_ahead(const std::uint8_t* at) {
  for (std::size_t byte = 0; byte < kBytes; byte += 64) {
    if constexpr (kFar) __builtin_prefetch(at + byte + 12288, 0, 2);
    __builtin_prefetch(at + byte + (kFar ? 1024 : 4096), 0, 3);
  }
}

// A pass over a block multiplies two strips. Where a block is more, one vector takes the passes stretch by stretch: the later
// ones find their weights in the first cache, and the loads from memory are spread over the arithmetic of all of them.
constexpr std::size_t k_passes = kStrips / 2, k_stretch = 32;  // groups

template <int kBits, std::size_t kVectors, std::size_t kLimbs, std::size_t kWide>
void multiply_block(const IntBlock& block, const std::uint32_t* HWY_RESTRICT x, Word* HWY_RESTRICT y) {
  constexpr std::size_t kPairWords = kVectors * kLimbs, kPart = group_bytes(kBits) / k_passes;
  const std::size_t stretch = kVectors == 1 && k_passes > 1 ? k_stretch : block.groups;
  Sums<kVectors, kLimbs, kWide> kept[k_passes]{};
  const std::uint8_t* ahead = block.packed;
  for (std::size_t from = 0, to; from < block.groups; from = to) {
    to = HWY_MIN(block.groups, from + stretch);
    for (std::size_t pass = 0; pass < k_passes; ++pass) {
      const auto* group =
          reinterpret_cast<const std::int16_t*>(block.packed + from * group_bytes(kBits)) + pass * kLanes * 4;
      const std::uint32_t* limbs = x + from * k_group_pairs * kPairWords;
      Sums<kVectors, kLimbs, kWide> sums = kept[pass];
      for (std::size_t g = from; g < to;) {
        const std::size_t end = kWide == 0 ? to : HWY_MIN(to, g + widen_every(kBits));
        for (; g < end; ++g) {
          if constexpr (kVectors == 1 && kBits != 16) fetch_ahead<kPart, fetches_far<kBits, kLimbs>()>(ahead);
          const Tiles wa = unpack_tiles<kBits>(group), wb = unpack_tiles<kBits>(group + kLanes * 2);
          sums.add(wa.w0, wb.w0, limbs);
          sums.add(wa.w1, wb.w1, limbs + kPairWords);
          sums.add(wa.w2, wb.w2, limbs + 2 * kPairWords);
          sums.add(wa.w3, wb.w3, limbs + 3 * kPairWords);
          ahead += kPart;
          group += group_bytes(kBits) / 2;
          limbs += k_group_pairs * kPairWords;
        }
        sums.widen();
      }
      kept[pass] = sums;
    }
  }
  for (std::size_t pass = 0; pass < k_passes; ++pass) kept[pass].add_to(y + pass * 2 * kLanes);
}

// Vectors at once: as many as leave registers for the weights.
constexpr std::size_t most_vectors(std::size_t limbs) { return HWY_MAX(1, (HWY_TARGET <= HWY_AVX3 ? 12 : 4) / limbs); }

std::size_t int_vectors(Ring ring, std::size_t n) {
  const std::size_t most = most_vectors(limbs_of(ring));
  return n >= most ? most : n >= 2 ? 2 : 1;
}

template <int kBits, std::size_t kLimbs>
void block_of(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Word* y) {
  constexpr std::size_t kWide = kLimbs <= 2 ? 0 : kLimbs - 2, kMost = most_vectors(kLimbs);
  if (vectors == kMost) return multiply_block<kBits, kMost, kLimbs, kWide>(block, x, y);
  if constexpr (kMost > 2) {
    if (vectors == 2) return multiply_block<kBits, 2, kLimbs, kWide>(block, x, y);
  }
  if constexpr (kMost > 1) multiply_block<kBits, 1, kLimbs, kWide>(block, x, y);
}

template <int kBits>
void block_in(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Ring ring, Word* y) {
  switch (limbs_of(ring)) {
    case 1:
      return block_of<kBits, 1>(block, x, vectors, y);
    case 2:
      return block_of<kBits, 2>(block, x, vectors, y);
    case 3:
      return block_of<kBits, 3>(block, x, vectors, y);
    default:
      return block_of<kBits, 4>(block, x, vectors, y);
  }
}

void int_block(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Ring ring, Word* y) {
  return block.bits == 8    ? block_in<8>(block, x, vectors, ring, y)
         : block.bits == 12 ? block_in<12>(block, x, vectors, ring, y)
                            : block_in<16>(block, x, vectors, ring, y);
}

using DWord = hn::CappedTag<Word, 8>;
constexpr std::size_t kWords = hn::MaxLanes(DWord());

HWY_INLINE hn::Vec<DWord> shifted(const Word* words, const std::uint8_t* shifts) {
  const DWord d;
  const hn::Rebind<std::uint32_t, DWord> half;
  const auto by = hn::PromoteTo(half, hn::LoadU(hn::Rebind<std::uint8_t, DWord>(), shifts));
  return hn::Shl(hn::LoadU(d, words), hn::PromoteTo(d, by));
}

void finish_rows(std::span<const Word> sums, const std::uint8_t* shifts, Ring ring, Word* y) {
  const DWord d;
  std::size_t r = 0;
  for (; r + kWords <= sums.size(); r += kWords)
    hn::StoreU(hn::And(shifted(sums.data() + r, shifts + r), hn::Set(d, ring.mask())), d, y + r);
  scalar::finish_rows(sums.subspan(r), shifts + r, ring, y + r);
}

void cut_words(std::span<const Word> x, const std::uint8_t* shifts, Ring ring, std::uint32_t* limbs) {
  if (limbs_of(ring) != 4 || kWords % 2 != 0) return scalar::cut_words(x, shifts, ring, limbs);
  const DWord d;
  const hn::Repartition<std::uint8_t, DWord> bytes;
  // Limbs of a pair of words lie one word after the other, and are wanted limb by limb.
  alignas(64) std::uint8_t order[hn::MaxLanes(bytes)];
  for (std::size_t i = 0; i < sizeof order; ++i)
    order[i] = static_cast<std::uint8_t>(i % 16 / 4 * 2 + i % 4 / 2 * 8 + i % 2);
  const auto index = hn::Load(bytes, order);
  const auto bias = hn::Set(d, k_limb_bias);
  std::size_t c = 0;
  for (; c + kWords <= x.size(); c += kWords) {
    const auto cut = hn::Xor(hn::Add(shifted(x.data() + c, shifts + c), bias), bias);
    hn::StoreU(hn::TableLookupBytes(hn::BitCast(bytes, cut), index), bytes,
               reinterpret_cast<std::uint8_t*>(limbs + 2 * c));
  }
  scalar::cut_words(x.subspan(c), shifts + c, ring, limbs + 2 * c);
}

using DU16 = hn::Repartition<std::uint16_t, D32>;
using VU16 = hn::Vec<DU16>;

// Bits [kFrom, kFrom + kCount) of each word, moved to kTo and up.
template <int kFrom, int kTo, int kCount>
HWY_INLINE VU16 move_bits(VU16 words) {
  const auto mask = hn::Set(DU16(), static_cast<std::uint16_t>(((1 << kCount) - 1) << kTo));
  if constexpr (kTo >= kFrom)
    return hn::And(hn::ShiftLeft<kTo - kFrom>(words), mask);
  else
    return hn::And(hn::ShiftRight<kFrom - kTo>(words), mask);
}

// Sixteen bits of each row of a strip, for both columns of a pair.
HWY_INLINE V16 both_columns(const std::uint8_t* words) {
  const hn::Repartition<std::uint32_t, D32> d;
  const hn::Rebind<std::uint16_t, decltype(d)> half;
  const auto low = hn::PromoteTo(d, hn::LoadU(half, reinterpret_cast<const std::uint16_t*>(words)));
  return hn::BitCast(D16(), hn::Or(low, hn::ShiftLeft<16>(low)));
}

// Tile kTile of group kGroup of a span; low and high: the strip's words of the group, and its part of the span's high planes.
template <int kBits, int kGroup, int kTile>
HWY_INLINE V16 code_tile(VU16 low, const std::uint8_t* high, V16 scale, V16 zero, V16 gain) {
  constexpr int kHigh = kBits - 4, kBit = (kGroup * 4 + kTile) * kHigh;
  auto code = move_bits<4 * kTile, k_code_top - kBits, 4>(low);
  if constexpr (kHigh > 0) {
    const auto* plane = reinterpret_cast<const std::uint16_t*>(high) + kBit / 16 * k_plane_words;
    code = hn::Or(code, move_bits<kBit % 16, k_code_top - kHigh, kHigh>(hn::Load(DU16(), plane)));
  }
  return hn::MulFixedPoint15(hn::MulFixedPoint15(hn::Sub(hn::BitCast(D16(), code), zero), gain), scale);
}

HWY_INLINE V16 both_of_pair(const std::uint32_t* pair) {
  return hn::BitCast(D16(), hn::Set(D32(), static_cast<std::int32_t>(*pair)));
}

template <int kBits, int kGroup, int kTile>
HWY_INLINE void unpack_tile(VU16 low, const std::uint8_t* high, V16 scale, V16 zero, const std::uint32_t* gains,
                            std::int16_t* HWY_RESTRICT tiles) {
  const auto tile = code_tile<kBits, kGroup, kTile>(low, high, scale, zero, both_of_pair(gains + kTile));
  hn::Store(tile, D16(), tiles + kTile * k_plane_words);
}

// One strip of a span.
struct SpanStrip {
  V16 scale, zero;
  const std::uint8_t *low, *high;  // its part of the planes

  HWY_INLINE SpanStrip(const CodeForm& form, const std::uint8_t* span, std::size_t strip) {
    constexpr std::size_t kBytes = kLanes * 2;  // among scales; twice as many in a plane
    scale = both_columns(span + strip * kBytes);
    zero = form.zeros ? both_columns(span + k_block_rows * 2 + strip * kBytes) : hn::Set(D16(), 1 << (k_code_top - 1));
    low = span + scale_bytes(form) + strip * kBytes * 2;
    high = span + high_planes_at(form) + strip * kBytes * 2;
  }
  template <int kGroup>
  HWY_INLINE VU16 words() const {
    return hn::Load(DU16(), reinterpret_cast<const std::uint16_t*>(low) + kGroup * k_plane_words);
  }
};

HWY_INLINE void fetch_span_ahead(const std::uint8_t* span, std::size_t bytes) {
  for (std::size_t byte = 0; byte < bytes; byte += 64) {
    __builtin_prefetch(span + byte + 12288, 0, 2);
    __builtin_prefetch(span + byte + 1024, 0, 3);
  }
}

template <int kBits, int kGroup>
HWY_INLINE void unpack_group(const SpanStrip& of, const std::uint32_t* gains, std::int16_t* HWY_RESTRICT tiles) {
  const auto words = of.template words<kGroup>();
  gains += kGroup * k_group_pairs;
  tiles += kGroup * k_group_words;
  unpack_tile<kBits, kGroup, 0>(words, of.high, of.scale, of.zero, gains, tiles);
  unpack_tile<kBits, kGroup, 1>(words, of.high, of.scale, of.zero, gains, tiles);
  unpack_tile<kBits, kGroup, 2>(words, of.high, of.scale, of.zero, gains, tiles);
  unpack_tile<kBits, kGroup, 3>(words, of.high, of.scale, of.zero, gains, tiles);
}

template <int kBits>
void unpack_spans(const CodeBlock& block, std::size_t first, std::size_t groups, std::int16_t* HWY_RESTRICT tiles) {
  const CodeForm form = block.form;
  const std::size_t bytes = span_bytes(form), in_span = form.span / k_group_cols;
  const std::uint8_t* span = block.packed + first / in_span * bytes;
  const std::uint32_t* gains = block.gains + first * k_group_pairs;
  const std::uint8_t* const end = span + groups / in_span * bytes;
  for (; span != end; span += bytes, gains += in_span * k_group_pairs, tiles += in_span * k_group_words) {
    fetch_span_ahead(span, bytes);
    for (std::size_t strip = 0; strip < kStrips; ++strip) {
      const SpanStrip of(form, span, strip);
      std::int16_t* to = tiles + strip * kLanes * 2;
      unpack_group<kBits, 0>(of, gains, to);
      unpack_group<kBits, 1>(of, gains, to);
      if (in_span == 4) {
        unpack_group<kBits, 2>(of, gains, to);
        unpack_group<kBits, 3>(of, gains, to);
      }
    }
  }
}

void unpack_codes(const CodeBlock& block, std::size_t first, std::size_t groups, std::int16_t* tiles) {
  switch (block.form.bits) {
    case 4:
      return unpack_spans<4>(block, first, groups, tiles);
    case 5:
      return unpack_spans<5>(block, first, groups, tiles);
    case 6:
      return unpack_spans<6>(block, first, groups, tiles);
    default:
      return unpack_spans<8>(block, first, groups, tiles);
  }
}

// One vector: tiles are multiplied as they are made, where multiply-adds are one instruction: the makings of the next ones run beside them.
#if HWY_TARGET <= HWY_AVX3_DL && HWY_ARCH_X86
static_assert(kStrips == 2);

template <int kBits, int kGroup, int kTile, class Sums>
HWY_INLINE void add_tile(const SpanStrip& a, VU16 low_a, const SpanStrip& b, VU16 low_b, const std::uint32_t* gains,
                         const std::uint32_t* HWY_RESTRICT x, std::size_t limbs, Sums& sums) {
  const auto gain = both_of_pair(gains + kGroup * k_group_pairs + kTile);
  sums.add(code_tile<kBits, kGroup, kTile>(low_a, a.high, a.scale, a.zero, gain),
           code_tile<kBits, kGroup, kTile>(low_b, b.high, b.scale, b.zero, gain),
           x + (kGroup * k_group_pairs + kTile) * limbs);
}

template <int kBits, int kGroup, class Sums>
HWY_INLINE void add_group(const SpanStrip& a, const SpanStrip& b, const std::uint32_t* gains,
                          const std::uint32_t* HWY_RESTRICT x, std::size_t limbs, Sums& sums) {
  const auto low_a = a.template words<kGroup>(), low_b = b.template words<kGroup>();
  add_tile<kBits, kGroup, 0>(a, low_a, b, low_b, gains, x, limbs, sums);
  add_tile<kBits, kGroup, 1>(a, low_a, b, low_b, gains, x, limbs, sums);
  add_tile<kBits, kGroup, 2>(a, low_a, b, low_b, gains, x, limbs, sums);
  add_tile<kBits, kGroup, 3>(a, low_a, b, low_b, gains, x, limbs, sums);
}

template <int kBits, std::size_t kLimbs>
void multiply_spans(const CodeBlock& block, std::size_t groups, const std::uint32_t* HWY_RESTRICT x,
                    Word* HWY_RESTRICT y) {
  const CodeForm form = block.form;
  const std::size_t bytes = span_bytes(form), in_span = form.span / k_group_cols;
  const std::uint8_t* span = block.packed;
  const std::uint32_t* gains = block.gains;
  const std::uint8_t* const end = span + groups / in_span * bytes;
  Sums<1, kLimbs, kLimbs <= 2 ? 0 : kLimbs - 2> sums{};
  static_assert(widen_every(16) == 2);
  for (; span != end; span += bytes, gains += in_span * k_group_pairs, x += in_span * k_group_pairs * kLimbs) {
    fetch_span_ahead(span, bytes);
    const SpanStrip a(form, span, 0), b(form, span, 1);
    add_group<kBits, 0>(a, b, gains, x, kLimbs, sums);
    add_group<kBits, 1>(a, b, gains, x, kLimbs, sums);
    sums.widen();
    if (in_span == 4) {
      add_group<kBits, 2>(a, b, gains, x, kLimbs, sums);
      add_group<kBits, 3>(a, b, gains, x, kLimbs, sums);
      sums.widen();
    }
  }
  sums.add_to(y);
}

template <int kBits>
void code_block_in(const CodeBlock& block, std::size_t groups, const std::uint32_t* x, Ring ring, Word* y) {
  switch (limbs_of(ring)) {
    case 1:
      return multiply_spans<kBits, 1>(block, groups, x, y);
    case 2:
      return multiply_spans<kBits, 2>(block, groups, x, y);
    case 3:
      return multiply_spans<kBits, 3>(block, groups, x, y);
    default:
      return multiply_spans<kBits, 4>(block, groups, x, y);
  }
}

void code_block(const CodeBlock& block, std::size_t groups, const std::uint32_t* x, Ring ring, Word* y) {
  switch (block.form.bits) {
    case 4:
      return code_block_in<4>(block, groups, x, ring, y);
    case 5:
      return code_block_in<5>(block, groups, x, ring, y);
    case 6:
      return code_block_in<6>(block, groups, x, ring, y);
    default:
      return code_block_in<8>(block, groups, x, ring, y);
  }
}
#else
void code_block(const CodeBlock& block, std::size_t groups, const std::uint32_t* x, Ring ring, Word* y) {
  alignas(64) std::int16_t tiles[k_unpacked_groups * k_group_words];
  for (std::size_t first = 0; first < groups; first += k_unpacked_groups) {
    const std::size_t some = HWY_MIN(k_unpacked_groups, groups - first);
    HWY_NAMESPACE::unpack_codes(block, first, some, tiles);
    HWY_NAMESPACE::int_block({reinterpret_cast<const std::uint8_t*>(tiles), some, 16},
                             x + first * k_group_pairs * limbs_of(ring), 1, ring, y);
  }
}
#endif

// The sums of one strip and four real vectors. Two strips are multiplied at a time: a multiply-add waits for the one before it.
struct FloatSums {
  using D = hn::Repartition<float, D32>;
  hn::Vec<D> a = hn::Zero(D()), b = hn::Zero(D()), c = hn::Zero(D()), e = hn::Zero(D());

  HWY_INLINE void add(V16 weights, const float* HWY_RESTRICT x) {
    const D d;
    const auto both = hn::BitCast(D32(), weights);
    const auto even = hn::ConvertTo(d, hn::ShiftRight<16>(hn::ShiftLeft<16>(both)));
    const auto odd = hn::ConvertTo(d, hn::ShiftRight<16>(both));
    a = hn::MulAdd(odd, hn::Set(d, x[1]), hn::MulAdd(even, hn::Set(d, x[0]), a));
    b = hn::MulAdd(odd, hn::Set(d, x[3]), hn::MulAdd(even, hn::Set(d, x[2]), b));
    c = hn::MulAdd(odd, hn::Set(d, x[5]), hn::MulAdd(even, hn::Set(d, x[4]), c));
    e = hn::MulAdd(odd, hn::Set(d, x[7]), hn::MulAdd(even, hn::Set(d, x[6]), e));
  }
  HWY_INLINE void add_to(float* y) const {
    const D d;
    hn::StoreU(hn::Add(hn::LoadU(d, y), a), d, y);
    hn::StoreU(hn::Add(hn::LoadU(d, y + k_block_rows), b), d, y + k_block_rows);
    hn::StoreU(hn::Add(hn::LoadU(d, y + 2 * k_block_rows), c), d, y + 2 * k_block_rows);
    hn::StoreU(hn::Add(hn::LoadU(d, y + 3 * k_block_rows), e), d, y + 3 * k_block_rows);
  }
};

template <int kBits>
void float_block(const IntBlock& block, const float* HWY_RESTRICT x, float* HWY_RESTRICT y) {
  for (std::size_t pass = 0; pass < k_passes; ++pass) {
    const auto* group = reinterpret_cast<const std::int16_t*>(block.packed) + pass * kLanes * 4;
    FloatSums left{}, right{};
    for (std::size_t g = 0; g < block.groups; ++g) {
      const std::int16_t* words = group + g * group_bytes(kBits) / 2;
      const Tiles a = unpack_tiles<kBits>(words), b = unpack_tiles<kBits>(words + kLanes * 2);
      const float* at = x + g * k_group_cols * 4;
      left.add(a.w0, at);
      right.add(b.w0, at);
      left.add(a.w1, at + 8);
      right.add(b.w1, at + 8);
      left.add(a.w2, at + 16);
      right.add(b.w2, at + 16);
      left.add(a.w3, at + 24);
      right.add(b.w3, at + 24);
    }
    left.add_to(y + pass * 2 * kLanes);
    right.add_to(y + (pass * 2 + 1) * kLanes);
  }
}

void int_block_float(const IntBlock& block, const float* x, float* y) {
  return block.bits == 8    ? float_block<8>(block, x, y)
         : block.bits == 12 ? float_block<12>(block, x, y)
                            : float_block<16>(block, x, y);
}

#endif  // HWY_SCALAR

const char* int_target() { return hwy::TargetName(HWY_TARGET); }

}  // namespace permllm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm::kernels {

HWY_EXPORT(int_vectors);
HWY_EXPORT(int_block);
HWY_EXPORT(int_block_float);
HWY_EXPORT(unpack_codes);
HWY_EXPORT(code_block);
HWY_EXPORT(cut_words);
HWY_EXPORT(finish_rows);
HWY_EXPORT(int_target);

namespace {

const bool k_capped = cap_simd();

}  // namespace

std::size_t int_vectors(Ring ring, std::size_t n) { return HWY_DYNAMIC_DISPATCH(int_vectors)(ring, n); }
void int_block(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Ring ring, Word* y) {
  HWY_DYNAMIC_DISPATCH(int_block)(block, x, vectors, ring, y);
}
void int_block_float(const IntBlock& block, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(int_block_float)(block, x, y);
}
void unpack_codes(const CodeBlock& block, std::size_t first, std::size_t groups, std::int16_t* tiles) {
  HWY_DYNAMIC_DISPATCH(unpack_codes)(block, first, groups, tiles);
}
void code_block(const CodeBlock& block, std::size_t groups, const std::uint32_t* x, Ring ring, Word* y) {
  HWY_DYNAMIC_DISPATCH(code_block)(block, groups, x, ring, y);
}
void cut_words(std::span<const Word> x, const std::uint8_t* shifts, Ring ring, std::uint32_t* limbs) {
  HWY_DYNAMIC_DISPATCH(cut_words)(x, shifts, ring, limbs);
}
void finish_rows(std::span<const Word> sums, const std::uint8_t* shifts, Ring ring, Word* y) {
  HWY_DYNAMIC_DISPATCH(finish_rows)(sums, shifts, ring, y);
}
const char* int_target() { return HWY_DYNAMIC_DISPATCH(int_target)(); }

namespace scalar {

void cut_words(std::span<const Word> x, const std::uint8_t* shifts, Ring ring, std::uint32_t* limbs) {
  const std::size_t count = limbs_of(ring);
  for (std::size_t c = 0; c < x.size(); c += 2, limbs += count) {
    const Word left = ((x[c] << shifts[c]) + k_limb_bias) ^ k_limb_bias;
    const Word right = c + 1 < x.size() ? ((x[c + 1] << shifts[c + 1]) + k_limb_bias) ^ k_limb_bias : 0;
    for (std::size_t l = 0; l < count; ++l)
      limbs[l] = static_cast<std::uint32_t>((left >> (16 * l) & 0xffff) | (right >> (16 * l) & 0xffff) << 16);
  }
}

void finish_rows(std::span<const Word> sums, const std::uint8_t* shifts, Ring ring, Word* y) {
  for (std::size_t r = 0; r < sums.size(); ++r) y[r] = sums[r] << shifts[r] & ring.mask();
}

int weight(const IntBlock& block, std::size_t row, std::size_t col) {
  const std::uint8_t* at = block.packed + col / k_group_cols * group_bytes(block.bits) + (row * 2 + col % 2) * 2;
  const auto plane = [&](std::size_t p) {
    std::uint16_t word;
    std::memcpy(&word, at + p * k_plane_words * 2, sizeof word);
    return static_cast<unsigned>(word);
  };
  const std::size_t tile = col % k_group_cols / 2;
  if (block.bits == 16) return static_cast<std::int16_t>(plane(tile));
  const unsigned high = block.bits == 8 ? plane(tile / 2) << (tile % 2 * 8)
                        : tile < 3      ? plane(tile)
                                        : (plane(0) & 15) << 4 | (plane(1) & 15) << 8 | plane(2) << 12;
  return static_cast<std::int16_t>(high) >> (16 - block.bits);
}

int weight(const CodeBlock& block, std::size_t row, std::size_t col) {
  const CodeForm form = block.form;
  const std::uint8_t* span = block.packed + col / form.span * span_bytes(form);
  const auto word = [](const std::uint8_t* words, std::size_t i) {
    std::uint16_t value;
    std::memcpy(&value, words + 2 * i, sizeof value);
    return static_cast<unsigned>(value);
  };
  const std::size_t at = row * 2 + col % 2, pair = col % form.span / 2;  // the tile's number in the span
  const int high_bits = form.bits - 4;
  const std::size_t bit = pair * static_cast<std::size_t>(high_bits);
  unsigned code =
      word(span + scale_bytes(form), pair / k_group_pairs * k_plane_words + at) >> pair % k_group_pairs * 4 & 15;
  if (high_bits > 0)
    code |= (word(span + high_planes_at(form), bit / 16 * k_plane_words + at) >> bit % 16 & ((1u << high_bits) - 1))
            << 4;
  const auto signed_word = [&](const std::uint8_t* words) { return static_cast<std::int16_t>(word(words, row)); };
  const std::int16_t zero = form.zeros ? signed_word(span + 2 * k_block_rows) : 1 << (k_code_top - 1);
  return integer_of_code(form, code, signed_word(span), zero,
                         static_cast<std::int16_t>(block.gains[col / 2] >> col % 2 * 16));
}

void unpack_codes(const CodeBlock& block, std::size_t first, std::size_t groups, std::int16_t* tiles) {
  for (std::size_t c = 0; c < groups * k_group_cols; ++c) {
    for (std::size_t r = 0; r < k_block_rows; ++r)
      tiles[c / 2 * k_plane_words + r * 2 + c % 2] =
          static_cast<std::int16_t>(weight(block, r, first * k_group_cols + c));
  }
}

void int_block(const IntBlock& block, const std::uint32_t* x, std::size_t vectors, Ring ring, Word* y) {
  const std::size_t limbs = limbs_of(ring);
  for (std::size_t r = 0; r < k_block_rows; ++r) {
    for (std::size_t c = 0; c < block.groups * k_group_cols; ++c) {
      const std::int64_t w = weight(block, r, c);
      for (std::size_t i = 0; i < vectors * limbs; ++i) {
        const auto limb = static_cast<std::int16_t>(x[c / 2 * vectors * limbs + i] >> (c % 2 * 16));
        y[i / limbs * k_block_rows + r] += static_cast<Word>(w * limb) << (i % limbs * 16);
      }
    }
  }
}

void code_block(const CodeBlock& block, std::size_t groups, const std::uint32_t* x, Ring ring, Word* y) {
  std::vector<std::int16_t> tiles(groups * k_group_words);
  scalar::unpack_codes(block, 0, groups, tiles.data());
  scalar::int_block({reinterpret_cast<const std::uint8_t*>(tiles.data()), groups, 16}, x, 1, ring, y);
}

void int_block_float(const IntBlock& block, const float* x, float* y) {
  for (std::size_t r = 0; r < k_block_rows; ++r) {
    float sums[4] = {};
    for (std::size_t c = 0; c < block.groups * k_group_cols; ++c) {
      const auto w = static_cast<float>(weight(block, r, c));
      for (std::size_t v = 0; v < 4; ++v) sums[v] += w * x[c / 2 * 8 + v * 2 + c % 2];
    }
    for (std::size_t v = 0; v < 4; ++v) y[v * k_block_rows + r] += sums[v];
  }
}

}  // namespace scalar
}  // namespace permllm::kernels
#endif  // HWY_ONCE
