// Largest magnitudes of every value over real text.
#pragma once

#include <span>

#include "model/tokenizer.h"
#include "plan/plan.h"

namespace permllm {

// One pass of the clear-text engine over `ids` with the provider's integers.
Ranges calibrate(const IntWeights& weights, std::span<const TokenId> ids, Executor& executor);

}  // namespace permllm
