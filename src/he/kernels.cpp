#include "he/kernels.h"

#include <utility>

#include "he/roots.h"
#include "ring/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "he/kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace permllm::he::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
using scalar::add;
using scalar::multiply;
using scalar::multiply_add;
using scalar::multiply_by;
using scalar::reduce;
using scalar::subtract;
using scalar::transform;
using scalar::transform_back;
#else

using D = hn::CappedTag<Word, 8>;
using DSigned = hn::RebindToSigned<D>;
using DHalves = hn::Repartition<std::uint32_t, D>;
using V = hn::Vec<D>;

HWY_INLINE V load(const Word* from) { return hn::LoadU(D(), from); }
HWY_INLINE void store(V v, Word* to) { hn::StoreU(v, D(), to); }

// Of the low halves of the lanes.
HWY_INLINE V product_of_halves(V a, V b) { return hn::MulEven(hn::BitCast(DHalves(), a), hn::BitCast(DHalves(), b)); }

struct Prime {
  V p, k, distance;  // p = k 2^32 + 1 = 2^53 - distance 2^32 + 1
  explicit HWY_INLINE Prime(int prime)
      : p(hn::Set(D(), k_primes[static_cast<std::size_t>(prime)])),
        k(hn::ShiftRight<32>(p)),
        distance(hn::Sub(hn::Set(D(), Word{1} << 21), k)) {}

  // x w / 2^64, in (-p, 2^48), for x < 2^58 and w < p.
  HWY_INLINE V product(V x, V w) const {
    const V high_x = hn::ShiftRight<32>(x), high_w = hn::ShiftRight<32>(w);
    // x (w mod 2^32) / 2^32 + p, in (0, 2^59).
    const V low = product_of_halves(x, w);
    const V a =
        hn::Add(hn::Add(hn::ShiftRight<32>(low), product_of_halves(high_x, w)), hn::Sub(p, product_of_halves(low, k)));
    const V b = hn::Add(a, product_of_halves(x, high_w));
    return hn::Sub(hn::Add(hn::ShiftRight<32>(b), product_of_halves(high_x, high_w)), product_of_halves(b, k));
  }
  // v below 2^60 to below 2^53 + 2^43, by 2^53 = distance 2^32 - 1.
  HWY_INLINE V fold(V v) const {
    const V high = hn::ShiftRight<53>(v), low = hn::And(v, hn::Set(D(), (Word{1} << 53) - 1));
    return hn::Sub(hn::Add(low, hn::ShiftLeft<32>(product_of_halves(high, distance))), high);
  }
  // v below 2 p to below p.
  HWY_INLINE V once(V v) const {
    const V less = hn::Sub(v, p);
    return hn::Add(less, hn::And(p, hn::BitCast(D(), hn::BroadcastSignBit(hn::BitCast(DSigned(), less)))));
  }
  HWY_INLINE V reduced(V v) const { return once(fold(v)); }
};

// Values grow by 2 p at most.
HWY_INLINE void butterfly(const Prime& m, V& x, V& y, V w) {
  const V turned = m.product(y, w), raised = hn::Add(x, m.p);
  x = hn::Add(raised, turned);
  y = hn::Sub(raised, turned);
}

// Layers `layer` and `layer` + 1 of a half, of the lanes at x: rows are k_side words apart.
template <class Twiddle>
HWY_INLINE void two_layers(const Prime& m, Word* HWY_RESTRICT x, std::size_t layer, const Twiddle& twiddle) {
  const std::size_t quarter = (k_side >> layer) / 4 * k_side;
  for (std::size_t group = 0; group < std::size_t{1} << layer; ++group) {
    const V w = twiddle(layer, group), w0 = twiddle(layer + 1, 2 * group), w1 = twiddle(layer + 1, 2 * group + 1);
    for (Word *at = x + group * 4 * quarter, *end = at + quarter; at != end; at += k_side) {
      V a = load(at), b = load(at + quarter), c = load(at + 2 * quarter), d = load(at + 3 * quarter);
      butterfly(m, a, c, w);
      butterfly(m, b, d, w);
      butterfly(m, a, b, w0);
      butterfly(m, c, d, w1);
      store(a, at);
      store(b, at + quarter);
      store(c, at + 2 * quarter);
      store(d, at + 3 * quarter);
    }
  }
}

