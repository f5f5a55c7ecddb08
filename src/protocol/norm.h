// Norm: <x> -> <x / rms(x)>. One round trip.                      docs/protocol.md 4.3
//
//   A PermutedMap over the entries of a row: rms does not depend on their order. The gain is folded into the matrix that
//   follows, so the output's mask r is that matrix's input mask.
//   rms(x) = sqrt(mean(x^2) + eps)
#pragma once

#include <cmath>
#include <vector>

#include "protocol/permuted_map.h"
#include "ring/clear.h"

namespace permllm {

struct NormShape {
  MapShape map;  // one row of one group; one answer
  double eps = 0;
};

inline constexpr Leak k_norm_leak[] = {{Role::user, "the residual row (so its rms), its entries in a fresh order"},
                                       {Role::provider, "nothing"},
                                       {Role::helper, "nothing"}};

constexpr Cost cost(const NormShape& s, Batch batch) { return cost(s.map, batch); }

// 1 / rms of a row shown with `frac` fraction bits.
inline double inverse_rms(std::span<const std::int64_t> row, int frac, double eps) {
  return 1.0 / std::sqrt(clear::sum_of_squares(row, power_of_two(-frac)) / static_cast<double>(row.size()) + eps);
}

inline Mask norm(Helper& helper, const NormShape& s, const Mask& x) {
  return std::move(permuted_map(helper, s.map, x.words)[0]);
}
inline Mask norm(UserDealer& user, const NormShape& s, const Mask&) { return std::move(permuted_map(user, s.map)[0]); }

inline Masked norm(Provider& provider, const NormShape& s, const Masked& x) {
  return std::move(permuted_map(provider, s.map, x.words)[0]);
}

inline Mask norm(User& user, const NormShape& s, const Mask& x) {
  const int frac = x.format.frac - s.map.reveal.drop;
  const Format out = s.map.answers[0].out;
  return std::move(permuted_map(user, s.map, [&](std::size_t, std::size_t, auto row, auto& answers) {
    clear::scale(row, power_of_two(-frac) * inverse_rms(row, frac, s.eps), out, answers[0]);
  })[0]);
}

inline Counted norm(Counter& counter, const NormShape& s, const Counted& x) {
  counter.total += cost(s, counter.batch);
  return {s.map.answers[0].out, x.size};
}

// --- Fused ------------------------------------------------------------------------------------------------------------
// The matrix behind a norm is applied to the row as it is, and the user divides what it is shown of the product. For that
// it sees the row as a Norm shows it, and answers nothing; shape.map has no answers.
// (The square of the row alone would show less at first sight. But it has to be shown at several scales, each of shares whose
// low bits are cut off, and the user knows its own: every use gives it a linear equation in the entries in their order.)

// 1 / rms of each row of the batch at the user; empty at the others, and where rows are normalised already.
using RowScales = std::vector<double>;

inline RowScales row_scales(Helper& helper, const NormShape& s, const Mask& x) {
  permuted_map(helper, s.map, x.words);
  return {};
}
inline RowScales row_scales(UserDealer&, const NormShape&, const Mask&) { return {}; }

inline RowScales row_scales(Provider& provider, const NormShape& s, const Masked& x) {
  permuted_map(provider, s.map, x.words);
  return {};
}

inline RowScales row_scales(User& user, const NormShape& s, const Mask& x) {
  RowScales scales(user.batch.count);
  permuted_map(user, s.map, [&](std::size_t i, std::size_t, auto row, auto&) {
    scales[i] = inverse_rms(row, x.format.frac - s.map.reveal.drop, s.eps);
  });
  return scales;
}

inline RowScales row_scales(Counter& counter, const NormShape& s, const Counted&) {
  counter.total += cost(s, counter.batch);
  return {};
}

}  // namespace permllm
