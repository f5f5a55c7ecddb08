#include "audit/honest.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "audit/algebra.h"
#include "base/mutex.h"
#include "permllm/error.h"

namespace permllm {
namespace {

using namespace algebra;

// Coefficients of y by x, both centred, [x's columns][y's]; as good as none where rows are too few.
Matrix least_squares(const Matrix& x, const Matrix& y) {
  Matrix gram = x.transpose() * x;
  gram.diagonal().array() += 1e-9 * (gram.trace() / static_cast<double>(gram.rows()) + 1e-300);
  return gram.ldlt().solve(x.transpose() * y);
}

// Of y's variance, the share that independent columns of x explain, less what chance does on average.
Explained explained_by(const Matrix& x, const Matrix& y) {
  const double n = static_cast<double>(x.rows()), total = y.squaredNorm();
  if (total == 0 || n < 3) return {};
  const Eigen::RowVectorXd sizes = x.colwise().norm().cwiseMax(1e-300);
  const Matrix by = (x.array().rowwise() / sizes.array()).matrix().transpose() * y;
  const double columns = static_cast<double>(x.cols()), many = columns / (n - 1);
  // Columns of y move together: as many count as their covariance says.
  const double together = (y.transpose() * y).norm() / total;
  return {by.squaredNorm() / total - many, 5 * std::sqrt(2 * columns) / (n - 1) * together};
}

// Sums of a correlation over many words.
struct Sums {
  double n = 0, x = 0, y = 0, xx = 0, yy = 0, xy = 0;
  void add(double a, double b) { n += 1, x += a, y += b, xx += a * a, yy += b * b, xy += a * b; }
  Explained explained() const {
    const double c = n * xy - x * y, of = (n * xx - x * x) * (n * yy - y * y);
    return {of > 0 ? c * c / of : 0, 25 / n};
  }
};

const char* name_of_cut(Site site) {
  switch (site) {
    case Site::values:
      return "v";
    case Site::mixed:
      return "p.v";
    default:
      return "q and k";
  }
}

std::vector<OwnBits::Cut> cuts_of(const AuditSubject& s, const AuditProgress& progress) {
  constexpr std::size_t k_repeats = 16;
  std::map<std::pair<Site, std::uint16_t>, Sums> sums;
  Mutex mutex;
  walk(
      s, std::span(s.prompt).first(2), k_repeats, s.plan.config.layers, 11,
      [&](Witness& w) {
        w.rounded = [&](const Rounding& r) {
          Sums own;
          for (std::size_t j = 0; j < r.own.size(); ++j) own.add(r.own[j], r.off[j]);
          const Lock lock(mutex);
          Sums& all = sums[{r.cut.site, r.cut.layer}];
          all.n += own.n, all.x += own.x, all.y += own.y, all.xx += own.xx, all.yy += own.yy, all.xy += own.xy;
        };
      },
      progress);
  std::map<Site, OwnBits::Cut> worst;
  for (const auto& [at, sum] : sums) {
    const Explained by = sum.explained();
    const auto [cut, first] = worst.try_emplace(at.first, OwnBits::Cut{name_of_cut(at.first), at.second, by});
    if (!first && by.share * cut->second.by.chance > cut->second.by.share * by.chance)
      cut->second = {name_of_cut(at.first), at.second, by};
  }
  std::vector<OwnBits::Cut> cuts;
  for (const auto& [site, cut] : worst) cuts.push_back(cut);
  return cuts;
}

// What repeats of one token leave, a row each; in true order.
struct Record {
  Matrix own;                        // the user's own bits of v and of p.v: what they would decide
  Matrix mixed;                      // what goes into the matrix behind attention, in its units
  Matrix exact;                      // the row behind attention, less that of the first use; in units of what is shown
  Matrix row;                        // likewise as the user can best tell it
  Matrix normed;                     // what it answered, or of fused norms divided by its rms
  Matrix pairs;                      // some of the neurons' gates and ups
  std::vector<std::size_t> picked;   // their rows of the matrix
  double mean_scale = 1;             // of fused norms
  std::vector<double> sum, squares;  // of all, without the sign of up
};

// Where the row behind attention is shown.
Site row_site(const Plan& p) { return p.config.post_norm ? Site::post_attention : Site::mlp_norm; }

Record record_of(const AuditSubject& s, std::size_t repeats, const AuditProgress& progress) {
  const Plan& p = s.plan;
  const Config& c = p.config;
  constexpr std::size_t k_picked = 256;
  Record r;
  const std::size_t step = std::max<std::size_t>(1, c.up_rows() / k_picked);
  for (std::size_t j = 0; j < c.up_rows(); j += step) r.picked.push_back(j);
  r.sum.resize(c.up_rows());
  r.squares.resize(c.up_rows());
  const Index n = as_index(repeats);
  r.own.resize(n, as_index(c.kv_rows() + c.q_rows()));
  r.mixed.resize(n, as_index(c.q_rows()));
  r.exact.resize(n, as_index(c.width));
  r.row.resize(n, as_index(c.width));
  r.normed.resize(n, as_index(c.width));
  r.pairs.resize(n, as_index(r.picked.size()));
  std::vector<double> scales(repeats, 1.0);
  std::vector<Word> first;
  Mutex mutex;
  const NormShape mlp_norm = mlp_norm_shape(p, 0);
  const MapShape& mlp = mlp_shape(p, 0).map;
  const auto record_row = [&](const Showing& showing, Index i) {
    const bool residual = showing.seen.site == Site::mlp_norm;
    const Ring ring = residual ? p.residual : p.o(0);
    const int drop = residual ? p.norm_reveal().drop : p.o_reveal(0).drop;
    for (std::size_t j = 0; j < showing.seen.values.size(); ++j) {
      const std::size_t at = showing.order.pi[j];
      const double sign = showing.order.sign.empty() || showing.order.sign[at] == 1 ? 1 : -1;
      r.exact(i, as_index(at)) = static_cast<double>(centre(showing.exact[at] - first[at], ring)) * power_of_two(-drop);
      r.row(i, as_index(at)) = sign * (static_cast<double>(showing.seen.values[j]) + showing.part[j] - 0.5);
    }
  };
  const auto record_normed = [&](const Showing& showing, Index i) {
    const std::span<const std::int64_t> row = showing.seen.values;
    const RowNorm of = mlp_norm.plain != 0 ? RowNorm{0, mlp_norm.plain}
                                           : row_norm(row, frac::norm_row, mlp_norm.eps, mlp_norm.centred);
    scales[static_cast<std::size_t>(i)] = of.scale;
    Words words(row.size());
    const Format out{mlp_norm.map.answers[0].out.ring, p.layers[0].mlp_norm};
    clear::scale(row, of.mean, power_of_two(-frac::norm_row) * of.scale, out, words);
    for (std::size_t j = 0; j < row.size(); ++j) {
      const double exactly = (static_cast<double>(row[j]) + showing.part[j] - 0.5 - of.mean) * of.scale;
      r.normed(i, as_index(showing.order.pi[j])) =
          p.raw_up() ? exactly * power_of_two(-frac::norm_row) : decode(words[j], out);
    }
  };
  const auto record_pairs = [&](const Showing& showing, Index i) {
    const double unit =
        power_of_two(mlp.reveal.drop - p.up_frac(0)) * (p.raw_up() ? scales[static_cast<std::size_t>(i)] : 1);
    std::vector<double> values(c.up_rows());
    for (std::size_t group = 0; group < mlp.groups; ++group) {
      for (std::size_t j = 0; j < c.ff; ++j) {
        const std::size_t neuron = showing.order.pi[j], at = group * c.ff + j;
        const bool minus = group + 1 == mlp.groups && !showing.order.sign.empty() && showing.order.sign[neuron] != 1;
        const double value = static_cast<double>(showing.seen.values[at]) + showing.part[at] - 0.5;
        values[group * c.ff + neuron] = (minus ? -value : value) * unit;
      }
    }
    for (std::size_t k = 0; k < r.picked.size(); ++k) r.pairs(i, as_index(k)) = values[r.picked[k]];
    const Lock lock(mutex);
    for (std::size_t j = 0; j < values.size(); ++j) r.sum[j] += values[j], r.squares[j] += values[j] * values[j];
  };
  // The first use is that which the others are compared with.
  walk(
      s, std::span(s.prompt).first(1), 1, 1, 21,
      [&](Witness& w) {
        w.shown = [&](const Showing& showing) {
          if (showing.seen.site == row_site(p)) first.assign(showing.exact.begin(), showing.exact.end());
        };
      },
      nullptr);
  walk(
      s, std::span(s.prompt).first(1), repeats, 1, 21,
      [&](Witness& w) {
        w.shown = [&](const Showing& showing) {
          const Index i = as_index(showing.seen.index);
          if (showing.seen.site == row_site(p)) record_row(showing, i);
          if (showing.seen.site == Site::mlp_norm) record_normed(showing, i);
          if (showing.seen.site == Site::mlp) record_pairs(showing, i);
        };
        w.rounded = [&](const Rounding& rounding) {
          if (rounding.cut.site == Site::scores) return;
          const Index i = as_index(rounding.index);
          const bool values = rounding.cut.site == Site::values;
          for (std::size_t j = 0; j < rounding.own.size(); ++j) {
            r.own(i, as_index((values ? 0 : c.kv_rows()) + j)) = rounding.own[j];
            if (!values) r.mixed(i, as_index(j)) = rounding.out[j];
          }
        };
      },
      progress);
  if (p.raw_up()) r.mean_scale = std::accumulate(scales.begin(), scales.end(), 0.0) / static_cast<double>(repeats);
  return r;
}

// Relative error of the best linear estimate of w from y = x w' + noise, in the metric of what moved: of an attacker who knows how large noise (a
// variance) and weights are. 1 where nothing is told.
double error_of(const Matrix& x, const Matrix& y, const Matrix& w, double noise) {
  const Matrix cx = centred(x);
  Matrix gram = cx.transpose() * cx;
  gram.diagonal().array() += noise / std::max(w.squaredNorm() / static_cast<double>(w.size()), 1e-300);
  const Matrix found = gram.ldlt().solve(cx.transpose() * centred(y)).transpose();
  const Eigen::RowVectorXd moved = cx.colwise().norm();
  const double of = (w.array().rowwise() * moved.array()).matrix().norm();
  return of == 0 ? 1 : std::min(1.0, ((found - w).array().rowwise() * moved.array()).matrix().norm() / of);
}

// Of values that stand apart from their neighbours by more than four times how far they move.
double isolated(const Matrix& m) {
  const Eigen::RowVectorXd mean = m.colwise().mean();
  const double n = static_cast<double>(m.rows());
  std::vector<std::pair<double, double>> all;
  for (Index j = 0; j < m.cols(); ++j)
    all.emplace_back(mean[j], std::sqrt((m.col(j).array() - mean[j]).square().sum() / n));
  std::sort(all.begin(), all.end());
  std::size_t count = 0;
  for (std::size_t j = 0; j < all.size(); ++j) {
    const bool below = j == 0 || all[j].first - all[j - 1].first > 4 * all[j].second;
    const bool above = j + 1 == all.size() || all[j + 1].first - all[j].first > 4 * all[j].second;
    count += below && above ? 1 : 0;
  }
  return static_cast<double>(count) / static_cast<double>(all.size());
}

// Likewise of the neurons' pairs in the plane, without the sign of up.
double isolated_pairs(const Record& r, std::size_t ff, bool gated, double repeats) {
  std::vector<std::array<double, 3>> all(ff);  // gate, up, how far they move
  for (std::size_t j = 0; j < ff; ++j) {
    double moves = 0;
    for (std::size_t at = j, axis = 0; at < r.sum.size(); at += ff, ++axis) {
      const double mean = r.sum[at] / repeats;
      moves += std::max(0.0, r.squares[at] / repeats - mean * mean);
      all[j][axis] = gated && axis == 1 ? std::abs(mean) : mean;
    }
    all[j][2] = 4 * std::sqrt(moves);
  }
  std::sort(all.begin(), all.end());
  std::size_t count = 0;
  for (std::size_t j = 0; j < ff; ++j) {
    bool alone = true;
    const auto meets = [&](std::size_t k) {
      alone = alone && std::hypot(all[k][0] - all[j][0], all[k][1] - all[j][1]) > all[j][2];
    };
    for (std::size_t k = j; alone && k-- > 0 && all[j][0] - all[k][0] <= all[j][2];) meets(k);
    for (std::size_t k = j + 1; alone && k < ff && all[k][0] - all[j][0] <= all[j][2]; ++k) meets(k);
    count += alone ? 1 : 0;
  }
  return static_cast<double>(count) / static_cast<double>(ff);
}

double median(std::vector<double> all) {
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2), all.end());
  return all[all.size() / 2];
}

