#include "audit/fine_tune.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>

#include "audit/algebra.h"
#include "audit/pairs.h"
#include "permllm/error.h"

namespace permllm {
namespace {

using namespace algebra;

constexpr std::size_t k_neurons = 200, k_rank = 8, k_rounds = 12, k_held_out = 100;

// Rows that go into the layer's gate and up, in order, as the user answers them, and the unit of what it is shown of each product.
struct Inputs {
  std::size_t layer = 0;
  Matrix rows;
  std::vector<double> unit;
};

// As deep as work allows, half way at most.
std::size_t layer_of(const Config& c, std::size_t rows) {
  constexpr double k_products = 6e10;
  const double layer =
      static_cast<double>(c.width) * static_cast<double>(c.qkv_rows() + c.q_rows() + c.up_rows() + c.ff);
  return std::min(c.layers / 2, static_cast<std::size_t>(k_products / (layer * static_cast<double>(rows))));
}

// Of prompts of tokens that the user draws.
Inputs inputs_of(const AuditSubject& s, std::size_t rows, const AuditProgress& progress) {
  const Plan& p = s.plan;
  constexpr std::size_t k_tokens = 128;
  Inputs in;
  in.layer = layer_of(p.config, rows);
  const std::size_t tokens = std::min(k_tokens, p.slots), wanted = rows + k_held_out;
  in.rows.resize(as_index(wanted), as_index(p.config.width));
  in.unit.resize(wanted);
  std::mt19937_64 random(7);
  const NormShape norm = mlp_norm_shape(p, in.layer);
  const double unit = power_of_two(p.gate_up_reveal(in.layer).drop - p.up_frac(in.layer));
  // What is far larger than all else, as first tokens are in many models, is of no use to the attacker.
  constexpr double k_largest = 20;
  std::size_t have = 0;
  const std::size_t enough = 2 * (wanted / tokens + 1);  // prompts, after which any row will do
  for (std::size_t number = 0; have < wanted; ++number) {
    std::vector<TokenId> prompt(tokens);
    for (TokenId& id : prompt) id = static_cast<TokenId>(random() % p.config.vocab);
    Matrix block(as_index(tokens), in.rows.cols());
    std::vector<double> scale(tokens);
    walk(s, prompt, 1, in.layer + 1, static_cast<std::uint8_t>(61 + number), [&](Witness& w) {
      w.shown = [&](const Showing& showing) {
        if (showing.seen.site != Site::mlp_norm || showing.seen.layer != in.layer) return;
        const std::span<const std::int64_t> row = showing.seen.values;
        const RowNorm of =
            norm.plain != 0 ? RowNorm{0, norm.plain} : row_norm(row, frac::norm_row, norm.eps, norm.centred);
        Words words(row.size());
        const Format out{Ring{64}, p.layers[in.layer].mlp_norm};
        clear::scale(row, of.mean, power_of_two(-frac::norm_row) * of.scale, out, words);
        const std::size_t i = showing.seen.index;
        scale[i] = of.scale;
        for (std::size_t j = 0; j < words.size(); ++j)
          block(as_index(i), as_index(showing.order.pi[j])) = decode(words[j], out);
      };
    });
    for (std::size_t i = 0; i < tokens && have < wanted; ++i) {
      if (number < enough && block.row(as_index(i)).cwiseAbs().maxCoeff() > k_largest) continue;
      in.rows.row(as_index(have)) = block.row(as_index(i));
      in.unit[have++] = unit * (p.raw_up() ? scale[i] : 1);
    }
    if (progress) progress(std::min(1.0, static_cast<double>(have) / static_cast<double>(wanted)));
  }
  in.rows.conservativeResize(as_index(have), Eigen::NoChange);
  return in;
}

Matrix product_of(const IntMatrix& w, const Matrix& rows, Executor& executor) {
  std::vector<float> x(static_cast<std::size_t>(rows.size())), y(static_cast<std::size_t>(rows.rows()) * w.rows());
  for (Index i = 0; i < rows.rows(); ++i) {
    for (Index j = 0; j < rows.cols(); ++j)
      x[static_cast<std::size_t>(i * rows.cols() + j)] = static_cast<float>(rows(i, j));
  }
  product(w, x, y, executor);
  return Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(y.data(), rows.rows(),
                                                                                                 as_index(w.rows()))
      .cast<double>();
}

// y: all products, base and difference together, [row][gates, then ups]. base, difference: of the first `neurons` gates, then ups. rank: of the
// difference, as the attacker takes it to be.
FineTune attack(const AuditSubject& s, const Inputs& in, const Matrix& y, const Matrix& base, const Matrix& difference,
                std::size_t rank) {
  const Config& c = s.plan.config;
  const Index held_out = std::min<Index>(as_index(k_held_out), in.rows.rows() / 4), n = in.rows.rows() - held_out;
  const Index neurons = base.rows() / (c.gated ? 2 : 1);
  const Matrix x = in.rows.topRows(n), held = in.rows.bottomRows(held_out);
  std::mt19937_64 random(9);
  std::uniform_real_distribution<double> half(-0.5, 0.5);
  std::vector<Pairs> seen(static_cast<std::size_t>(n));
  std::vector<std::uint32_t> in_order(c.ff);
  std::iota(in_order.begin(), in_order.end(), 0);
  for (Index r = 0; r < n; ++r) {
    const double unit = in.unit[static_cast<std::size_t>(r)];
    std::vector<double> gate(c.ff), up(c.gated ? c.ff : 0);
    for (std::size_t j = 0; j < c.ff; ++j) {
      gate[j] = y(r, as_index(j)) + unit * half(random);
      if (c.gated) up[j] = y(r, as_index(c.ff + j)) + unit * half(random);
    }
    seen[static_cast<std::size_t>(r)] = by_gate(gate, up, in_order);
  }
  const Eigen::RowVectorXd scale = (x.array().square().colwise().mean()).sqrt().max(1e-9);
  const Matrix xs = x.array().rowwise() / scale.array(), of_base = x * base.transpose();
  Matrix gram = xs.transpose() * xs;
  gram.diagonal().array() += 1e-2 * static_cast<double>(n);
  const Eigen::LDLT<Matrix> solver(gram);
  Matrix metric = gram / static_cast<double>(n);
  Matrix found = Matrix::Zero(base.rows(), x.cols());
  // The estimate, with the rank that it may have: the subspace that explains most of what it puts out.
  const auto reduced = [&](const Matrix& estimate) -> Matrix {
    if (as_index(rank) >= estimate.rows()) return estimate;
    const Eigen::SelfAdjointEigenSolver<Matrix> eigen(estimate * metric * estimate.transpose());
    const Matrix u = eigen.eigenvectors().rightCols(as_index(rank));
    return u * (u.transpose() * estimate);
  };
  FineTune result{in.layer, static_cast<std::size_t>(n), 0, 0, 0};
  for (std::size_t round = 0; round < k_rounds; ++round) {
    const Matrix change = xs * reduced(found).transpose();
    Matrix target = change;
    std::vector<std::size_t> hits(static_cast<std::size_t>(n));
    s.executor.parallel(static_cast<std::size_t>(n), [&](std::size_t row) {
      const Index r = as_index(row);
      for (Index k = 0; k < neurons; ++k) {
        const double gate = of_base(r, k) + change(r, k),
                     up = c.gated ? of_base(r, neurons + k) + change(r, neurons + k) : 0;
        const Nearest near = nearest(seen[row], gate, std::abs(up));
        hits[row] += seen[row].neuron[near.at] == static_cast<std::uint32_t>(k) ? 1 : 0;
        if (near.distance >= 0.6 * near.second) continue;  // not told apart
        target(r, k) = double{seen[row].gate[near.at]} - of_base(r, k);
        if (c.gated)
          target(r, neurons + k) = std::copysign(double{seen[row].up[near.at]}, up) - of_base(r, neurons + k);
      }
    });
    found = solver.solve(xs.transpose() * target).transpose();
    result.matched = static_cast<double>(std::accumulate(hits.begin(), hits.end(), std::size_t{0})) /
                     static_cast<double>(n * neurons);
  }
  const Matrix estimate = reduced(found).array().rowwise() / scale.array();
  result.error =
      (held * (estimate - difference).transpose()).norm() / std::max(1e-300, (held * difference.transpose()).norm());
  result.size = difference.norm() / base.norm();
  return result;
}

std::vector<std::size_t> neurons_of(const Config& c) {
  std::vector<std::size_t> rows;
  for (std::size_t group = 0; group < (c.gated ? 2u : 1u); ++group) {
    for (std::size_t k = 0; k < std::min(k_neurons, c.ff); ++k) rows.push_back(group * c.ff + k);
  }
  return rows;
}

}  // namespace

std::vector<FineTune> recover_fine_tunes(const AuditSubject& s, std::size_t rows, std::span<const double> sizes,
                                         const AuditProgress& progress) {
  const Inputs in = inputs_of(s, rows, stretch(progress, 0, 0.5));
  const IntMatrix& up = s.weights.layer(in.layer).up;
  const std::vector<std::size_t> picked = neurons_of(s.plan.config);
  const Matrix base = rows_of(up, picked), products = product_of(up, in.rows, s.executor);
  std::mt19937_64 random(8);
  std::normal_distribution<double> normal;
  const auto drawn = [&](std::size_t a, std::size_t b) {
    Matrix m(as_index(a), as_index(b));
    for (Index j = 0; j < m.cols(); ++j) {
      for (Index i = 0; i < m.rows(); ++i) m(i, j) = normal(random);
    }
    return m;
  };
  const Matrix left = drawn(up.rows(), k_rank), right = drawn(k_rank, up.cols());
  Matrix some(as_index(picked.size()), left.cols());
  for (std::size_t i = 0; i < picked.size(); ++i) some.row(as_index(i)) = left.row(as_index(picked[i]));
  const Matrix whole = some * right, moved = in.rows * right.transpose() * left.transpose();
  std::vector<FineTune> all;
  for (const double size : sizes) {
    const double scale = size * base.norm() / whole.norm();
    all.push_back(attack(s, in, products + scale * moved, base, scale * whole, k_rank));
    if (progress) progress(0.5 + 0.5 * static_cast<double>(all.size()) / static_cast<double>(sizes.size()));
  }
  return all;
}

FineTune recover_fine_tune(const AuditSubject& s, std::size_t rows, const IntWeights& base,
                           const AuditProgress& progress) {
  const Inputs in = inputs_of(s, rows, stretch(progress, 0, 0.7));
  const IntMatrix& up = s.weights.layer(in.layer).up;
  if (base.layers.size() != s.weights.layers.size() || base.layer(in.layer).up.rows() != up.rows() ||
      base.layer(in.layer).up.cols() != up.cols())
    throw Error(Code::usage, "base", "has another shape than the model");
  const std::vector<std::size_t> picked = neurons_of(s.plan.config);
  const Matrix known = rows_of(base.layer(in.layer).up, picked), difference = rows_of(up, picked) - known;
  return attack(s, in, product_of(up, in.rows, s.executor), known, difference, 4 * k_rank);
}

}  // namespace permllm
