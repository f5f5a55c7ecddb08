#include "audit/deviating.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>

#include "audit/algebra.h"

namespace permllm {
namespace {

using namespace algebra;

using Point = std::array<double, 2>;  // gate, up without its sign

// Columns whose entries are measured.
constexpr std::size_t k_columns = 48;

std::vector<std::size_t> some(std::size_t size, std::size_t count) {
  std::vector<std::size_t> picked;
  const std::size_t step = std::max<std::size_t>(1, size / count);
  for (std::size_t j = 0; j < size && picked.size() < count; j += step) picked.push_back(j);
  return picked;
}

// What rows that the user answers before gate and up show, as it sees them, and which neuron is which, as it does not know.
struct Probed {
  std::vector<std::vector<Point>> points;  // by row
  std::vector<Permutation> order;
};
Probed probe(const AuditSubject& s, const Masked& rows) {
  const Plan& p = s.plan;
  const AesCoins user(coin_seed(51)), provider(coin_seed(52));
  Witness w{user, provider, s.executor, 1, rows.tokens()};
  Probed probed{std::vector<std::vector<Point>>(rows.tokens()), std::vector<Permutation>(rows.tokens())};
  MlpShape mlp_of = mlp_shape(p, 0);
  const double unit = power_of_two(mlp_of.map.reveal.drop - p.up_frac(0));
  w.shown = [&](const Showing& showing) {
    const std::size_t n = showing.order.pi.size(), i = showing.seen.index;
    probed.order[i] = showing.order.pi;
    probed.points[i].resize(n);
    for (std::size_t at = 0; at < showing.seen.values.size(); ++at) {
      const double value = (static_cast<double>(showing.seen.values[at]) + showing.part[at] - 0.5) * unit;
      const bool is_up = at >= n;
      probed.points[i][at % n][is_up ? 1 : 0] = is_up ? std::abs(value) : value;
    }
  };
  Masked gate_up = linear(w, up_shape(p, 0), s.weights.layer(0).up, rows);
  add_constant(gate_up, s.weights.layer(0).up_bias);
  mlp(w, mlp_of, gate_up, {});
  return probed;
}

// The few points nearest to each of `of`.
constexpr std::size_t k_near = 6;
template <std::size_t count>
std::vector<std::array<std::size_t, count>> nearest(const std::vector<Point>& points, const std::vector<Point>& of) {
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return points[a] < points[b]; });
  std::vector<std::array<std::size_t, count>> near(of.size());
  for (std::size_t i = 0; i < of.size(); ++i) {
    std::array<double, count> distance;
    distance.fill(1e300);
    near[i].fill(order[0]);
    const auto offer = [&](std::size_t k) {
      const double d = std::hypot(points[k][0] - of[i][0], points[k][1] - of[i][1]);
      if (d >= distance.back()) return;
      std::size_t at = count - 1;
      for (; at > 0 && distance[at - 1] > d; --at) distance[at] = distance[at - 1], near[i][at] = near[i][at - 1];
      distance[at] = d, near[i][at] = k;
    };
    const auto middle = static_cast<std::size_t>(
        std::lower_bound(order.begin(), order.end(), of[i],
                         [&](std::size_t a, const Point& value) { return points[a] < value; }) -
        order.begin());
    std::size_t up = middle, down = middle;
    for (bool more = true; more;) {
      more = false;
      if (up < order.size() && points[order[up]][0] - of[i][0] < distance.back()) offer(order[up++]), more = true;
      if (down > 0 && of[i][0] - points[order[down - 1]][0] < distance.back()) offer(order[--down]), more = true;
    }
  }
  return near;
}

// Steps along a column: small ones, which find where its entries lead, and some that are so many times as long.
constexpr double k_longer = 16;

