#include "offline/calibrate.h"

#include <cmath>

#include "model/reference.h"

namespace permllm {

Ranges calibrate(const IntWeights& weights, std::span<const TokenId> ids, Executor& executor) {
  Ranges ranges;
  for (auto* by_layer : {&ranges.gate_up, &ranges.gate_up_raw, &ranges.qkv_raw}) by_layer->resize(weights.config.layers);
  const auto raise = [](double& range, std::span<const float> values) {
    for (const float v : values) range = std::max(range, double{std::fabs(v)});
  };
  // What the norm divided each row by, of the norm that came last: raw values are normalised ones times this.
  std::vector<double> rms(ids.size());
  const auto row_rms = [&](std::span<const float> row, std::size_t token) {
    double squares = 0;
    for (const float v : row) squares += double{v} * double{v};
    rms[token] = std::sqrt(squares / static_cast<double>(row.size()) + weights.config.norm_eps);
  };
  const auto raise_raw = [&](double& range, std::span<const float> values, std::size_t token) {
    double most = 0;
    raise(most, values);
    range = std::max(range, most * rms[token]);
  };
  const auto observe = [&](const Observation& seen) {
    if (seen.kind == "norm.attn" || seen.kind == "norm.mlp" || seen.kind == "norm.final") raise(ranges.residual, seen.values);
    if (seen.kind == "norm.attn" || seen.kind == "norm.mlp" || seen.kind == "norm.final") row_rms(seen.values, seen.token);
    if (seen.kind == "qkv") {
      raise_raw(ranges.qkv_raw[seen.layer], seen.values, seen.token);
      raise(ranges.qk, seen.values.first(weights.config.q_rows() + weights.config.kv_rows()));
      raise(ranges.v, seen.values.last(weights.config.kv_rows()));
    }
    if (seen.kind == "score") raise(ranges.score, seen.values);
    if (seen.kind == "gate_up") {
      raise(ranges.gate_up[seen.layer], seen.values);
      raise_raw(ranges.gate_up_raw[seen.layer], seen.values, seen.token);
    }
    if (seen.kind == "activation") raise(ranges.activation, seen.values);
  };
  // Logits are those of a last row: also of the first token alone, which is an attention sink in many models.
  for (const std::size_t n : {std::size_t{1}, ids.size()}) {
    ReferenceCache cache;
    const auto logits = reference_forward(weights, ids.first(n), cache, executor, observe);
    raise(ranges.logit, logits);
    raise_raw(ranges.logit_raw, logits, n - 1);
  }
  return ranges;
}

}  // namespace permllm
