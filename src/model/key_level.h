// What a bias of k adds to all scores of a row alike. Softmax does not see it, and need not be told: a key is carried without it
// (docs/protocol.md 4.4).
#pragma once

#include "model/weights.h"

namespace permllm {

// Sets key_level of each layer to the mean, over `slots` positions, of its rotated bias of k: of pairs that turn slowly nearly all of it, of
// those that turn fast nearly nothing. None where scores are not shift-invariant (Config::score_cap), where k's bias goes through a norm, or
// where a token has two places.
void level_keys(IntWeights& weights, std::size_t slots);

}  // namespace permllm
