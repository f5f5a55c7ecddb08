#include "offline/calibrate.h"

#include <cmath>

#include "model/reference.h"

namespace permllm {

Ranges calibrate(const IntWeights& weights, std::span<const TokenId> ids, Executor& executor) {
  Ranges ranges;
  ranges.gate_up.resize(weights.config.layers);
  const auto raise = [](double& range, std::span<const float> values) {
    for (const float v : values) range = std::max(range, double{std::fabs(v)});
  };
  ReferenceCache cache;
  const auto logits = reference_forward(weights, ids, cache, executor, [&](const Observation& seen) {
    if (seen.kind == "norm.attn" || seen.kind == "norm.mlp" || seen.kind == "norm.final") raise(ranges.residual, seen.values);
    if (seen.kind == "qkv") {
      raise(ranges.qk, seen.values.first(weights.config.q_rows() + weights.config.kv_rows()));
      raise(ranges.v, seen.values.last(weights.config.kv_rows()));
    }
    if (seen.kind == "score") raise(ranges.score, seen.values);
    if (seen.kind == "gate_up") raise(ranges.gate_up[seen.layer], seen.values);
    if (seen.kind == "activation") raise(ranges.activation, seen.values);
  });
  raise(ranges.logit, logits);
  return ranges;
}

}  // namespace permllm
