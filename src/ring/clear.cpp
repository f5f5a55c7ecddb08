#include "ring/clear.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ring/clear.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h: it is read once for each target.
#include <hwy/contrib/math/math-inl.h>

#ifndef PERMLLM_RING_CLEAR_ONCE
#define PERMLLM_RING_CLEAR_ONCE
namespace permllm::clear {
namespace {

// exp overflows and underflows beyond; what it scales is far below a unit there.
constexpr double k_exp_limit = 700;
// 2 sqrt(2 / pi), and times 0.044715.
constexpr double k_gelu_linear = 1.5957691216057308, k_gelu_cubic = k_gelu_linear * 0.044715;

}  // namespace
}  // namespace permllm::clear
#endif

HWY_BEFORE_NAMESPACE();
namespace permllm::clear::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<double>;
using DInt = hn::RebindToSigned<D>;
using DWord = hn::RebindToUnsigned<D>;
using V = hn::Vec<D>;
using VInt = hn::Vec<DInt>;

// Lanes of a span: all of a vector, or its first few at the end. Lanes that are absent read as 0.
struct All {
  template <class Tag, class T>
  HWY_INLINE hn::Vec<Tag> load(Tag tag, const T* from) const {
    return hn::LoadU(tag, from);
  }
  template <class Tag, class T>
  HWY_INLINE void store(Tag tag, hn::Vec<Tag> v, T* to) const {
    hn::StoreU(v, tag, to);
  }
  HWY_INLINE V or_else(V v, V) const { return v; }
};
struct First {  // by way of a whole vector: masked loads and stores of older targets touch absent lanes
  std::size_t count;
  template <class Tag, class T>
  HWY_INLINE hn::Vec<Tag> load(Tag tag, const T* from) const {
    HWY_ALIGN T lanes[hn::MaxLanes(Tag())] = {};
    std::copy_n(from, count, lanes);
    return hn::Load(tag, lanes);
  }
  template <class Tag, class T>
  HWY_INLINE void store(Tag tag, hn::Vec<Tag> v, T* to) const {
    HWY_ALIGN T lanes[hn::MaxLanes(Tag())];
    hn::Store(v, tag, lanes);
    std::copy_n(lanes, count, to);
  }
  HWY_INLINE V or_else(V v, V absent) const { return hn::IfThenElse(hn::FirstN(D(), count), v, absent); }
};

// f(lanes, j) for each vector of n entries.
template <class F>
HWY_INLINE void each(std::size_t n, F f) {
  std::size_t j = 0;
  for (; j + hn::Lanes(D()) <= n; j += hn::Lanes(D())) f(All{}, j);
  if (j < n) f(First{n - j}, j);
}

template <class L>
HWY_INLINE V reals(L lanes, const std::int64_t* from) {
  return hn::ConvertTo(D(), lanes.load(DInt(), from));
}
template <class L>
HWY_INLINE V reals(L lanes, const double* from) {
  return lanes.load(D(), from);
}

// `encode` of ring.h, lane by lane: what is not a number fails the last comparison.
struct Encoder {
  double factor, limit;
  explicit Encoder(Format out) : factor(power_of_two(out.frac)) {
    const double half = power_of_two(out.ring.bits - 1);
    limit = std::min(half - 1, half * 0.999999);
  }
  template <class L>
  HWY_INLINE void store(L lanes, V x, Word* to) const {
    const V scaled = hn::Mul(x, hn::Set(D(), factor)), above = hn::Set(D(), limit), below = hn::Set(D(), -limit);
    const V at_least = hn::IfThenElse(hn::Ge(scaled, below), scaled, below);
    const V bounded = hn::IfThenElse(hn::Gt(scaled, above), above, at_least);
    lanes.store(DWord(), hn::BitCast(DWord(), hn::ConvertTo(DInt(), hn::Round(bounded))), to);
  }
};

// x / (1 + exp(-of)).
HWY_INLINE V times_sigmoid(V x, V of) {
  const V limit = hn::Set(D(), k_exp_limit);
  const V bounded = hn::Max(hn::Min(hn::Neg(of), limit), hn::Neg(limit));
  return hn::Div(x, hn::Add(hn::Set(D(), 1.0), hn::Exp(D(), bounded)));
}

