#include "audit/regression.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "audit/algebra.h"
#include "audit/pairs.h"

namespace permllm {
namespace {

using namespace algebra;

// Rows of a prompt: so many, or of each unknown; prompts; values that it learns the roundings from.
constexpr std::size_t k_rows = 3000, k_rows_of_unknown = 5, k_most_prompts = 4, k_most_pairs = 150, k_most_places = 150;

// What repeats of one token leave, a row each.
struct Record {
  Matrix values, mixed;  // the user's own bits of v and of p.v, in true order
  Matrix row;            // the row behind attention as the user best tells it, without its signs, in rising order
  std::vector<std::vector<std::uint32_t>> place;  // where each value of it belongs: what the user does not know
  Matrix pairs;                                   // gates and ups of some neurons, matched to those of the first repeat
  Matrix inputs;                                  // what goes into the matrix: what the user does not know
};

Site row_site(const Plan& p) { return p.config.post_norm ? Site::post_attention : Site::mlp_norm; }

std::vector<double> told(const Showing& showing) {
  std::vector<double> values(showing.seen.values.size());
  for (std::size_t j = 0; j < values.size(); ++j)
    values[j] = static_cast<double>(showing.seen.values[j]) + showing.part[j] - 0.5;
  return values;
}

// Neurons are matched by the pair that lies nearest to that of the first repeat, where no other is near; how far they move the user sees of those.
struct Matching {
  Pairs first;
  std::vector<std::size_t> picked;
  std::vector<double> apart;  // of those picked, how far the nearest other is
};
Matching matching_of(const Pairs& first, double moves) {
  Matching m{first, {}, {}};
  std::vector<double> distance(first.gate.size());
  for (std::size_t k = 0; k < distance.size(); ++k)
    distance[k] = nearest(first, double{first.gate[k]}, double{first.up[k]}).second;
  std::vector<std::size_t> order(distance.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return distance[a] > distance[b]; });
  for (const std::size_t k : order) {
    if (m.picked.size() == k_most_pairs || distance[k] <= 5 * moves) break;
    if (double{first.up[k]} < 4 * moves) continue;  // near its sign's turn
    m.picked.push_back(k);
    m.apart.push_back(distance[k]);
  }
  return m;
}

Record record_of(const AuditSubject& s, TokenId token, std::uint8_t seed, std::size_t repeats,
                 const AuditProgress& progress) {
  const Config& c = s.plan.config;
  const std::vector<TokenId> prompt{token};
  const Index n = as_index(repeats);
  Record r;
  r.values.resize(n, as_index(c.kv_rows()));
  r.mixed.resize(n, as_index(c.q_rows()));
  r.inputs.resize(n, as_index(c.q_rows()));
  r.row.resize(n, as_index(c.width));
  r.place.resize(repeats);
  const auto pairs_of = [](const Showing& showing) {
    const std::vector<double> values = told(showing);
    const std::size_t neurons = showing.order.pi.size();
    return by_gate(std::span(values).first(neurons), std::span(values).subspan(neurons), showing.order.pi);
  };
  // The first repeats say which neurons stand apart.
  std::vector<Pairs> early(std::min<std::size_t>(repeats, 32));
  walk(s, prompt, early.size(), 1, seed, [&](Witness& w) {
    w.shown = [&](const Showing& showing) {
      if (showing.seen.site == Site::mlp) early[showing.seen.index] = pairs_of(showing);
    };
  });
  std::vector<double> moved;
  for (std::size_t k = 0; k < early[0].gate.size(); ++k) {
    for (std::size_t i = 1; i < early.size(); ++i)
      moved.push_back(nearest(early[i], double{early[0].gate[k]}, double{early[0].up[k]}).distance);
  }
  std::nth_element(moved.begin(), moved.begin() + static_cast<std::ptrdiff_t>(moved.size() / 2), moved.end());
  const Matching matching = matching_of(early[0], std::max(0.6, moved[moved.size() / 2]));
  const std::size_t picked = matching.picked.size();
  r.pairs.resize(n, as_index((c.gated ? 2 : 1) * picked));
  Matrix distance(n, as_index(picked));
  walk(
      s, prompt, repeats, 1, seed,
      [&](Witness& w) {
        w.shown = [&](const Showing& showing) {
          const std::size_t at = showing.seen.index;
          const Index i = as_index(at);
          if (showing.seen.site == row_site(s.plan)) {
            std::vector<double> values = told(showing);
            for (double& v : values) v = showing.order.sign.empty() ? v : std::abs(v);
            std::vector<std::uint32_t> rank(values.size());
            std::iota(rank.begin(), rank.end(), 0);
            std::sort(rank.begin(), rank.end(),
                      [&](std::uint32_t a, std::uint32_t b) { return values[a] < values[b]; });
            r.place[at].resize(rank.size());
            for (std::size_t j = 0; j < rank.size(); ++j) {
              r.row(i, as_index(j)) = values[rank[j]];
              r.place[at][j] = showing.order.pi[rank[j]];
            }
          }
          if (showing.seen.site == Site::mlp) {
            const Pairs pairs = pairs_of(showing);
            for (std::size_t k = 0; k < picked; ++k) {
              const std::size_t of = matching.picked[k];
              const Nearest near = nearest(pairs, double{matching.first.gate[of]}, double{matching.first.up[of]});
              distance(i, as_index(k)) = near.distance;
              r.pairs(i, as_index(k)) = double{pairs.gate[near.at]};
              if (c.gated) r.pairs(i, as_index(picked + k)) = double{pairs.up[near.at]};
            }
          }
        };
        w.rounded = [&](const Rounding& rounding) {
          const Index i = as_index(rounding.index);
          for (std::size_t j = 0; j < rounding.own.size(); ++j) {
            if (rounding.cut.site == Site::values) r.values(i, as_index(j)) = rounding.own[j];
            if (rounding.cut.site == Site::mixed) {
              r.mixed(i, as_index(j)) = rounding.own[j];
              r.inputs(i, as_index(j)) = rounding.out[j];
            }
          }
        };
      },
      progress);
  // Those that another came near to are left out.
  std::vector<Index> kept;
  for (std::size_t k = 0; k < picked; ++k) {
    if (distance.col(as_index(k)).maxCoeff() < 0.75 * matching.apart[k]) kept.push_back(as_index(k));
  }
  if (c.gated) {
    for (std::size_t k = 0, of_gates = kept.size(); k < of_gates; ++k) kept.push_back(kept[k] + as_index(picked));
  }
  r.pairs = Matrix(r.pairs(Eigen::all, kept));
  return r;
}

// Places of the row that their rank names each time, for they move by less than a quarter of what is between them.
std::vector<Index> places_apart(const Matrix& row) {
  const Eigen::RowVectorXd mean = row.colwise().mean(),
                           moves = ((row.rowwise() - mean).array().square().colwise().mean()).sqrt();
  std::vector<Index> places;
  for (Index j = 0; j < row.cols(); ++j) {
    const double below = j == 0 ? 1e300 : mean[j] - mean[j - 1],
                 above = j + 1 == row.cols() ? 1e300 : mean[j + 1] - mean[j];
    if (std::min(below, above) > 4 * moves[j]) places.push_back(j);
  }
  return places;
}

// How what goes into the matrix was rounded, as a function of the user's own bits: of each entry of v where it lies between two whole numbers (`at`, in
// units of v; of all heads that share it), which decides, together with the bits, whether it was rounded up or down there and behind the mix.
class Roundings {
 public:
  Roundings(const AuditSubject& s, const Record& record) : s_(s), r_(record) {
    const Plan& p = s.plan;
    finer_ = p.v_frac(0) - p.layers[0].attention;
    units_ = std::ldexp(1.0, std::max(finer_, 0));
    features_ = centred(-record.mixed);
    at_.assign(p.config.kv_rows(), 0);
  }
  const Matrix& features() const { return features_; }