// Share of the entries that are right. step_of_base: of the long steps, beside how far products of the base row lie apart.
double probe_gate_up(const AuditSubject& s, double step_of_base) {
  const Plan& p = s.plan;
  const Config& c = p.config;
  const std::vector<std::size_t> columns = some(c.width, k_columns);
  std::vector<std::size_t> all(c.up_rows());
  std::iota(all.begin(), all.end(), 0);
  const Matrix w = rows_of(s.weights.layer(0).up, all);
  const Reveal reveal = p.gate_up_reveal(0);
  const double lim = std::ldexp(1.0, reveal.keep - 1 + reveal.drop - p.up_frac(0)),
               size = std::sqrt(w.array().square().mean());
  // A base row whose products fill what is shown, and steps that are small beside it.
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  Matrix base(as_index(c.width), 1);
  for (Index j = 0; j < base.rows(); ++j) base(j) = normal(random);
  base *= lim / 4.5 / std::sqrt((w * base).array().square().mean());
  // As shown: what lies beyond wraps, with its sign.
  const auto wraps = [&](double v) { return 2 * lim * std::round(v / (2 * lim)); };
  const Matrix y = (w * base).unaryExpr([&](double v) { return v - wraps(v); });
  std::vector<double> amp;  // by column: of a size that suits its entries
  for (const std::size_t j : columns)
    amp.push_back(step_of_base * lim / 4.5 /
                  std::max(1e-3 * size, std::sqrt(w.col(as_index(j)).array().square().mean())));
  const Format format = p.raw_up() ? Format{p.residual, p.residual_frac} : mlp_norm_shape(p, 0).map.answers[0].out;
  constexpr std::array k_steps{1 / k_longer, 1.0, -1.0};
  Masked rows{format, c.width, Words((k_steps.size() * columns.size() + 1) * c.width)};
  for (std::size_t i = 0; i < rows.tokens(); ++i) {
    for (std::size_t j = 0; j < c.width; ++j) {
      const std::size_t k = i == 0 ? 0 : (i - 1) / k_steps.size();
      const double step = i == 0 || columns[k] != j ? 0 : k_steps[(i - 1) % k_steps.size()] * amp[k];
      rows.token(i)[j] = encode(base(as_index(j)) + step, format);
    }
  }
  const Probed probed = probe(s, rows);
  const std::vector<Point>& reference = probed.points[0];
  const IntMatrix& up = s.weights.layer(0).up;
  std::vector<std::array<double, 2>> sums(columns.size());  // right, all
  s.executor.parallel(columns.size(), [&](std::size_t k) {
    const std::vector<Point>* const points = &probed.points[1 + k_steps.size() * k];
    const auto near = nearest<k_near>(points[0], reference);
    // Where each candidate of a small step says that the long ones lead to, and what is nearest there.
    std::vector<Point> there[2], folded[2];
    for (std::size_t n = 0; n < reference.size(); ++n) {
      for (const std::size_t a : near[n]) {
        for (std::size_t way = 0; way < 2; ++way) {
          Point to{};
          for (std::size_t axis = 0; axis < 2; ++axis)
            to[axis] = reference[n][axis] + k_steps[1 + way] * k_longer * (points[0][a][axis] - reference[n][axis]);
          there[way].push_back(to);
          folded[way].push_back({to[0] - wraps(to[0]), std::abs(to[1] - wraps(to[1]))});
        }
      }
    }
    const std::array ends{nearest<1>(points[1], folded[0]), nearest<1>(points[2], folded[1])};
    for (std::size_t n = 0; n < reference.size(); ++n) {
      double least = 1e300;
      Point found{};
      for (std::size_t i = n * k_near; i < (n + 1) * k_near; ++i) {
        double off = 0;
        Point end[2];
        for (std::size_t way = 0; way < 2; ++way) {
          end[way] = points[1 + way][ends[way][i][0]];
          const Point& to = there[way][i];
          off += std::hypot(end[way][0] - folded[way][i][0], end[way][1] - folded[way][i][1]);
          end[way][0] += wraps(to[0]);
          end[way][1] = std::copysign(end[way][1], to[1] - wraps(to[1])) + wraps(to[1]);
        }
        off += 1e-3 * std::hypot(there[0][i][0] - reference[n][0], there[0][i][1] - reference[n][1]);
        if (off < least) least = off, found = {(end[0][0] - end[1][0]) / 2, (end[0][1] - end[1][1]) / 2};
      }
      const std::size_t neuron = probed.order[0][n];
      for (std::size_t group = 0; group < (c.gated ? 2u : 1u); ++group) {
        const Index at = as_index(group * c.ff + neuron), column = as_index(columns[k]);
        const double sign = group == 1 && y(at) < 0 ? -1 : 1, truth = sign * w(at, column) * amp[k],
                     off = found[group] - truth;
        const std::size_t row = group * c.ff + neuron;
        const double step = amp[k] * std::ldexp(1.0, up.row_shift(row) + up.shift(columns[k]) - up.frac());
        sums[k][0] += std::abs(off) <= step / 2 ? 1 : 0;
        sums[k][1] += 1;
      }
    }
  });
  double right = 0, all_of = 0;
  for (const auto& part : sums) right += part[0], all_of += part[1];
  return right / all_of;
}

