// The transformer in clear arithmetic: the oracle of every test, the `generate` command, the calibration, and with rounded products the user's model
// for drafts. The same page as page/transformer.h.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"
#include "model/weights.h"

namespace permllm {

// Keys and values of one conversation, by layer: [token][kv_rows].
struct ReferenceCache {
  std::size_t length = 0;
  std::size_t prefix = 0;  // tokens of the first pass that attend both ways (Config::prefix): all but its last
  std::vector<std::vector<float>> keys, values;

  // Forgets all but the first n tokens. Not of a model whose prompts attend both ways.
  void keep(std::size_t n, const Config& config);
};

// Sees the values of one token: kind is "norm.attn" (the row before the norm), "qkv" (before rotation), "qk" (normed, before
// rotation; Config::qk_norm), "score" (one head's q.k with every key, neither scaled nor capped; heads in order), "attention"
// (p.v), "o", "post.attn" (normed; Config::post_norm), "norm.mlp", "gate_up", "activation", "down", "post.mlp", "final"
// (the row behind the last layer), and of the last token alone "norm.final" (the same) and "logits" (not capped).
struct Observation {
  std::string_view kind;
  std::size_t layer = 0;
  std::size_t token = 0;  // position in the sequence
  std::span<const float> values;
};
using Observer = std::function<void(const Observation&)>;

// Logits of the last of `ids`, in vocabulary order; the cache grows by ids.size(). Errors: unsupported, where they are not finite.
template <class Matrix>
std::vector<float> reference_forward(const Weights<Matrix>& weights, std::span<const TokenId> ids,
                                     ReferenceCache& cache, Executor& executor, const Observer& observe = nullptr);

}  // namespace permllm
