// What the user of profile `open` computes by itself: norms, attention and activations of its own tokens, with its own
// key-value cache and the model's embedding table.
#pragma once

#include <span>
#include <vector>

#include "engine/transformer.h"
#include "model/tokenizer.h"

namespace permllm {

// The embedding table as integers of the plan's embed_frac fraction bits: [token][width].
using EmbeddingTable = std::vector<std::int16_t>;
EmbeddingTable embedding_table(const IntMatrix& transposed);  // width x vocab, as the provider holds it

class ClearSide {
 public:
  // All references outlive the object. `executor` shares out the rows of a pass.
  ClearSide(const Plan& plan, const EmbeddingTable& table, Executor& executor);

  // Begins a pass over `tokens`, which follow the tokens kept so far. Their embedding rows, encoded.
  Words begin(std::span<const TokenId> tokens);
  // Called by the transformer's page.
  Words attention(std::size_t layer, const ShownPair& shown);
  Words activation(std::size_t layer, const ShownPair& shown);
  // Logits of one row in vocabulary order, in units of 2^-frac::logit.
  std::vector<std::int64_t> logits(const ShownPair& shown, std::size_t row) const;
  // Forgets all but the first n tokens (rejected drafts, edited turns).
  void keep(std::size_t n);
  // Tokens in the cache.
  std::size_t length() const { return length_; }

 private:
  double inverse_rms(std::span<const double> row) const;

  const Plan& plan_;
  const EmbeddingTable& table_;
  Executor& executor_;
  std::size_t length_ = 0;  // kept, with those of the pass under way
  std::size_t begin_ = 0;   // of the pass under way
  std::vector<std::vector<float>> keys_, values_;  // by layer: [token][kv_rows]
};

}  // namespace permllm
