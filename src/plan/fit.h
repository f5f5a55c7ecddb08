// A model's plan, with fewer fraction bits of its weights where rings have no room for all (docs/protocol.md 2.3), or would be a byte smaller.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "ring/executor.h"

namespace permllm {

struct FitOptions {
  std::size_t slots = 0;
  Profile profile = Profile::paper;
  std::optional<bool> fused;     // none: where nothing has to be given up for it
  std::size_t prompt_slots = 0;  // Plan::make
  bool checked = false;          // Plan::checked
};

struct Fitted {
  Plan plan;
  std::vector<std::string> given_up;  // "layer 3: 2 bits of qkv, noise 1e-5", in order; empty: nothing
};

// The weights lose the bits that the plan has no room for: of all ways to make room, each time the one that adds the least noise; and a few more where the
// residual's ring is a byte smaller for it, and the noise that they add is not heard.
// Errors: unsupported, as Plan::make, where there is no such bit left.
Fitted fit(IntWeights& weights, const Ranges& ranges, const FitOptions& options, Executor& executor);

}  // namespace permllm