// The same backwards. Words are below 2^53 + 2^49 before and after; 2 p, or 4 p, is more than what is subtracted.
template <class Twiddle>
HWY_INLINE void two_layers_back(const Prime& m, Word* HWY_RESTRICT x, std::size_t layer, const Twiddle& twiddle) {
  const std::size_t quarter = (k_side >> layer) / 4 * k_side;
  const V two = hn::Add(m.p, m.p), four = hn::Add(two, two);
  for (std::size_t group = 0; group < std::size_t{1} << layer; ++group) {
    const V w = twiddle(layer, group), w0 = twiddle(layer + 1, 2 * group), w1 = twiddle(layer + 1, 2 * group + 1);
    for (Word *at = x + group * 4 * quarter, *end = at + quarter; at != end; at += k_side) {
      const V a = load(at), b = load(at + quarter), c = load(at + 2 * quarter), d = load(at + 3 * quarter);
      const V sum_ab = hn::Add(a, b), sum_cd = hn::Add(c, d);
      const V ab = hn::Add(m.product(hn::Add(hn::Sub(a, b), two), w0), m.p),
              cd = hn::Add(m.product(hn::Add(hn::Sub(c, d), two), w1), m.p);
      store(m.fold(hn::Add(sum_ab, sum_cd)), at);
      store(m.fold(hn::Add(ab, cd)), at + quarter);
      store(hn::Add(m.product(hn::Add(hn::Sub(sum_ab, sum_cd), four), w), m.p), at + 2 * quarter);
      store(hn::Add(m.product(hn::Add(hn::Sub(ab, cd), two), w), m.p), at + 3 * quarter);
    }
  }
}

// In place; words move, and no instruction depends on them.
HWY_INLINE void transpose(Word* x) {
  constexpr std::size_t kTile = 8;
  for (std::size_t r = 0; r < k_side; r += kTile) {
    for (std::size_t c = 0; c <= r; c += kTile) {
      for (std::size_t i = r; i < r + kTile; ++i) {
        for (std::size_t j = c; j < (c == r ? i : c + kTile); ++j) std::swap(x[i * k_side + j], x[j * k_side + i]);
      }
    }
  }
}

HWY_INLINE auto one_twiddle(const Twiddles& t) {
  return [&t](std::size_t layer, std::size_t group)
             HWY_ATTR { return hn::Set(D(), t.first.data()[group_index(layer, group)]); };
}
HWY_INLINE auto lane_twiddles(const Twiddles& t, std::size_t lane) {
  return [&t, lane](std::size_t layer, std::size_t group)
             HWY_ATTR { return load(t.second.data() + group_index(layer, group) * k_side + lane); };
}

void transform(Word* x, int prime) {
  const Prime m(prime);
  const Twiddles& t = k_roots[static_cast<std::size_t>(prime)].forward;
  for (std::size_t lane = 0; lane < k_side; lane += hn::Lanes(D())) {
    for (std::size_t layer = 0; layer < 6; layer += 2) two_layers(m, x + lane, layer, one_twiddle(t));
  }
  transpose(x);
  for (std::size_t lane = 0; lane < k_side; lane += hn::Lanes(D())) {
    for (std::size_t layer = 0; layer < 6; layer += 2) two_layers(m, x + lane, layer, lane_twiddles(t, lane));
    for (std::size_t row = 0; row < k_side; ++row)
      store(m.reduced(load(x + row * k_side + lane)), x + row * k_side + lane);
  }
}

void transform_back(Word* x, int prime) {
  const Prime m(prime);
  const Roots& roots = k_roots[static_cast<std::size_t>(prime)];
  for (std::size_t lane = 0; lane < k_side; lane += hn::Lanes(D())) {
    for (std::size_t layer = 6; layer > 0; layer -= 2)
      two_layers_back(m, x + lane, layer - 2, lane_twiddles(roots.backward, lane));
  }
  transpose(x);
  for (std::size_t lane = 0; lane < k_side; lane += hn::Lanes(D())) {
    for (std::size_t layer = 6; layer > 0; layer -= 2)
      two_layers_back(m, x + lane, layer - 2, one_twiddle(roots.backward));
  }
  multiply_by(x, roots.by_degree, prime);
}

