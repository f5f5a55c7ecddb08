#include "audit/sorting.h"

#include <algorithm>
#include <numeric>

#include "audit/algebra.h"
#include "audit/pairs.h"

namespace permllm {
namespace {

using namespace algebra;

constexpr std::size_t k_neurons = 200;  // those that are looked at

// One use as the user sees it; `place` and `neuron` it does not know.
struct Showings {
  std::vector<double>
      normed;  // what it answered (of fused norms the row by its rms), by the rank of the place in the row
  std::vector<std::uint32_t> place;
  Pairs pairs;
};

std::vector<Showings> uses_of(const AuditSubject& s, std::size_t rows, int finer, const AuditProgress& progress) {
  const Plan& p = s.plan;
  std::vector<Showings> uses(rows);
  std::vector<double> scales(rows, 1.0);
  const NormShape norm = mlp_norm_shape(p, 0);
  const auto sorted = [](const std::vector<double>& values) {
    std::vector<std::uint32_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return values[a] < values[b]; });
    return order;
  };
  walk(
      s, std::span(s.prompt).first(1), rows, 1, 71,
      [&](Witness& w) {
        w.finer = finer;
        w.shown = [&](const Showing& showing) {
          const std::size_t i = showing.seen.index, n = showing.order.pi.size();
          Showings& use = uses[i];
          if (showing.seen.site == Site::mlp_norm) {
            const int frac = p.residual_frac - w.shown_by(norm.map).drop;
            const std::span<const std::int64_t> row = showing.seen.values;
            const RowNorm of = norm.plain != 0 ? RowNorm{0, norm.plain} : row_norm(row, frac, norm.eps, norm.centred);
            scales[i] = of.scale;
            Words words(n);
            const Format out{Ring{64}, p.layers[0].mlp_norm};
            clear::scale(row, of.mean, power_of_two(-frac) * of.scale, out, words);
            std::vector<double> values(n);
            for (std::size_t j = 0; j < n; ++j)
              values[j] =
                  (static_cast<double>(row[j]) + showing.part[j] - 0.5 - of.mean) * power_of_two(-frac) * of.scale;
            for (const std::uint32_t j : sorted(values)) {
              use.normed.push_back(p.raw_up() ? values[j] : decode(words[j], out));
              use.place.push_back(showing.order.pi[j]);
            }
          }
          if (showing.seen.site == Site::mlp) {
            const double unit =
                power_of_two(w.shown_by(mlp_shape(p, 0).map).drop - p.up_frac(0)) * (p.raw_up() ? scales[i] : 1);
            std::vector<double> values(showing.seen.values.size());
            for (std::size_t j = 0; j < values.size(); ++j)
              values[j] = (static_cast<double>(showing.seen.values[j]) + showing.part[j] - 0.5) * unit;
            use.pairs = by_gate(std::span(values).first(n), std::span(values).subspan(n), showing.order.pi);
          }
        };
      },
      progress);
  return uses;
}

}  // namespace

Sorting align_by_sorting(const AuditSubject& s, std::size_t rows, int finer, const AuditProgress& progress) {
  const std::vector<Showings> uses = uses_of(s, rows, finer, stretch(progress, 0, 0.7));
  const Showings& first = uses[0];
  const Pairs& known = first.pairs;
  const std::size_t width = s.plan.config.width, ff = known.gate.size(), neurons = std::min(k_neurons, ff);
  std::vector<double> distance(ff);  // of the nearest other
  for (std::size_t k = 0; k < ff; ++k) distance[k] = nearest(known, double{known.gate[k]}, double{known.up[k]}).second;
  std::vector<std::size_t> picked(ff);
  std::iota(picked.begin(), picked.end(), 0);
  std::sort(picked.begin(), picked.end(), [&](std::size_t a, std::size_t b) { return distance[a] > distance[b]; });
  picked.resize(neurons);
  Matrix x(as_index(rows), as_index(width)), y(as_index(rows), as_index(neurons));
  double places = 0, pairs = 0;
  for (std::size_t i = 0; i < rows; ++i) {
    const Showings& use = uses[i];
    for (std::size_t j = 0; j < width; ++j) {
      x(as_index(i), as_index(j)) = use.normed[j];
      places += use.place[j] == first.place[j] ? 1 : 0;
    }
    for (std::size_t k = 0; k < neurons; ++k) {
      const std::size_t at = nearest(use.pairs, double{known.gate[picked[k]]}, double{known.up[picked[k]]}).at;
      y(as_index(i), as_index(k)) = double{use.pairs.gate[at]};
      pairs += use.pairs.neuron[at] == known.neuron[picked[k]] ? 1 : 0;
    }
  }
  std::vector<std::size_t> of_matrix;
  for (const std::size_t k : picked) of_matrix.push_back(known.neuron[k]);
  const Matrix w = rows_of(s.weights.layer(0).up, of_matrix);
  Matrix truth(w.rows(), w.cols());
  for (std::size_t j = 0; j < width; ++j) truth.col(as_index(j)) = w.col(as_index(first.place[j]));
  // Least squares with a cut-off, since a use moves in few directions.
  const Matrix cx = centred(x);
  const Eigen::SelfAdjointEigenSolver<Matrix> eigen(cx.transpose() * cx);
  const double most = eigen.eigenvalues().maxCoeff();
  const Eigen::VectorXd inverse =
      eigen.eigenvalues().unaryExpr([&](double v) { return v > 1e-10 * most ? 1 / v : 0.0; });
  const Matrix found =
      (eigen.eigenvectors() * inverse.asDiagonal() * eigen.eigenvectors().transpose() * (cx.transpose() * centred(y)))
          .transpose();
  if (progress) progress(1);
  const double n = static_cast<double>(rows);
  // What never moves tells nothing, and is not asked for.
  const Eigen::RowVectorXd moved = cx.colwise().norm();
  const auto size = [&](const Matrix& m) { return (m.array().rowwise() * moved.array()).matrix().norm(); };
  return {rows, finer, places / (n * static_cast<double>(width)), pairs / (n * static_cast<double>(neurons)),
          size(found - truth) / std::max(1e-300, size(truth))};
}

}  // namespace permllm