struct Silu {
  HWY_INLINE V operator()(V x) const { return times_sigmoid(x, x); }
};
struct Gelu {
  HWY_INLINE V operator()(V x) const {
    const V slope = hn::MulAdd(hn::Set(D(), k_gelu_cubic), hn::Mul(x, x), hn::Set(D(), k_gelu_linear));
    return times_sigmoid(x, hn::Mul(x, slope));
  }
};

template <class F, class T>
HWY_INLINE void products(F f, std::span<const T> gate, std::span<const T> up, double unit, Format out,
                         std::span<Word> words) {
  const Encoder encoder(out);
  each(words.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    const V units = hn::Set(D(), unit);
    const V left = f(hn::Mul(reals(lanes, gate.data() + j), units)),
            right = hn::Mul(reals(lanes, up.data() + j), units);
    encoder.store(lanes, hn::Mul(left, right), words.data() + j);
  });
}

template <class F, class T>
HWY_INLINE void values(F f, std::span<const T> x, double unit, Format out, std::span<Word> words) {
  const Encoder encoder(out);
  each(words.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    encoder.store(lanes, f(hn::Mul(reals(lanes, x.data() + j), hn::Set(D(), unit))), words.data() + j);
  });
}

double sum_of_squares(std::span<const std::int64_t> row, double unit) {
  V sum = hn::Zero(D());
  each(row.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    const V x = hn::Mul(reals(lanes, row.data() + j), hn::Set(D(), unit));
    sum = hn::MulAdd(x, x, sum);
  });
  return hn::GetLane(hn::SumOfLanes(D(), sum));
}

double sum(std::span<const std::int64_t> row) {
  V sum = hn::Zero(D());
  each(row.size(), [&](auto lanes, std::size_t j) HWY_ATTR { sum = hn::Add(sum, reals(lanes, row.data() + j)); });
  return hn::GetLane(hn::SumOfLanes(D(), sum));
}

void scale(std::span<const std::int64_t> row, double mean, double factor, Format out, std::span<Word> words) {
  const Encoder encoder(out);
  each(words.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    encoder.store(lanes, hn::Mul(hn::Sub(reals(lanes, row.data() + j), hn::Set(D(), mean)), hn::Set(D(), factor)),
                  words.data() + j);
  });
}

// tanh(x) = 1 - 2 / (1 + exp(2 x)).
void cap(std::span<double> row, double limit) {
  const V one = hn::Set(D(), 1.0), two = hn::Set(D(), 2.0), most = hn::Set(D(), k_exp_limit);
  each(row.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    const V x = hn::Mul(lanes.load(D(), row.data() + j), hn::Set(D(), 2 / limit));
    const V e = hn::Exp(D(), hn::Max(hn::Min(x, most), hn::Neg(most)));
    lanes.store(D(), hn::Mul(hn::Set(D(), limit), hn::Sub(one, hn::Div(two, hn::Add(one, e)))), row.data() + j);
  });
}

HWY_INLINE V weight(V difference) { return hn::Exp(D(), hn::Max(difference, hn::Set(D(), -k_exp_limit))); }

// The words hold the exponentials as doubles until their sum is known.
void softmax(std::span<const std::int64_t> scores, double unit, Ring shown, Format out, std::span<Word> words) {
  const int unused = 64 - shown.bits;
  const auto difference = [&](auto lanes, std::size_t j) HWY_ATTR {
    const VInt v = hn::Sub(lanes.load(DInt(), scores.data() + j), hn::Set(DInt(), scores[0]));
    return hn::ConvertTo(D(), hn::ShiftRightSame(hn::ShiftLeftSame(v, unused), unused));
  };
  // The first difference is 0, so that absent lanes may count as 0.
  V greatest = hn::Zero(D()), sum = hn::Zero(D());
  each(words.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    greatest = hn::Max(greatest, lanes.or_else(difference(lanes, j), hn::Zero(D())));
  });
  greatest = hn::MaxOfLanes(D(), greatest);
  each(words.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    const V x = hn::Mul(hn::Sub(difference(lanes, j), greatest), hn::Set(D(), unit));
    const V w = lanes.or_else(weight(x), hn::Zero(D()));
    sum = hn::Add(sum, w);
    lanes.store(DWord(), hn::BitCast(DWord(), w), words.data() + j);
  });
  const V share = hn::Div(hn::Set(D(), 1.0), hn::SumOfLanes(D(), sum));
  const Encoder encoder(out);
  each(words.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    encoder.store(lanes, hn::Mul(hn::BitCast(D(), lanes.load(DWord(), words.data() + j)), share), words.data() + j);
  });
}

