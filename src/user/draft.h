// Drafts of what may follow, made by the user alone: no model, no message.
#pragma once

#include <span>
#include <vector>

#include "model/tokenizer.h"

namespace permllm {

// Prompt lookup: what followed the last place where the history's last three (two, one) tokens stood before. Always n
// tokens, whatever was found: a block's size must not tell how good the guess is.
std::vector<TokenId> draft_by_lookup(std::span<const TokenId> history, std::size_t n);

}  // namespace permllm
