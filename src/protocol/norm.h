// Norm: <x> -> <x / rms(x)>, or <(x - mean(x)) / deviation(x)>. One round trip.               docs/protocol.md 4.3
//
//   A PermutedMap over the entries of a row: neither rms nor mean depends on their order, nor rms on their signs. The gain
//   is folded into the matrix that follows, so the output's mask r is that matrix's input mask; or a Gain follows.
//   rms(x) = sqrt(mean(x^2) + eps); deviation(x) = sqrt(mean((x - mean(x))^2) + eps)
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "protocol/permuted_map.h"
#include "ring/clear.h"

namespace permllm {

struct NormShape {
  MapShape
      map;  // rows of one group; one answer. Signs on where nothing else tells a row's signs and no mean is taken away
  double eps = 0;
  bool centred = false;  // the mean is taken away: LayerNorm
  double plain = 0;      // not 0: rows are not normed, but times this (Config::pre_norm off)
};

constexpr Cost cost(const NormShape& s, Batch batch) { return cost(s.map, batch); }

// What a norm makes of a row: (x - mean) scale.
struct RowNorm {
  double mean = 0, scale = 1;
};
// Of a row shown with `frac` fraction bits; the mean in its units.
inline RowNorm row_norm(std::span<const std::int64_t> row, int frac, double eps, bool centred) {
  const auto n = static_cast<double>(row.size());
  const double mean = centred ? clear::sum(row) / n : 0.0;
  const double square = clear::sum_of_squares(row, power_of_two(-frac)) / n - mean * mean * power_of_two(-2 * frac);
  return {mean, 1.0 / std::sqrt(std::max(square, 0.0) + eps)};
}

inline Mask norm(Helper& helper, const NormShape& s, const Mask& x) {
  return std::move(permuted_map(helper, s.map, x)[0]);
}
inline Mask norm(UserDealer& user, const NormShape& s, const Mask&) { return std::move(permuted_map(user, s.map)[0]); }

inline Masked norm(Provider& provider, const NormShape& s, const Masked& x) {
  return std::move(permuted_map(provider, s.map, x)[0]);
}

inline Mask norm(User& user, const NormShape& s, const Mask& x) {
  const int frac = x.format.frac - s.map.reveal.drop;
  const Format out = s.map.answers[0].out;
  return std::move(permuted_map(user, s.map, [&](std::size_t, std::size_t, auto row, auto& answers) {
    const RowNorm of = s.plain != 0 ? RowNorm{0, s.plain} : row_norm(row, frac, s.eps, s.centred);
    clear::scale(row, of.mean, power_of_two(-frac) * of.scale, out, answers[0]);
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
  permuted_map(helper, s.map, x);
  return {};
}
inline RowScales row_scales(UserDealer&, const NormShape&, const Mask&) { return {}; }

inline RowScales row_scales(Provider& provider, const NormShape& s, const Masked& x) {
  permuted_map(provider, s.map, x);
  return {};
}

inline RowScales row_scales(User& user, const NormShape& s, const Mask& x) {
  RowScales scales(user.batch.count);
  permuted_map(user, s.map, [&](std::size_t i, std::size_t, auto row, auto&) {
    scales[i] = row_norm(row, x.format.frac - s.map.reveal.drop, s.eps, s.centred).scale;
  });
  return scales;
}

inline RowScales row_scales(Counter& counter, const NormShape& s, const Counted&) {
  counter.total += cost(s, counter.batch);
  return {};
}

}  // namespace permllm