// Labels, far apart, and below them digits: what columns of down add.
void probe_down(const AuditSubject& s, Deviating& result) {
  const Plan& p = s.plan;
  const Config& c = p.config;
  const IntMatrix& down = s.weights.layer(0).down;
  const int digits = result.rows.digits, digit = result.rows.digit;
  if (digits == 0 || p.config.post_norm) return;
  const std::vector<std::size_t> columns = some(c.ff, k_columns);
  const AesCoins user(coin_seed(53)), provider(coin_seed(54));
  Witness w{user, provider, s.executor, 1, columns.size()};
  const int unit = p.norm_reveal().drop,
            lift = unit - (p.residual_frac - p.down_frac(0));  // of the integers of down, to units of what is shown
  if (lift < 0) return;
  std::vector<std::size_t> places(c.width);
  std::iota(places.begin(), places.end(), 0);
  std::mt19937_64 random(2);
  std::shuffle(places.begin(), places.end(), random);
  Masked x{{p.residual, p.residual_frac}, c.width, Words(columns.size() * c.width)};
  Masked active{{p.down(0), p.layers[0].activation}, c.ff, Words(columns.size() * c.ff)};
  for (std::size_t i = 0; i < columns.size(); ++i) {
    for (std::size_t j = 0; j < c.width; ++j) {
      const std::int64_t at = static_cast<std::int64_t>(places[j]) - static_cast<std::int64_t>(c.width / 2);
      x.token(i)[j] = static_cast<Word>(at) << (digit * digits + unit);
    }
    active.token(i)[columns[i]] = Word{1} << lift;
  }
  add_aligned(x, linear(w, down_shape(p, 0), down, active));
  std::vector<std::size_t> right(columns.size());
  std::vector<std::vector<std::int32_t>> truth(c.width, std::vector<std::int32_t>(c.ff));
  for (std::size_t j = 0; j < c.width; ++j) down.row(j, truth[j]);
  std::vector<std::size_t> by_label(c.width);
  for (std::size_t j = 0; j < c.width; ++j) by_label[places[j]] = j;
  w.shown = [&](const Showing& showing) {
    const std::size_t i = showing.seen.index;
    for (std::size_t k = 0; k < showing.seen.values.size(); ++k) {
      // The number is whole, so it is what is shown, or a unit less where the user's own bits are all zero.
      const std::int64_t seen = showing.seen.values[k] - (unit > 0 && showing.part[k] == 0 ? 1 : 0);
      const std::int64_t half = std::int64_t{1} << (digit * digits - 1), at = (seen + half) >> (digit * digits);
      const std::int64_t low = seen - (at << (digit * digits));
      const std::size_t place = static_cast<std::size_t>(at + static_cast<std::int64_t>(c.width / 2));
      if (place < c.width) right[i] += low == truth[by_label[place]][columns[i]] ? 1 : 0;
    }
  };
  norm(w, mlp_norm_shape(p, 0), x);
  result.down_right = static_cast<double>(std::accumulate(right.begin(), right.end(), std::size_t{0})) /
                      static_cast<double>(columns.size() * c.width);
}

}  // namespace

Deviating probe_rows(const AuditSubject& subject, const AuditProgress& progress) {
  Deviating result;
  result.rows = probing_rows(subject.plan, subject.weights);
  for (const double step : {0.025, 0.05, 0.1, 0.2}) {  // which is best it finds out on a model of its own
    result.gate_up_right = std::max(result.gate_up_right, probe_gate_up(subject, step));
  }
  if (progress) progress(0.8);
  probe_down(subject, result);
  if (progress) progress(1);
  return result;
}

}  // namespace permllm