  // y: what is known to move with the inputs, a column each.
  void fit(const Matrix& y, std::size_t passes) {
    const Config& c = s_.plan.config;
    const Matrix cy = centred(y);
    Matrix weighed = cy;
    for (std::size_t pass = 0; pass < passes; ++pass) {
      // Columns count by what is not explained of them yet.
      Matrix by = solve(features_, cy);
      const Eigen::RowVectorXd left =
          ((cy - features_ * by).colwise().norm() / std::sqrt(double(cy.rows()))).cwiseMax(1e-9);
      weighed = cy.array().rowwise() / left.array();
      by = by.array().rowwise() / left.array();
      Matrix residual = weighed - features_ * by;
      const bool local = pass + 2 >= passes;
      for (std::size_t j = 0; j < c.kv_rows(); ++j) fit_entry(j, by, residual, local);
    }
  }

 private:
  static Matrix solve(const Matrix& x, const Matrix& y) {
    Matrix gram = x.transpose() * x;
    gram.diagonal().array() += 1e-9 * (gram.trace() / static_cast<double>(gram.rows()) + 1);
    return gram.ldlt().solve(x.transpose() * y);
  }

  Eigen::VectorXd rounded(std::size_t entry, Index input, double at) const {
    const double down = std::ldexp(1.0, -finer_);
    Eigen::VectorXd f(r_.mixed.rows());
    const double* v = r_.values.col(as_index(entry)).data();
    const double* o = r_.mixed.col(input).data();
    constexpr int k_above = 1 << 20;  // casts round down what is not negative
    for (Index i = 0; i < f.size(); ++i) {
      const double whole = static_cast<double>(static_cast<int>(at - v[i] + k_above) - k_above);
      f[i] = static_cast<double>(static_cast<int>(whole * down - o[i] + k_above) - k_above);
    }
    return f;
  }

