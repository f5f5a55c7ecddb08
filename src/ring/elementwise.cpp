#include "ring/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ring/elementwise.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace permllm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
using scalar::add;
using scalar::dot;
using scalar::dots;
using scalar::mix_rows;
using scalar::open;
using scalar::permute_cut;
using scalar::subtract;
using scalar::unpermute_add;
#else

using D = hn::ScalableTag<Word>;
using DSigned = hn::RebindToSigned<D>;
using V = hn::Vec<D>;

HWY_INLINE V load(const Word* from) { return hn::LoadU(D(), from); }

HWY_INLINE V cut_lanes(V v, int drop) {
  const V rounded = hn::Add(v, hn::Set(D(), half_unit(drop)));
  return hn::BitCast(D(), hn::ShiftRightSame(hn::BitCast(DSigned(), rounded), drop));
}

void add(std::span<Word> to, std::span<const Word> a) {
  std::size_t j = 0;
  for (; j + hn::Lanes(D()) <= to.size(); j += hn::Lanes(D())) {
    hn::StoreU(hn::Add(load(to.data() + j), load(a.data() + j)), D(), to.data() + j);
  }
  scalar::add(to.subspan(j), a.subspan(j));
}

void subtract(std::span<Word> to, std::span<const Word> a) {
  std::size_t j = 0;
  for (; j + hn::Lanes(D()) <= to.size(); j += hn::Lanes(D())) {
    hn::StoreU(hn::Sub(load(to.data() + j), load(a.data() + j)), D(), to.data() + j);
  }
  scalar::subtract(to.subspan(j), a.subspan(j));
}

// v times 1 or -1: (v ^ -1) + 1 where the sign is negative, (v ^ 0) + 0 elsewhere.
HWY_INLINE V with_sign(V v, V sign) {
  const V negative = hn::BitCast(D(), hn::BroadcastSignBit(hn::BitCast(DSigned(), sign)));
  return hn::Sub(hn::Xor(v, negative), negative);
}

// Plain loads put a block in order before vectors take it on: gather instructions are no faster on one maker's
// processors, and slow on another's.
template <bool kSigned>
void permute_cut_blocks(std::span<const Word> y, std::span<const Word> s0, std::span<const std::uint32_t> order,
                        const Word* sign, Word level, int drop, std::span<Word> out) {
  constexpr std::size_t kBlock = 64;
  HWY_ALIGN Word ordered[kBlock];
  const V levels = hn::Set(D(), level);
  const Word* const words =
      y.data();  // the loop has no room for checks: an order is a permutation, and the sizes are equal
  const std::uint32_t* const columns = order.data();
  std::size_t j = 0;
  for (; j + kBlock <= out.size(); j += kBlock) {
    for (std::size_t i = 0; i < kBlock; ++i) {
      const std::size_t column = columns[j + i];
      ordered[i] = kSigned ? words[column] * sign[column] : words[column];
    }
    for (std::size_t i = 0; i < kBlock; i += hn::Lanes(D())) {
      const V sum = hn::Add(hn::Add(hn::Load(D(), ordered + i), levels), load(s0.data() + j + i));
      hn::StoreU(cut_lanes(sum, drop), D(), out.data() + j + i);
    }
  }
  scalar::permute_cut(y, s0.subspan(j), order.subspan(j), sign, level, drop, out.subspan(j));
}

void permute_cut(std::span<const Word> y, std::span<const Word> s0, std::span<const std::uint32_t> order,
                 const Word* sign, Word level, int drop, std::span<Word> out) {
  (sign != nullptr ? permute_cut_blocks<true> : permute_cut_blocks<false>)(y, s0, order, sign, level, drop, out);
}

void open(std::span<const Word> a, std::span<const Word> s1, int drop, Ring sent, std::span<std::int64_t> shown) {
  const int unused = 64 - sent.bits;
  std::size_t j = 0;
  for (; j + hn::Lanes(D()) <= shown.size(); j += hn::Lanes(D())) {
    const V sum = hn::Add(load(a.data() + j), cut_lanes(load(s1.data() + j), drop));
    const auto high = hn::BitCast(DSigned(), hn::ShiftLeftSame(sum, unused));
    hn::StoreU(hn::ShiftRightSame(high, unused), DSigned(), shown.data() + j);
  }
  scalar::open(a.subspan(j), s1.subspan(j), drop, sent, shown.subspan(j));
}

// b is scattered first: one access out of order a word, and what remains is in order.
void unpermute_add(std::span<const Word> b, std::span<const std::uint32_t> order, const Word* sign,
                   std::span<const Word> w, std::span<Word> y) {
  Word* const words = y.data();
  const Word* const from = b.data();
  const std::uint32_t* const columns = order.data();
  for (std::size_t j = 0; j < b.size(); ++j) words[columns[j]] = from[j];
  if (sign == nullptr) return add(y, w);
  std::size_t k = 0;
  for (; k + hn::Lanes(D()) <= y.size(); k += hn::Lanes(D())) {
    hn::StoreU(hn::Add(with_sign(load(y.data() + k), load(sign + k)), load(w.data() + k)), D(), y.data() + k);
  }
  for (; k < y.size(); ++k) y[k] = y[k] * sign[k] + w[k];
}

