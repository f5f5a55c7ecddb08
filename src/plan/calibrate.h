// Largest magnitudes of every value over real text.
#pragma once

#include <span>
#include <vector>

#include "model/tokenizer.h"
#include "plan/plan.h"

namespace permllm {

// A pass of the clear-text engine over each text, with the provider's integers. Errors: unsupported, where a value is not finite.
Ranges calibrate(const IntWeights& weights, std::span<const std::vector<TokenId>> texts, Executor& executor);
inline Ranges calibrate(const IntWeights& weights, const std::vector<TokenId>& text, Executor& executor) {
  return calibrate(weights, std::span(&text, 1), executor);
}

// The `count` tokens whose rows of the embedding table are greatest, by the squares of some of their entries. Texts need not hold them, and the
// residual is as large as they are.
std::vector<TokenId> greatest_rows(const IntMatrix& embed, std::size_t count, Executor& executor);

}  // namespace permllm
