// A plan over the tiny GGUF model, for tests that need no real weights.
#pragma once

#include "model/load.h"
#include "plan/plan.h"
#include "support/gguf_writer.h"

namespace permllm::test {

inline Ranges tiny_ranges(std::size_t layers = 2) {
  return {.residual = 30,
          .qk = 10,
          .v = 5,
          .score = 50,
          .activation = 100,
          .logit = 30,
          .logit_raw = 450,
          .gate_up = std::vector<double>(layers, 20.0),
          .gate_up_raw = std::vector<double>(layers, 300.0),
          .qkv_raw = std::vector<double>(layers, 150.0)};
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