  void fit_entry(std::size_t entry, const Matrix& by, Matrix& residual, bool local) {
    const Config& c = s_.plan.config;
    std::vector<Index> inputs;  // that are made of this entry
    for (std::size_t h = 0; h < c.heads; ++h) {
      if (c.kv_of(h) == entry / c.head_dim) inputs.push_back(as_index(h * c.head_dim + entry % c.head_dim));
    }
    std::vector<Eigen::VectorXd> wanted;
    std::vector<double> size;
    for (const Index j : inputs) {
      size.push_back(by.row(j).squaredNorm() + 1e-30);
      wanted.push_back(residual * by.row(j).transpose() / size.back() + features_.col(j));
    }
    constexpr std::size_t k_steps = 128, k_finer = 33;
    const double step = units_ / static_cast<double>(k_steps);
    std::vector<double> tried;
    for (std::size_t k = 0; k < k_steps; ++k) tried.push_back((static_cast<double>(k) + 0.5) * step);
    for (std::size_t k = 0; local && k < k_finer; ++k)
      tried.push_back(at_[entry] + step * (2.0 * static_cast<double>(k) / (k_finer - 1) - 1));
    std::vector<double> gain(tried.size());
    s_.executor.parallel(tried.size(), [&](std::size_t k) {
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const Eigen::VectorXd f = rounded(entry, inputs[i], tried[k]);
        const double n = static_cast<double>(f.size()), mean = f.sum() / n, square = f.squaredNorm() - n * mean * mean;
        if (square < 1e-6) continue;
        const double along = wanted[i].dot(f) - mean * wanted[i].sum();
        gain[k] += size[i] * along * along / square;
      }
    });
    at_[entry] = tried[static_cast<std::size_t>(std::max_element(gain.begin(), gain.end()) - gain.begin())];
    for (const Index j : inputs) {
      Eigen::VectorXd f = rounded(entry, j, at_[entry]);
      f.array() -= f.mean();
      residual += (features_.col(j) - f) * by.row(j);
      features_.col(j) = f;
    }
  }

