#include "offline/calibrate.h"

#include <cmath>

#include "model/reference.h"

namespace permllm {

Ranges calibrate(const IntWeights& weights, std::span<const TokenId> ids, Executor& executor) {
  Ranges ranges;
  const auto raise = [](double& range, std::span<const float> values) {
    for (const float v : values) range = std::max(range, double{std::fabs(v)});
  };
  ReferenceCache cache;
  const auto logits = reference_forward(weights, ids, cache, executor, [&](const Observation& seen) {
    if (seen.kind == "norm.attn" || seen.kind == "norm.mlp" || seen.kind == "norm.final") raise(ranges.residual, seen.values);
    if (seen.kind == "qkv") raise(ranges.qkv, seen.values);
    if (seen.kind == "score") raise(ranges.score, seen.values);
    if (seen.kind == "attention") raise(ranges.attention, seen.values);
    if (seen.kind == "o") raise(ranges.o, seen.values);
    if (seen.kind == "gate_up") raise(ranges.gate_up, seen.values);
    if (seen.kind == "activation") raise(ranges.activation, seen.values);
    if (seen.kind == "down") raise(ranges.down, seen.values);
  });
  raise(ranges.logit, logits);
  return ranges;
}

}  // namespace permllm
