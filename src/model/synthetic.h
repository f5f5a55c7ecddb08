// Models without a file: published shapes with random weights, to measure with.
#pragma once

#include <string>
#include <vector>

#include "model/weights.h"
#include "ring/executor.h"

namespace permllm {

// "chatglm-6b", "llama-7b", "llama-70b", "smollm2-135m".
bool is_synthetic(const std::string& name);
// layers, width: in place of the shape's own, where not 0; the heads' size stays, heads and neurons grow with the width.
// Errors: usage, naming the shapes there are, or the widths.
Config synthetic_config(const std::string& name, std::size_t layers = 0, std::size_t width = 0);

// Bell-shaped weights of 12 bits, 11 of them fraction bits (or of 8 bits, 7; the embedding table has 12), the same for the
// same config.
// machines: as load_int_weights.
IntWeights synthetic_weights(const Config& config, int bits, Executor& executor, Machines* machines = nullptr);

}  // namespace permllm