  const AuditSubject& s_;
  const Record& r_;
  int finer_ = 0;     // fraction bits of v beyond those of what goes into the matrix
  double units_ = 1;  // of v, in one of those
  Matrix features_;
  std::vector<double> at_;
};

// Follows every place of the row: predict from what is known, match by rank, learn again. A use does not vote for its own match.
struct Tracked {
  Matrix row;                                     // in the order of the first round's ranks
  std::vector<std::vector<std::uint32_t>> place;  // where each belongs
  Matrix by;                                      // least squares of it by the features, [feature][place]
  Eigen::RowVectorXd misfit;                      // of what is predicted, in units of what is shown
};
Tracked follow(const AuditSubject& s, const Record& r, const Matrix& features, std::size_t rounds,
               const AuditProgress& progress) {
  const Index n = r.row.rows();
  Matrix x(n, features.cols() + 1);
  x << Matrix::Ones(n, 1), features;
  Matrix gram = x.transpose() * x;
  gram.diagonal().array() += 1e-6 * (gram.trace() / static_cast<double>(gram.rows()));
  const Matrix inverse = gram.ldlt().solve(Matrix::Identity(gram.rows(), gram.cols())),
               spread = inverse * x.transpose();
  const Eigen::VectorXd own = (x * inverse).cwiseProduct(x).rowwise().sum();
  Tracked f{r.row, r.place, {}, {}};
  Matrix predicted(n, r.row.cols()), by(x.cols(), r.row.cols());
  constexpr Index k_block = 128;
  const auto blocks = [&](Index size, const auto& work) {
    s.executor.parallel(static_cast<std::size_t>((size + k_block - 1) / k_block), [&](std::size_t b) {
      const Index begin = as_index(b) * k_block;
      work(begin, std::min(k_block, size - begin));
    });
  };
  const auto learn = [&] {
    blocks(r.row.cols(), [&](Index begin, Index size) {
      by.middleCols(begin, size).noalias() = spread * f.row.middleCols(begin, size);
      predicted.middleCols(begin, size).noalias() = x * by.middleCols(begin, size);
    });
    const Eigen::ArrayXd h = own.array();
    predicted.array() = (predicted.array() - f.row.array().colwise() * h).colwise() / (1 - h).max(1e-6);
  };
  for (std::size_t round = 0; round < rounds; ++round) {
    learn();
    blocks(n, [&](Index begin, Index size) {
      std::vector<std::uint32_t> rank(static_cast<std::size_t>(r.row.cols()));
      for (Index i = begin; i < begin + size; ++i) {
        const Eigen::RowVectorXd p = predicted.row(i);
        std::iota(rank.begin(), rank.end(), 0);
        std::sort(rank.begin(), rank.end(), [&](std::uint32_t a, std::uint32_t b) { return p[a] < p[b]; });
        for (std::size_t j = 0; j < rank.size(); ++j) {
          f.row(i, rank[j]) = r.row(i, as_index(j));
          f.place[static_cast<std::size_t>(i)][rank[j]] = r.place[static_cast<std::size_t>(i)][j];
        }
      }
    });
    if (progress) progress(static_cast<double>(round + 1) / static_cast<double>(rounds));
  }
  learn();
  f.by = by.bottomRows(features.cols());
  f.misfit = (f.row - predicted).colwise().norm() / std::sqrt(static_cast<double>(n));
  return f;
}

// The columns that are predicted within `most` units, of them the best.
Matrix best(const Matrix& y, const Eigen::RowVectorXd& misfit, double most) {
  std::vector<Index> columns;
  for (Index j = 0; j < y.cols(); ++j) {
    if (misfit[j] < most) columns.push_back(j);
  }
  std::sort(columns.begin(), columns.end(), [&](Index a, Index b) { return misfit[a] < misfit[b]; });
  columns.resize(std::min(columns.size(), k_most_places));
  return y(Eigen::all, columns);
}

