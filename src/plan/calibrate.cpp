#include "plan/calibrate.h"

#include <cmath>

#include "model/reference.h"

namespace permllm {

Ranges calibrate(const IntWeights& weights, std::span<const TokenId> ids, Executor& executor) {
  Ranges ranges;
  ranges.layers.resize(weights.config.layers);
  const auto raise = [](double& range, std::span<const float> values) {
    for (const float v : values) range = std::max(range, double{std::fabs(v)});
  };
  const Config& c = weights.config;
  // What the norm divided each row by, of the norm that came last: raw values are normalised ones times this.
  std::vector<double> deviation(ids.size());
  const auto note_deviation = [&](std::span<const float> row, std::size_t token) {
    const auto n = static_cast<double>(row.size());
    double mean = 0, squares = 0;
    for (const float v : row) mean += double{v} / n;
    if (c.norm == NormKind::rms) mean = 0;
    for (const float v : row) squares += (double{v} - mean) * (double{v} - mean);
    deviation[token] = std::sqrt(squares / n + c.norm_eps);
  };
  const auto raise_raw = [&](double& range, std::span<const float> values, const std::vector<float>& bias,
                             std::size_t token) {
    std::vector<float> bare(values.begin(), values.end());
    for (std::size_t j = 0; j < bias.size(); ++j) bare[j] -= bias[j];
    double most = 0;
    raise(most, bare);
    range = std::max(range, most * deviation[token]);
  };
  const auto observe = [&](const Observation& seen) {
    if (seen.kind == "norm.attn" || seen.kind == "norm.mlp" || seen.kind == "norm.final") {
      raise(ranges.residual, seen.values);
      note_deviation(seen.values, seen.token);
    }
    if (seen.kind == "logits") {
      raise(ranges.logit, seen.values);
      raise_raw(ranges.logit_raw, seen.values, weights.head_bias, seen.token);
    }
    if (seen.layer == c.layers) return;
    LayerRanges& r = ranges.layers[seen.layer];
    if (seen.kind == "qkv") {
      raise_raw(r.qkv_raw, seen.values, weights.layer(seen.layer).qkv_bias, seen.token);
      raise(r.qk, seen.values.first(c.qk_rows()));
      raise(r.v, seen.values.last(c.kv_rows()));
    }
    if (seen.kind == "qk") raise(r.qk_normed, seen.values);
    if (seen.kind == "score") raise(r.score, seen.values);
    if (seen.kind == "o") raise(r.o, seen.values);
    if (seen.kind == "gate_up") {
      raise(r.gate_up, seen.values);
      raise_raw(r.gate_up_raw, seen.values, weights.layer(seen.layer).up_bias, seen.token);
    }
    if (seen.kind == "activation") raise(r.activation, seen.values);
    if (seen.kind == "down") raise(r.down, seen.values);
  };
  // Logits are those of a last row: also of the first token alone, which is an attention sink in many models.
  for (const std::size_t n : {std::size_t{1}, ids.size()}) {
    ReferenceCache cache;
    reference_forward(weights, ids.first(n), cache, executor, observe);
  }
  return ranges;
}

}  // namespace permllm