void softmax_reals(std::span<double> row) {
  const V least = hn::Set(D(), -1e300);
  V greatest = least, sum = hn::Zero(D());
  each(row.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    greatest = hn::Max(greatest, lanes.or_else(lanes.load(D(), row.data() + j), least));
  });
  greatest = hn::MaxOfLanes(D(), greatest);
  each(row.size(), [&](auto lanes, std::size_t j) HWY_ATTR {
    const V w = lanes.or_else(weight(hn::Sub(lanes.load(D(), row.data() + j), greatest)), hn::Zero(D()));
    sum = hn::Add(sum, w);
    lanes.store(D(), w, row.data() + j);
  });
  const V share = hn::Div(hn::Set(D(), 1.0), hn::SumOfLanes(D(), sum));
  each(row.size(), [&](auto lanes, std::size_t j)
                       HWY_ATTR { lanes.store(D(), hn::Mul(lanes.load(D(), row.data() + j), share), row.data() + j); });
}

void silu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  products(Silu(), gate, up, unit, out, words);
}
void gelu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  products(Gelu(), gate, up, unit, out, words);
}
void gelu(std::span<const std::int64_t> x, double unit, Format out, std::span<Word> words) {
  values(Gelu(), x, unit, out, words);
}
void silu_product_reals(std::span<const double> gate, std::span<const double> up, double unit, Format out,
                        std::span<Word> words) {
  products(Silu(), gate, up, unit, out, words);
}
void gelu_product_reals(std::span<const double> gate, std::span<const double> up, double unit, Format out,
                        std::span<Word> words) {
  products(Gelu(), gate, up, unit, out, words);
}
void gelu_reals(std::span<const double> x, double unit, Format out, std::span<Word> words) {
  values(Gelu(), x, unit, out, words);
}

}  // namespace permllm::clear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm::clear {

HWY_EXPORT(sum);
HWY_EXPORT(sum_of_squares);
HWY_EXPORT(cap);
HWY_EXPORT(scale);
HWY_EXPORT(softmax);
HWY_EXPORT(silu_product);
HWY_EXPORT(gelu_product);
HWY_EXPORT(gelu);
HWY_EXPORT(softmax_reals);
HWY_EXPORT(silu_product_reals);
HWY_EXPORT(gelu_product_reals);
HWY_EXPORT(gelu_reals);

double sum(std::span<const std::int64_t> row) { return HWY_DYNAMIC_DISPATCH(sum)(row); }
void cap(std::span<double> row, double limit) { HWY_DYNAMIC_DISPATCH(cap)(row, limit); }
double sum_of_squares(std::span<const std::int64_t> row, double unit) {
  return HWY_DYNAMIC_DISPATCH(sum_of_squares)(row, unit);
}
void scale(std::span<const std::int64_t> row, double mean, double factor, Format out, std::span<Word> words) {
  PERMLLM_ASSERT(row.size() == words.size());
  HWY_DYNAMIC_DISPATCH(scale)(row, mean, factor, out, words);
}
void softmax(std::span<const std::int64_t> scores, double unit, Ring shown, Format out, std::span<Word> words) {
  PERMLLM_ASSERT(scores.size() == words.size());
  HWY_DYNAMIC_DISPATCH(softmax)(scores, unit, shown, out, words);
}
void silu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  PERMLLM_ASSERT(gate.size() == words.size() && up.size() == words.size());
  HWY_DYNAMIC_DISPATCH(silu_product)(gate, up, unit, out, words);
}
void gelu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  PERMLLM_ASSERT(gate.size() == words.size() && up.size() == words.size());
  HWY_DYNAMIC_DISPATCH(gelu_product)(gate, up, unit, out, words);
}
void gelu(std::span<const std::int64_t> x, double unit, Format out, std::span<Word> words) {
  PERMLLM_ASSERT(x.size() == words.size());
  HWY_DYNAMIC_DISPATCH(gelu)(x, unit, out, words);
}
void softmax(std::span<double> row) { HWY_DYNAMIC_DISPATCH(softmax_reals)(row); }
void silu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words) {
  PERMLLM_ASSERT(gate.size() == words.size() && up.size() == words.size());
  HWY_DYNAMIC_DISPATCH(silu_product_reals)(gate, up, scale, out, words);
}
void gelu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words) {
  PERMLLM_ASSERT(gate.size() == words.size() && up.size() == words.size());
  HWY_DYNAMIC_DISPATCH(gelu_product_reals)(gate, up, scale, out, words);
}
void gelu(std::span<const double> x, double scale, Format out, std::span<Word> words) {
  PERMLLM_ASSERT(x.size() == words.size());
  HWY_DYNAMIC_DISPATCH(gelu_reals)(x, scale, out, words);
}