Limit limit_of(const AuditSubject& s, const Record& r, std::size_t rows) {
  const Plan& p = s.plan;
  std::vector<std::size_t> all(p.config.width);
  for (std::size_t j = 0; j < all.size(); ++j) all[j] = j;
  const int shown = p.config.post_norm ? p.o_frac(0) - p.o_reveal(0).drop : frac::norm_row;
  const Matrix output = rows_of(s.weights.layer(0).o, all) * std::ldexp(1.0, shown - p.layers[0].attention),
               gate_up = rows_of(s.weights.layer(0).up, r.picked);
  Limit limit;
  const auto simulated = static_cast<std::size_t>(r.row.rows());
  constexpr double k_rounding = 1.0 / 12;  // the variance, in units, of what is rounded at a place that is known
  const double unit = power_of_two(p.gate_up_reveal(0).drop - p.up_frac(0)) * r.mean_scale;
  for (const std::size_t part : {8u, 4u, 2u, 1u}) {
    const Index n = as_index(simulated / part);
    limit.points.push_back({simulated / part, error_of(r.mixed.topRows(n), r.row.topRows(n), output, k_rounding),
                            error_of(r.normed.topRows(n), r.pairs.topRows(n), gate_up, k_rounding * unit * unit),
                            true});
  }
  const Limit::Point last = limit.points.back();
  const double fewer = std::sqrt(static_cast<double>(simulated) / static_cast<double>(rows));
  if (rows > simulated) limit.points.push_back({rows, last.output * fewer, last.gate_up * fewer, false});
  limit.rows_isolated = isolated(r.row);
  limit.pairs_isolated = isolated_pairs(r, p.config.ff, p.config.gated, static_cast<double>(simulated));
  return limit;
}

