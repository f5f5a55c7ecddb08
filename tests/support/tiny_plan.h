// A plan over the tiny GGUF model, for tests that need no real weights.
#pragma once

#include "model/load.h"
#include "plan/plan.h"
#include "support/gguf_writer.h"

namespace permllm::test {

inline Ranges tiny_ranges(std::size_t layers = 2) {
  const LayerRanges layer{.qk = 10,
                          .v = 5,
                          .score = 50,
                          .activation = 100,
                          .gate_up = 20,
                          .gate_up_raw = 300,
                          .qkv_raw = 150,
                          .least_rms = 0.25};
  return {.residual = 30, .logit = 30, .logit_raw = 450, .layers = std::vector<LayerRanges>(layers, layer)};
}

inline const IntWeights& tiny_weights() {
  static const IntWeights weights = [] {
    Executor executor(1);
    return load_int_weights(Gguf::parse(tiny_llama().finish()), executor);
  }();
  return weights;
}

inline Plan tiny_plan(Profile profile = Profile::paper, bool fused = false) {
  return Plan::make(tiny_weights(), tiny_ranges(), 16, profile, fused);
}

}  // namespace permllm::test