template <class Each>
HWY_INLINE void for_each(const Each& each) {
  for (std::size_t i = 0; i < k_degree; i += hn::Lanes(D())) each(i);
}

void multiply(Word* x, const Word* factor, int prime) {
  const Prime m(prime);
  for_each([&](std::size_t i)
               HWY_ATTR { store(m.once(hn::Add(m.product(load(x + i), load(factor + i)), m.p)), x + i); });
}

void multiply_by(Word* x, Word factor, int prime) {
  const Prime m(prime);
  const V w = hn::Set(D(), factor);
  for_each([&](std::size_t i) HWY_ATTR { store(m.once(hn::Add(m.product(load(x + i), w), m.p)), x + i); });
}

void multiply_add(Word* sum_a, Word* sum_b, const Word* x, const Word* factor_a, const Word* factor_b, int prime) {
  const Prime m(prime);
  for_each([&](std::size_t i) HWY_ATTR {
    const V v = load(x + i);
    store(hn::Add(hn::Add(load(sum_a + i), m.p), m.product(v, load(factor_a + i))), sum_a + i);
    store(hn::Add(hn::Add(load(sum_b + i), m.p), m.product(v, load(factor_b + i))), sum_b + i);
  });
}

void reduce(Word* x, int prime) {
  const Prime m(prime);
  for_each([&](std::size_t i) HWY_ATTR { store(m.reduced(load(x + i)), x + i); });
}

void add(Word* x, const Word* y, int prime) {
  const Prime m(prime);
  for_each([&](std::size_t i) HWY_ATTR { store(m.once(hn::Add(load(x + i), load(y + i))), x + i); });
}

void subtract(Word* x, const Word* y, int prime) {
  const Prime m(prime);
  for_each([&](std::size_t i) HWY_ATTR { store(m.once(hn::Add(hn::Sub(load(x + i), load(y + i)), m.p)), x + i); });
}

#endif

const char* target() { return hwy::TargetName(HWY_TARGET); }

}  // namespace permllm::he::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm::he::kernels {

HWY_EXPORT(transform);
HWY_EXPORT(transform_back);
HWY_EXPORT(multiply);
HWY_EXPORT(multiply_by);
HWY_EXPORT(multiply_add);
HWY_EXPORT(reduce);
HWY_EXPORT(add);
HWY_EXPORT(subtract);
HWY_EXPORT(target);

namespace {

const bool k_capped = permllm::kernels::cap_simd();

// 25 p in the transform's last layer, and what 64 products leave.
static_assert(Uint128{25} * k_primes[0] < Uint128{1} << 58 &&
              64 * (Uint128{k_primes[0]} + (Uint128{1} << 48)) < Uint128{1} << 60);
static_assert(k_primes[0] > k_primes[1] && k_primes[0] >> 53 == 0 && k_primes[0] % (Uint128{1} << 32) == 1 &&
              k_primes[1] % (Uint128{1} << 32) == 1);

}  // namespace

void transform(Word* x, int prime) { HWY_DYNAMIC_DISPATCH(transform)(x, prime); }
void transform_back(Word* x, int prime) { HWY_DYNAMIC_DISPATCH(transform_back)(x, prime); }
void multiply(Word* x, const Word* factor, int prime) { HWY_DYNAMIC_DISPATCH(multiply)(x, factor, prime); }
void multiply_by(Word* x, Word factor, int prime) { HWY_DYNAMIC_DISPATCH(multiply_by)(x, factor, prime); }
void multiply_add(Word* sum_a, Word* sum_b, const Word* x, const Word* factor_a, const Word* factor_b, int prime) {
  HWY_DYNAMIC_DISPATCH(multiply_add)(sum_a, sum_b, x, factor_a, factor_b, prime);
}
void reduce(Word* x, int prime) { HWY_DYNAMIC_DISPATCH(reduce)(x, prime); }
void add(Word* x, const Word* y, int prime) { HWY_DYNAMIC_DISPATCH(add)(x, y, prime); }
void subtract(Word* x, const Word* y, int prime) { HWY_DYNAMIC_DISPATCH(subtract)(x, y, prime); }
const char* target() { return HWY_DYNAMIC_DISPATCH(target)(); }