// Of the pair of tokens that the prompt begins with; adds its part to `result`.
void add_pair(const AuditSubject& s, std::uint8_t seed, double weight, Scores& result, const AuditProgress& progress) {
  const Config& c = s.plan.config;
  const Index n = as_index(result.rows), hd = as_index(c.head_dim), heads = as_index(c.heads);
  Matrix difference(n, heads), own_q(n, as_index(c.q_rows())), own_k[2], q(n, as_index(c.q_rows())), k[2];
  for (Matrix* m : {&own_k[0], &own_k[1], &k[0], &k[1]}) m->resize(n, as_index(c.kv_rows()));
  const Ring shown = s.plan.score_reveal(0).sent();
  walk(
      s, std::span(s.prompt).first(2), result.rows, 1, seed,
      [&](Witness& w) {
        w.shown = [&](const Showing& showing) {
          if (showing.seen.site != Site::scores || showing.seen.index % 2 == 0) return;
          // Which of the two is which their values tell.
          const bool swapped = showing.order.pi[0] != 0;
          const std::size_t first = swapped ? 1 : 0, second = 1 - first;
          difference(as_index(showing.seen.index / 2), as_index(showing.seen.row)) =
              static_cast<double>(
                  centre(static_cast<Word>(showing.seen.values[second]) - static_cast<Word>(showing.seen.values[first]),
                         shown)) +
              showing.part[second] - showing.part[first];
        };
        w.rounded = [&](const Rounding& r) {
          if (r.cut.site != Site::scores) return;
          const Index i = as_index(r.index / 2);
          const std::size_t t = r.index % 2;
          for (std::size_t j = 0; j < r.own.size(); ++j) {
            const bool is_q = j < c.q_rows();
            if (is_q && t == 0) continue;
            const Index at = as_index(is_q ? j : j - c.q_rows());
            (is_q ? own_q : own_k[t])(i, at) = r.own[j];
            (is_q ? q : k[t])(i, at) = r.out[j];
          }
        };
      },
      progress);
  const auto correlation = [](const Matrix& a, const Matrix& b) {
    const Eigen::ArrayXd x = a.array() - a.mean(), y = b.array() - b.mean();
    const double size = std::sqrt(x.square().sum() * y.square().sum());
    return size > 0 ? (x * y).sum() / size : 0;
  };
  for (Index h = 0; h < heads; ++h) {
    const Index kv = as_index(c.kv_of(static_cast<std::size_t>(h))) * hd;
    Matrix x(n, 3 * hd);
    x << own_q.middleCols(h * hd, hd), own_k[1].middleCols(kv, hd), own_k[0].middleCols(kv, hd);
    // The higher D is, the lower is what comes out.
    const Matrix found = -least_squares(centred(x), centred(difference.col(h)));
    const Matrix true_k =
        (k[1].middleCols(kv, hd).colwise().mean() - k[0].middleCols(kv, hd).colwise().mean()).transpose();
    Matrix true_q(2 * hd, 1), found_q = found.bottomRows(2 * hd);
    found_q.bottomRows(hd) *= -1;
    true_q << q.middleCols(h * hd, hd).colwise().mean().transpose(),
        q.middleCols(h * hd, hd).colwise().mean().transpose();
    result.key += correlation(found.topRows(hd), true_k) * weight / static_cast<double>(heads);
    result.query += correlation(found_q, true_q) * weight / static_cast<double>(heads);
  }
  // Of what moves, the share that all of the user's own bits explain.
  Matrix own(n, own_q.cols() + 2 * own_k[0].cols());
  own << own_q, own_k[0], own_k[1];
  const Explained by = explained_by(centred(own), centred(difference));
  result.moves.share += by.share * weight;
  result.moves.chance += by.chance * weight / std::sqrt(1 / weight);
}

}  // namespace

