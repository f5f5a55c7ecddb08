// What the boxes declare for a piece of material and for a pass, added up on the transformer's pages.
#pragma once

#include "page/transformer.h"

namespace permllm {

// Declared cost of one piece: what it holds (offline) and what using it will send (online).
Cost piece_cost(const Plan& plan, Part::Kind kind, std::uint32_t layer, std::uint32_t index);

// Declared cost of a pass over `tokens` new slots after `before` earlier ones; `prompt` tells whether the tokens are a
// prompt's (one-hots sent, logits of the last row) or the one sampled before (in profile open, with drafts: logits of all
// rows). block: they are fed as a prompt's are, and each row's token is retrieved (PassBegin::block). Offline: the pieces
// it uses.
Cost pass_cost(const Plan& plan, std::size_t before, std::size_t tokens, bool prompt, bool block = false);

}  // namespace permllm
