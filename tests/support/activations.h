// The MLP's activation functions as written down.
#pragma once

#include <cmath>

namespace permllm::test {

inline double silu(double gate) { return gate / (1.0 + std::exp(-gate)); }
inline double gelu(double x) { return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

}  // namespace permllm::test