bool OwnBits::violated() const {
  return of_row.found() || std::any_of(cuts.begin(), cuts.end(), [](const Cut& cut) { return cut.by.found(); });
}

Repeated repeat_one_token(const AuditSubject& subject, std::size_t rows, const AuditProgress& progress) {
  Repeated result;
  result.own.cuts = cuts_of(subject, stretch(progress, 0, 0.2));
  const Record record = record_of(subject, std::min(rows, k_most_repeats), stretch(progress, 0.2, 0.7));
  const Matrix moved = centred(record.exact);
  result.own.rows = static_cast<std::size_t>(moved.rows());
  result.own.of_row = explained_by(centred(record.own), moved);
  std::vector<double> sizes;
  for (Index j = 0; j < moved.cols(); ++j)
    sizes.push_back(moved.col(j).norm() / std::sqrt(static_cast<double>(moved.rows())));
  const Plan& p = subject.plan;
  result.own.moves =
      std::ldexp(median(sizes), -(p.config.post_norm ? p.o_frac(0) - p.o_reveal(0).drop : frac::norm_row));
  if (progress) progress(0.75);
  result.limit = limit_of(subject, record, rows);
  if (progress) progress(1);
  return result;
}

Scores repeat_two_tokens(const AuditSubject& subject, std::size_t rows, const AuditProgress& progress) {
  const Config& c = subject.plan.config;
  Scores result;
  result.rows = std::min(rows, k_most_repeats);
  if (result.rows < 3 * c.head_dim + 2) return result;  // fewer rows than unknowns
  const std::size_t pairs = std::min<std::size_t>(4, subject.prompt.size() / 2);
  const double weight = 1 / static_cast<double>(pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    AuditSubject of = subject;
    of.prompt = {subject.prompt[2 * i], subject.prompt[2 * i + 1]};
    const double done = static_cast<double>(i) * weight;
    add_pair(of, static_cast<std::uint8_t>(31 + 2 * i), weight, result, stretch(progress, done, done + weight));
  }
  result.chance = 5 / std::sqrt(static_cast<double>(pairs * c.q_rows()));
  return result;
}

}  // namespace permllm
