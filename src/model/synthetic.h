// Models without a file: published shapes with random weights, to measure with.
#pragma once

#include <string>
#include <vector>

#include "model/weights.h"
#include "ring/executor.h"

namespace permllm {

// "chatglm-6b", "llama-7b", "smollm2-135m". ChatGLM-6B in pre-norm order: its sizes and its MLP without a gate.
std::vector<std::string> synthetic_names();
// Errors: usage, naming the shapes there are.
Config synthetic_config(const std::string& name);

// Bell-shaped weights with 11 fraction bits, the same for the same config.
IntWeights synthetic_weights(const Config& config, Executor& executor);

}  // namespace permllm
