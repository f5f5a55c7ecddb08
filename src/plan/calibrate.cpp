#include "plan/calibrate.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "model/reference.h"

namespace permllm {
namespace {

// Magnitudes as the bits of a float without its sign: they order as numbers do, infinity and NaN above all finite ones.
std::int32_t magnitude(float v) { return std::bit_cast<std::int32_t>(v) & 0x7fffffff; }

double largest(std::span<const float> values, std::span<const float> bias = {}) {
  std::int32_t most = 0;
  if (bias.empty()) {
    for (const float v : values) most = std::max(most, magnitude(v));
  } else {
    for (std::size_t j = 0; j < values.size(); ++j) most = std::max(most, magnitude(values[j] - bias[j]));
  }
  return double{std::bit_cast<float>(most)};
}

}  // namespace

Ranges calibrate(const IntWeights& weights, std::span<const std::vector<TokenId>> texts, Executor& executor) {
  Ranges ranges;
  ranges.layers.resize(weights.config.layers);
  const auto raise = [](double& range, double most) {
    if (!std::isfinite(most))
      throw Error(Code::unsupported, "plan", "the model's values on the calibration text are not finite");
    range = std::max(range, most);
  };
  const Config& c = weights.config;
  // What the norm divided each row by, of the norm that came last: raw values are normalised ones times this.
  std::size_t longest = 1;
  for (const auto& text : texts) longest = std::max(longest, text.size());
  std::vector<double> deviation(longest);
  double most_deviation = 0, logit_bare = 0;  // of the rows behind the last layer, all of which may be a prompt's last
  // Logits are small behind most rows and ten times as large behind some: they are made of every other row, the first, which is an attention sink in
  // many models, among them, and of the last.
  constexpr std::size_t k_every = 2;
  std::vector<float> for_head;
  const auto note_deviation = [&](std::span<const float> row, std::size_t token) {
    const auto n = static_cast<double>(row.size());
    double mean = 0, squares = 0;
    for (const float v : row) mean += double{v} / n;
    if (c.norm == NormKind::rms) mean = 0;
    for (const float v : row) squares += (double{v} - mean) * (double{v} - mean);
    deviation[token] = std::sqrt(squares / n + c.norm_eps);
    return mean;
  };
  const auto raise_raw = [&](double& range, std::span<const float> values, const std::vector<float>& bias,
                             std::size_t token) { raise(range, largest(values, bias) * deviation[token]); };
  const auto observe = [&](const Observation& seen) {
    if (seen.kind == "norm.attn" || seen.kind == "norm.mlp" || seen.kind == "norm.final") {
      raise(ranges.residual, largest(seen.values));
      note_deviation(seen.values, seen.token);
    }
    if (seen.kind == "norm.mlp") {
      double& least = ranges.layers[seen.layer].least_rms;
      least = least == 0 ? deviation[seen.token] : std::min(least, deviation[seen.token]);
    }
    if (seen.kind == "final") {
      const double mean = note_deviation(seen.values, seen.token);
      most_deviation = std::max(most_deviation, deviation[seen.token]);
      for (std::size_t d = 0; seen.token % k_every == 0 && d < seen.values.size(); ++d)
        for_head.push_back(static_cast<float>((double{seen.values[d]} - mean) / deviation[seen.token]));
    }
    if (seen.kind == "logits") {
      raise(ranges.logit, largest(seen.values));
      raise(logit_bare, largest(seen.values, weights.head_bias));
    }
    if (seen.layer == c.layers) return;
    LayerRanges& r = ranges.layers[seen.layer];
    if (seen.kind == "qkv") {
      raise_raw(r.qkv_raw, seen.values, weights.layer(seen.layer).qkv_bias, seen.token);
      raise(r.qk, largest(seen.values.first(c.qk_rows())));
      raise(r.v, largest(seen.values.last(c.kv_rows())));
    }
    if (seen.kind == "qk") raise(r.qk_normed, largest(seen.values));
    if (seen.kind == "score") raise(r.score, largest(seen.values));
    if (seen.kind == "o") raise(r.o, largest(seen.values));
    if (seen.kind == "gate_up") {
      raise(r.gate_up, largest(seen.values));
      raise_raw(r.gate_up_raw, seen.values, weights.layer(seen.layer).up_bias, seen.token);
    }
    if (seen.kind == "activation") raise(r.activation, largest(seen.values));
    if (seen.kind == "down") raise(r.down, largest(seen.values));
  };
  for (const std::vector<TokenId>& text : texts) {
    ReferenceCache cache;
    for_head.clear();
    reference_forward(weights, text, cache, executor, observe);
    std::vector<float> logits(for_head.size() / c.width * c.vocab);
    product(weights.head, for_head, logits, executor);
    for (std::size_t at = 0; at < logits.size(); at += c.vocab) {
      const std::span<float> row = std::span(logits).subspan(at, c.vocab);
      raise(logit_bare, largest(row));
      for (std::size_t k = 0; k < weights.head_bias.size(); ++k) row[k] += weights.head_bias[k];
      raise(ranges.logit, largest(row));
    }
  }
  raise(ranges.logit_raw, logit_bare * most_deviation);
  // No row of the table is larger.
  raise(ranges.residual, std::ldexp(weights.embed.most(), -weights.embed.frac()));
  return ranges;
}

std::vector<TokenId> greatest_rows(const IntMatrix& embed, std::size_t count, Executor& executor) {
  constexpr std::size_t k_every = 8;  // entry of a row: enough to tell those that are large, in an eighth of the time
  const std::size_t vocab = embed.cols(), entries = (embed.rows() + k_every - 1) / k_every,
                    tasks = std::min<std::size_t>(executor.threads(), entries);
  std::vector<std::vector<double>> squares(tasks, std::vector<double>(vocab));  // exact, in whichever order
  executor.parallel(tasks, [&](std::size_t task) {
    std::vector<std::int32_t> row(vocab);
    for (std::size_t d = task; d < entries; d += tasks) {
      embed.row(d * k_every, row);
      for (std::size_t k = 0; k < vocab; ++k)
        squares[task][k] += static_cast<double>(row[k]) * static_cast<double>(row[k]);
    }
  });
  for (std::size_t task = 1; task < tasks; ++task) {
    for (std::size_t k = 0; k < vocab; ++k) squares[0][k] += squares[task][k];
  }
  std::vector<TokenId> ids(vocab);
  for (std::size_t k = 0; k < vocab; ++k) ids[k] = static_cast<TokenId>(k);
  const auto end = ids.begin() + static_cast<std::ptrdiff_t>(std::min(count, vocab));
  std::partial_sort(ids.begin(), end, ids.end(),
                    [&](TokenId a, TokenId b) { return std::pair(squares[0][b], a) < std::pair(squares[0][a], b); });
  ids.erase(end, ids.end());
  return ids;
}

}  // namespace permllm