// Of each row of the matrix the least error so far, 1 where nothing is known; share of the inputs' movement that is known.
double attack(const AuditSubject& s, TokenId token, std::uint8_t seed, std::size_t repeats, std::vector<double>& errors,
              const AuditProgress& progress) {
  const Plan& p = s.plan;
  const Record r = record_of(s, token, seed, repeats, stretch(progress, 0, 0.2));
  const std::vector<Index> apart = places_apart(r.row);
  Matrix y(r.row.rows(), as_index(apart.size()) + r.pairs.cols());
  y.leftCols(as_index(apart.size())) = r.row(Eigen::all, apart);
  y.rightCols(r.pairs.cols()) = r.pairs;
  if (y.cols() == 0) return 0;
  Roundings roundings(s, r);
  roundings.fit(y, 6);
  if (progress) progress(0.35);
  constexpr std::array<std::size_t, 3> k_rounds{12, 25, 40};
  constexpr std::array<double, 2> k_followed{5.0, 2.5};  // units of misfit
  std::optional<Tracked> f;
  for (std::size_t step = 0; step < k_rounds.size(); ++step) {
    const double done = 0.35 + 0.2 * static_cast<double>(step);
    f = follow(s, r, roundings.features(), k_rounds[step], stretch(progress, done, done + 0.2));
    if (step == k_followed.size()) break;
    const Matrix known = best(f->row, f->misfit, k_followed[step]);
    if (known.cols() > 0) roundings.fit(known, 4);
  }
  const Matrix inputs = centred(r.inputs);
  const Eigen::RowVectorXd moved = inputs.colwise().norm();
  const int shown = p.config.post_norm ? p.o_frac(0) - p.o_reveal(0).drop : frac::norm_row;
  for (Index k = 0; k < f->row.cols(); ++k) {
    // Which place it mostly was.
    std::vector<std::size_t> times(p.config.width);
    for (const auto& place : f->place) ++times[place[static_cast<std::size_t>(k)]];
    const auto label = static_cast<std::size_t>(std::max_element(times.begin(), times.end()) - times.begin());
    const Matrix truth = rows_of(s.weights.layer(0).o, {label}).cwiseProduct(moved);
    const Matrix found =
        (f->by.col(k).transpose() * std::ldexp(1.0, p.layers[0].attention - shown)).cwiseProduct(moved);
    const double off = std::min((found - truth).norm(), p.config.post_norm ? (found + truth).norm() : 1e300);
    errors[label] = std::min(errors[label], off / std::max(truth.norm(), 1e-300));
  }
  return std::max(0.0, 1 - (roundings.features() - inputs).squaredNorm() / std::max(inputs.squaredNorm(), 1e-300));
}

}  // namespace

Regression regress_on_own_bits(const AuditSubject& s, std::size_t rows, const AuditProgress& progress) {
  const Config& c = s.plan.config;
  std::vector<TokenId> tokens;
  for (const TokenId token : s.prompt) {
    if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
  }
  const std::size_t each = std::min(rows, std::max(k_rows, k_rows_of_unknown * c.q_rows()));
  tokens.resize(std::min({tokens.size(), rows / each, k_most_prompts}));
  Regression result{0, 0, c.width, 0, 1, 0};
  if (each < 2 * c.q_rows()) return result;
  std::vector<double> errors(c.width, 1.0);
  for (const TokenId token : tokens) {
    const double done = static_cast<double>(result.tokens) / static_cast<double>(tokens.size()),
                 next = static_cast<double>(result.tokens + 1) / static_cast<double>(tokens.size());
    const double inputs = attack(s, token, static_cast<std::uint8_t>(101 + 2 * result.tokens), each, errors,
                                 stretch(progress, done, next));
    result.inputs = std::max(result.inputs, inputs);
    ++result.tokens;
  }
  result.rows = each * result.tokens;
  std::erase_if(errors, [](double error) { return error > k_held; });
  std::sort(errors.begin(), errors.end());
  result.held = errors.size();
  if (!errors.empty()) result.error = errors[errors.size() / 2];
  return result;
}

}  // namespace permllm