// Sums of products of words, lane by lane. They are plain members of plain variables: GCC 12 keeps those in registers,
// and an array of vectors on the stack.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
struct Sum {
  HWY_INLINE Sum() {}  // an implicit one would be compiled for the baseline
  V sum = hn::Zero(D());
  HWY_INLINE void add(V a, V b) { sum = hn::Add(sum, hn::Mul(a, b)); }
  HWY_INLINE V total() const { return sum; }
};
#else
// Low halves as 32 x 32 -> 64, cross products modulo 2^32.
struct Sum {
  HWY_INLINE Sum() {}  // an implicit one would be compiled for the baseline
  using D32 = hn::Repartition<std::uint32_t, D>;
  V low = hn::Zero(D());
  hn::Vec<D32> cross = hn::Zero(D32());
  HWY_INLINE void add(V a, V b) {
    const auto a32 = hn::BitCast(D32(), a), b32 = hn::BitCast(D32(), b);
    low = hn::Add(low, hn::MulEven(a32, b32));
    cross = hn::Add(cross, hn::Mul(hn::Shuffle2301(a32), b32));
  }
  HWY_INLINE V total() const {
    const V both = hn::BitCast(D(), cross);
    return hn::Add(low, hn::ShiftLeft<32>(hn::Add(both, hn::ShiftRight<32>(both))));
  }
};
#endif

// Not SumOfLanes: GCC's own reduction of 512 bits adds signed integers, which overflow.
HWY_INLINE Word sum_of_lanes(V v) {
  HWY_ALIGN Word lanes[hn::MaxLanes(D())];
  hn::Store(v, D(), lanes);
  Word sum = 0;
  for (const Word lane : lanes) sum += lane;
  return sum;
}

Word dot(const Word* a, const Word* b, std::size_t n) {
  const std::size_t lanes = hn::Lanes(D());
  Sum s0, s1;
  std::size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    s0.add(load(a + i), load(b + i));
    s1.add(load(a + i + lanes), load(b + i + lanes));
  }
  const V sum = hn::Add(s0.total(), s1.total());
  return sum_of_lanes(sum) + scalar::dot(a + i, b + i, n - i);
}

// Four rows at a time: each vector of q serves four keys.
void dots(const Word* q, const Word* keys, std::size_t stride, std::size_t n_keys, std::size_t dim, Word* out) {
  const std::size_t lanes = hn::Lanes(D());
  std::size_t j = 0;
  for (; j + 4 <= n_keys; j += 4) {
    const Word *k0 = keys + j * stride, *k1 = k0 + stride, *k2 = k1 + stride, *k3 = k2 + stride;
    Sum s0, s1, s2, s3;
    std::size_t i = 0;
    for (; i + lanes <= dim; i += lanes) {
      const V part = load(q + i);
      s0.add(part, load(k0 + i));
      s1.add(part, load(k1 + i));
      s2.add(part, load(k2 + i));
      s3.add(part, load(k3 + i));
    }
    out[j] += sum_of_lanes(s0.total()) + scalar::dot(q + i, k0 + i, dim - i);
    out[j + 1] += sum_of_lanes(s1.total()) + scalar::dot(q + i, k1 + i, dim - i);
    out[j + 2] += sum_of_lanes(s2.total()) + scalar::dot(q + i, k2 + i, dim - i);
    out[j + 3] += sum_of_lanes(s3.total()) + scalar::dot(q + i, k3 + i, dim - i);
  }
  for (; j < n_keys; ++j) out[j] += dot(q, keys + j * stride, dim);
}

// Four vectors of the result stay in registers over all rows.
void mix_rows(const Word* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Word* out) {
  const std::size_t lanes = hn::Lanes(D());
  std::size_t d = 0;
  for (; d + 4 * lanes <= dim; d += 4 * lanes) {
    Sum s0, s1, s2, s3;
    const Word* row = values + d;
    for (std::size_t j = 0; j < n; ++j, row += stride) {
      const V weight = hn::Set(D(), weights[j]);
      s0.add(weight, load(row));
      s1.add(weight, load(row + lanes));
      s2.add(weight, load(row + 2 * lanes));
      s3.add(weight, load(row + 3 * lanes));
    }
    hn::StoreU(hn::Add(load(out + d), s0.total()), D(), out + d);
    hn::StoreU(hn::Add(load(out + d + lanes), s1.total()), D(), out + d + lanes);
    hn::StoreU(hn::Add(load(out + d + 2 * lanes), s2.total()), D(), out + d + 2 * lanes);
    hn::StoreU(hn::Add(load(out + d + 3 * lanes), s3.total()), D(), out + d + 3 * lanes);
  }
  for (; d + lanes <= dim; d += lanes) {
    Sum sum;
    const Word* row = values + d;
    for (std::size_t j = 0; j < n; ++j, row += stride) sum.add(hn::Set(D(), weights[j]), load(row));
    hn::StoreU(hn::Add(load(out + d), sum.total()), D(), out + d);
  }
  if (d < dim) scalar::mix_rows(weights, values + d, stride, n, dim - d, out + d);
}