// Of the library's exp, whose tables are read where the value says: to compare with, not for private values.
namespace scalar {
namespace {

double times_sigmoid(double x, double of) { return x / (1.0 + std::exp(-std::clamp(of, -k_exp_limit, k_exp_limit))); }
double silu_of(double x) { return times_sigmoid(x, x); }
double gelu_of(double x) { return times_sigmoid(x, k_gelu_linear * x + k_gelu_cubic * x * x * x); }

template <class T, class F>
void products(F f, std::span<const T> gate, std::span<const T> up, double unit, Format out, std::span<Word> words) {
  for (std::size_t j = 0; j < words.size(); ++j) {
    words[j] = encode(f(static_cast<double>(gate[j]) * unit) * (static_cast<double>(up[j]) * unit), out);
  }
}

template <class T>
void gelus(std::span<const T> x, double unit, Format out, std::span<Word> words) {
  for (std::size_t j = 0; j < words.size(); ++j) words[j] = encode(gelu_of(static_cast<double>(x[j]) * unit), out);
}

double difference(std::span<const std::int64_t> scores, std::size_t j, Ring shown) {
  return static_cast<double>(centre(static_cast<Word>(scores[j]) - static_cast<Word>(scores[0]), shown));
}

}  // namespace

double sum_of_squares(std::span<const std::int64_t> row, double unit) {
  double sum = 0;
  for (const std::int64_t v : row) sum += (static_cast<double>(v) * unit) * (static_cast<double>(v) * unit);
  return sum;
}

double sum(std::span<const std::int64_t> row) {
  double sum = 0;
  for (const std::int64_t v : row) sum += static_cast<double>(v);
  return sum;
}

void scale(std::span<const std::int64_t> row, double mean, double factor, Format out, std::span<Word> words) {
  for (std::size_t j = 0; j < words.size(); ++j) words[j] = encode((static_cast<double>(row[j]) - mean) * factor, out);
}

void cap(std::span<double> row, double limit) {
  for (double& x : row) x = limit * std::tanh(x / limit);
}

// The words hold the exponentials as doubles until their sum is known.
void softmax(std::span<const std::int64_t> scores, double unit, Ring shown, Format out, std::span<Word> words) {
  double greatest = -1e300, sum = 0;
  for (std::size_t j = 0; j < words.size(); ++j) greatest = std::max(greatest, difference(scores, j, shown));
  for (std::size_t j = 0; j < words.size(); ++j) {
    const double weight = std::exp(std::max((difference(scores, j, shown) - greatest) * unit, -k_exp_limit));
    sum += weight;
    words[j] = std::bit_cast<Word>(weight);
  }
  for (Word& word : words) word = encode(std::bit_cast<double>(word) / sum, out);
}

void silu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  products(silu_of, gate, up, unit, out, words);
}
void gelu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  products(gelu_of, gate, up, unit, out, words);
}
void gelu(std::span<const std::int64_t> x, double unit, Format out, std::span<Word> words) {
  gelus(x, unit, out, words);
}

void softmax(std::span<double> row) {
  double greatest = -1e300, sum = 0;
  for (const double x : row) greatest = std::max(greatest, x);
  for (double& x : row) {
    x = std::exp(std::max(x - greatest, -k_exp_limit));
    sum += x;
  }
  for (double& x : row) x /= sum;
}

void silu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words) {
  products(silu_of, gate, up, scale, out, words);
}
void gelu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words) {
  products(gelu_of, gate, up, scale, out, words);
}
void gelu(std::span<const double> x, double scale, Format out, std::span<Word> words) { gelus(x, scale, out, words); }

}  // namespace scalar

}  // namespace permllm::clear
#endif  // HWY_ONCE
