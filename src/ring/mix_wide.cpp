#include "ring/mix_wide.h"

#include <hwy/highway.h>

#include <algorithm>

#include "ring/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace permllm {
namespace {

Wide widened(Word value) { return static_cast<Wide>(static_cast<__int128>(static_cast<std::int64_t>(value))); }
Wide widened(Wide value) { return value; }

template <class V>
void mix_each(const Wide* weights, const V* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out) {
  for (std::size_t j = 0; j < n; ++j, values += stride) {
    for (std::size_t d = 0; d < dim; ++d) out[d] += weights[j] * widened(values[d]);
  }
}

#if defined(__x86_64__)
#define PERMLLM_IFMA __attribute__((target("avx512f,avx512dq,avx512vl,avx512ifma,avx512vbmi2")))

constexpr int k_digit = 52;

// Eight values in digits of 52 bits. Of each lane the multiply-adds read the low 52 bits.
struct Digits {
  __m512i low, high;
};
PERMLLM_IFMA inline Digits digits(const Word* values) {
  const __m512i v = _mm512_loadu_si512(values);
  // With a mask of all lanes: GCC 12 takes the one without for a use of what is not initialised.
  return {v, _mm512_maskz_srai_epi64(0xff, v, k_digit)};
}
PERMLLM_IFMA inline Digits digits(const Wide* values) {
  const __m512i a = _mm512_loadu_si512(values), b = _mm512_loadu_si512(values + 4);
  const __m512i low = _mm512_permutex2var_epi64(a, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), b),
                high = _mm512_permutex2var_epi64(a, _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1), b);
  return {low, _mm512_shrdi_epi64(low, high, k_digit)};
}

// The sums of eight columns: of low halves of products of low digits, and of what is 52 bits above them. The former are whole for as many rows as
// k_most_rows; the latter may wrap, since they count modulo 2^52 alone.
constexpr std::size_t k_most_rows = std::size_t{1} << (64 - k_digit);
struct DigitSums {
  __m512i low, above, left, right;
  PERMLLM_IFMA void clear() { low = above = left = right = _mm512_setzero_si512(); }
  PERMLLM_IFMA void add(const Digits& weight, const Digits& value) {
    low = _mm512_madd52lo_epu64(low, weight.low, value.low);
    above = _mm512_madd52hi_epu64(above, weight.low, value.low);
    left = _mm512_madd52lo_epu64(left, weight.low, value.high);
    right = _mm512_madd52lo_epu64(right, weight.high, value.low);
  }
  PERMLLM_IFMA void add_to(Wide* out) const {
    alignas(64) Word sums[8], shifted[8];
    _mm512_store_si512(sums, low);
    _mm512_store_si512(shifted, _mm512_add_epi64(above, _mm512_add_epi64(left, right)));
    for (std::size_t d = 0; d < 8; ++d) out[d] += sums[d] + (Wide{shifted[d]} << k_digit);
  }
};

// Of 16 columns.
constexpr std::size_t k_columns = 16;
template <class V>
PERMLLM_IFMA void mix_columns(const Wide* weights, const V* values, std::size_t stride, std::size_t n, Wide* out) {
  for (std::size_t first = 0; first < n; first += k_most_rows) {
    DigitSums a, b;
    a.clear();
    b.clear();
    for (std::size_t j = first; j < std::min(n, first + k_most_rows); ++j) {
      const Digits weight{_mm512_set1_epi64(static_cast<long long>(weights[j])),
                          _mm512_set1_epi64(static_cast<long long>(weights[j] >> k_digit))};
      a.add(weight, digits(values + j * stride));
      b.add(weight, digits(values + j * stride + 8));
    }
    a.add_to(out);
    b.add_to(out + 8);
  }
}

const bool k_capped = kernels::cap_simd();

bool has_digits() {
  static const bool has = (hwy::SupportedTargets() & HWY_AVX3_DL) != 0 && __builtin_cpu_supports("avx512ifma") != 0 &&
                          __builtin_cpu_supports("avx512vbmi2") != 0;
  return has;
}

template <class V>
void mix(const Wide* weights, const V* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out) {
  std::size_t d = 0;
  if (has_digits()) {
    for (; d + k_columns <= dim; d += k_columns) mix_columns(weights, values + d, stride, n, out + d);
  }
  mix_each(weights, values + d, stride, n, dim - d, out + d);
}
#else
template <class V>
void mix(const Wide* weights, const V* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out) {
  mix_each(weights, values, stride, n, dim, out);
}
#endif

}  // namespace

void mix_rows(const Wide* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out) {
  mix(weights, values, stride, n, dim, out);
}
void mix_rows(const Wide* weights, const Wide* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out) {
  mix(weights, values, stride, n, dim, out);
}

namespace scalar {

void mix_rows(const Wide* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out) {
  mix_each(weights, values, stride, n, dim, out);
}
void mix_rows(const Wide* weights, const Wide* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out) {
  mix_each(weights, values, stride, n, dim, out);
}

}  // namespace scalar

}  // namespace permllm