namespace scalar {
namespace {

// a b / 2^64 modulo p, and p.
struct Prime {
  Word p, from_factor;
  explicit Prime(int prime)
      : p(k_primes[static_cast<std::size_t>(prime)]),
        from_factor(k_roots[static_cast<std::size_t>(prime)].from_factor) {}
  Word product(Word x, Word factor) const { return times(times(x, factor, p), from_factor, p); }
};

void transpose(Word* x) {
  for (std::size_t r = 0; r < k_side; ++r) {
    for (std::size_t c = 0; c < r; ++c) std::swap(x[r * k_side + c], x[c * k_side + r]);
  }
}

// each(twiddle, x, y) for all pairs of a layer of six, of rows of x.
template <bool kFirst, class Each>
void layer_of(Word* x, const Twiddles& t, std::size_t layer, const Each& each) {
  const std::size_t half = (k_side >> layer) / 2;
  for (std::size_t i = 0; i < k_degree / 2; ++i) {
    const std::size_t column = i % k_side, group = i / k_side / half, row = i / k_side % half + group * 2 * half;
    const std::size_t index = group_index(layer, group);
    each(kFirst ? t.first[index] : t.second[index * k_side + column], x[row * k_side + column],
         x[(row + half) * k_side + column]);
  }
}

}  // namespace

void transform(Word* x, int prime) {
  const Prime m(prime);
  const Twiddles& t = k_roots[static_cast<std::size_t>(prime)].forward;
  const auto turn = [&](Word w, Word& a, Word& b) {
    const Word turned = m.product(b, w);
    b = (a + m.p - turned) % m.p;
    a = (a + turned) % m.p;
  };
  for (std::size_t layer = 0; layer < 6; ++layer) layer_of<true>(x, t, layer, turn);
  transpose(x);
  for (std::size_t layer = 0; layer < 6; ++layer) layer_of<false>(x, t, layer, turn);
}

void transform_back(Word* x, int prime) {
  const Prime m(prime);
  const Roots& roots = k_roots[static_cast<std::size_t>(prime)];
  const auto turn = [&](Word w, Word& a, Word& b) {
    const Word difference = a + m.p - b;
    a = (a + b) % m.p;
    b = m.product(difference, w);
  };
  for (std::size_t layer = 6; layer-- > 0;) layer_of<false>(x, roots.backward, layer, turn);
  transpose(x);
  for (std::size_t layer = 6; layer-- > 0;) layer_of<true>(x, roots.backward, layer, turn);
  multiply_by(x, roots.by_degree, prime);
}

void multiply(Word* x, const Word* factor, int prime) {
  const Prime m(prime);
  for (std::size_t i = 0; i < k_degree; ++i) x[i] = m.product(x[i], factor[i]);
}
void multiply_by(Word* x, Word factor, int prime) {
  const Prime m(prime);
  for (std::size_t i = 0; i < k_degree; ++i) x[i] = m.product(x[i], factor);
}
void multiply_add(Word* sum_a, Word* sum_b, const Word* x, const Word* factor_a, const Word* factor_b, int prime) {
  const Prime m(prime);
  for (std::size_t i = 0; i < k_degree; ++i) {
    sum_a[i] += m.product(x[i], factor_a[i]);
    sum_b[i] += m.product(x[i], factor_b[i]);
  }
}
void reduce(Word* x, int prime) {
  const Prime m(prime);
  for (std::size_t i = 0; i < k_degree; ++i) x[i] %= m.p;
}
void add(Word* x, const Word* y, int prime) {
  const Prime m(prime);
  for (std::size_t i = 0; i < k_degree; ++i) x[i] = (x[i] + y[i]) % m.p;
}
void subtract(Word* x, const Word* y, int prime) {
  const Prime m(prime);
  for (std::size_t i = 0; i < k_degree; ++i) x[i] = (x[i] + m.p - y[i]) % m.p;
}

}  // namespace scalar
}  // namespace permllm::he::kernels
#endif  // HWY_ONCE
