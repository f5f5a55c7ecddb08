#include "ring/freivalds.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace permllm {
namespace {

using Integer = __int128;

constexpr int k_prime_bits = 61;

// Of the same residue, and below 2^66 in magnitude where x is below 2^127.
constexpr Integer fold(Integer x) { return (x & static_cast<Integer>(k_check_prime)) + (x >> k_prime_bits); }

constexpr std::size_t k_band = 512;  // columns that a thread takes, a multiple of a span of codes
// Rows whose products, of integers below 2^24 and halves of s below 2^31, 64 bits hold.
constexpr std::size_t k_rows_together = 128;
static_assert(k_coded_bits - 1 + 2 * k_most_shift + 31 + 7 < 63);

}  // namespace

Word residue(Integer x) {
  const auto prime = static_cast<Integer>(k_check_prime);
  for (int i = 0; i < 3; ++i) x = fold(x);  // to within -1 .. the prime
  x += prime & -static_cast<Integer>(x < 0);
  x -= prime & -static_cast<Integer>(x >= prime);
  return static_cast<Word>(x);
}

Word dot_modulo_prime(std::span<const Word> a, std::span<const std::int64_t> x, int bits) {
  PERMLLM_ASSERT(a.size() == x.size() && bits >= 1 && bits <= 64);
  // So many products of 61 + bits - 1 bits, and what was folded before, are below 2^127. Two sums side by side: each waits for its carry.
  const std::size_t block = std::size_t{1} << std::min(65 - bits, 12);
  const auto product = [&](std::size_t i) { return static_cast<Integer>(static_cast<std::int64_t>(a[i])) * x[i]; };
  Integer even = 0, odd = 0;
  for (std::size_t i = 0; i < x.size();) {
    const std::size_t end = std::min(x.size(), i + 2 * block);
    for (; i + 2 <= end; i += 2) {
      even += product(i);
      odd += product(i + 1);
    }
    if (i < end) even += product(i++);
    even = fold(even);
    odd = fold(odd);
  }
  return residue(fold(even) + fold(odd));
}

Combination combine(std::span<const Word> s, const IntMatrix& w, Executor& executor) {
  PERMLLM_ASSERT(s.size() == w.rows());
  const std::size_t bands = (w.cols() + k_band - 1) / k_band;
  Combination of{Words(w.cols()), 0};
  std::vector<double> squares(bands * w.rows());  // of a row's part in each band
  executor.parallel(bands, [&](std::size_t band) {
    const std::size_t first = band * k_band, columns = std::min(k_band, w.cols() - first);
    std::vector<std::int32_t> row(columns);
    std::vector<std::int64_t> low(columns), high(columns);
    std::vector<Integer> sums(columns);
    for (std::size_t r = 0; r < w.rows(); ++r) {
      w.row(r, row, first);
      const auto s_low = static_cast<std::int32_t>(s[r] & 0x7fffffff), s_high = static_cast<std::int32_t>(s[r] >> 31);
      double square = 0;
      for (std::size_t c = 0; c < columns; ++c) {
        low[c] += std::int64_t{row[c]} * s_low;
        high[c] += std::int64_t{row[c]} * s_high;
        square += static_cast<double>(row[c]) * static_cast<double>(row[c]);
      }
      squares[band * w.rows() + r] = square;
      if (r % k_rows_together != k_rows_together - 1 && r + 1 != w.rows()) continue;
      for (std::size_t c = 0; c < columns; ++c) {
        sums[c] = fold(sums[c] + (static_cast<Integer>(high[c]) << 31) + low[c]);
        low[c] = high[c] = 0;
      }
    }
    for (std::size_t c = 0; c < columns; ++c) of.sum[first + c] = residue(sums[c]);
  });
  double longest = 0;
  for (std::size_t r = 0; r < w.rows(); ++r) {
    double square = 0;
    for (std::size_t band = 0; band < bands; ++band) square += squares[band * w.rows() + r];
    longest = std::max(longest, square);
  }
  of.longest_row = static_cast<std::uint64_t>(std::ceil(std::sqrt(longest) * (1 + 1e-9)));
  return of;
}

bool cannot_wrap(std::uint64_t longest_row, std::span<const std::int64_t> x, int bits) {
  double square = 0;
  for (const std::int64_t v : x) square += static_cast<double>(v) * static_cast<double>(v);
  return static_cast<double>(longest_row) * std::sqrt(square) * (1 + 1e-9) < std::ldexp(1.0, bits - 1);
}

}  // namespace permllm