#endif  // HWY_SCALAR

}  // namespace permllm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm {

HWY_EXPORT(add);
HWY_EXPORT(subtract);
HWY_EXPORT(permute_cut);
HWY_EXPORT(open);
HWY_EXPORT(unpermute_add);
HWY_EXPORT(dot);
HWY_EXPORT(dots);
HWY_EXPORT(mix_rows);

void add(std::span<Word> to, std::span<const Word> a) {
  PERMLLM_ASSERT(to.size() == a.size());
  HWY_DYNAMIC_DISPATCH(add)(to, a);
}
void subtract(std::span<Word> to, std::span<const Word> a) {
  PERMLLM_ASSERT(to.size() == a.size());
  HWY_DYNAMIC_DISPATCH(subtract)(to, a);
}
void permute_cut(std::span<const Word> y, std::span<const Word> s0, std::span<const std::uint32_t> order,
                 const Word* sign, Word level, int drop, std::span<Word> out) {
  PERMLLM_ASSERT(y.size() == order.size() && s0.size() == order.size() && out.size() == order.size());
  HWY_DYNAMIC_DISPATCH(permute_cut)(y, s0, order, sign, level, drop, out);
}
void open(std::span<const Word> a, std::span<const Word> s1, int drop, Ring sent, std::span<std::int64_t> shown) {
  PERMLLM_ASSERT(a.size() == shown.size() && s1.size() == shown.size());
  HWY_DYNAMIC_DISPATCH(open)(a, s1, drop, sent, shown);
}
void unpermute_add(std::span<const Word> b, std::span<const std::uint32_t> order, const Word* sign,
                   std::span<const Word> w, std::span<Word> y) {
  PERMLLM_ASSERT(b.size() == order.size() && w.size() == order.size() && y.size() == order.size());
  HWY_DYNAMIC_DISPATCH(unpermute_add)(b, order, sign, w, y);
}
Word dot(const Word* a, const Word* b, std::size_t n) { return HWY_DYNAMIC_DISPATCH(dot)(a, b, n); }
void dots(const Word* q, const Word* keys, std::size_t stride, std::size_t n_keys, std::size_t dim, Word* out) {
  HWY_DYNAMIC_DISPATCH(dots)(q, keys, stride, n_keys, dim, out);
}
void mix_rows(const Word* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Word* out) {
  HWY_DYNAMIC_DISPATCH(mix_rows)(weights, values, stride, n, dim, out);
}

namespace scalar {

void add(std::span<Word> to, std::span<const Word> a) {
  for (std::size_t j = 0; j < to.size(); ++j) to[j] += a[j];
}

void subtract(std::span<Word> to, std::span<const Word> a) {
  for (std::size_t j = 0; j < to.size(); ++j) to[j] -= a[j];
}

void permute_cut(std::span<const Word> y, std::span<const Word> s0, std::span<const std::uint32_t> order,
                 const Word* sign, Word level, int drop, std::span<Word> out) {
  for (std::size_t j = 0; j < out.size(); ++j) {
    const std::size_t column = order[j];
    const Word g = sign == nullptr ? Word{1} : sign[column];
    out[j] = cut(y[column] * g + level + s0[j], drop);
  }
}

void open(std::span<const Word> a, std::span<const Word> s1, int drop, Ring sent, std::span<std::int64_t> shown) {
  for (std::size_t j = 0; j < shown.size(); ++j) shown[j] = centre(a[j] + cut(s1[j], drop), sent);
}

void unpermute_add(std::span<const Word> b, std::span<const std::uint32_t> order, const Word* sign,
                   std::span<const Word> w, std::span<Word> y) {
  for (std::size_t j = 0; j < b.size(); ++j) {
    const std::size_t column = order[j];
    y[column] = b[j] * (sign == nullptr ? Word{1} : sign[column]) + w[column];
  }
}

Word dot(const Word* a, const Word* b, std::size_t n) {
  Word sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void dots(const Word* q, const Word* keys, std::size_t stride, std::size_t n_keys, std::size_t dim, Word* out) {
  for (std::size_t j = 0; j < n_keys; ++j) out[j] += scalar::dot(q, keys + j * stride, dim);
}

void mix_rows(const Word* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Word* out) {
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t d = 0; d < dim; ++d) out[d] += weights[j] * values[j * stride + d];
  }
}

}  // namespace scalar

}  // namespace permllm
#endif  // HWY_ONCE
