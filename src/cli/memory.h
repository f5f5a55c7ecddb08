// What the parties of a session keep in memory.
#pragma once

#include "model/weights.h"
#include "plan/plan.h"

namespace permllm {

// Bytes beside the stock: of the model with all of its layers, also where a shape holds fewer, and of each token of a conversation
// (slot).
struct Memory {
  std::size_t provider = 0, helper = 0, user = 0, provider_slot = 0, user_slot = 0;
};
Memory memory_of(const IntWeights& weights, const Plan& plan);

}  // namespace permllm
