// What the user of profile open computes by itself: norms, attention and activations of its own tokens, with its own
// key-value cache and the model's embedding table.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "model/embedding.h"
#include "model/tokenizer.h"
#include "page/transformer.h"
#include "user/product_checks.h"

namespace permllm {

// What the user of profile open has of the model beside the plan.
struct PublicPart {
  EmbeddingTable table;
  Weights<NoMatrix> vectors;  // biases, gains and positions
};
PublicPart public_part(const IntWeights& weights);

class ClearSide {
 public:
  // All references outlive the object. `executor` shares out the rows of a pass. keys: of a checked plan, else null.
  ClearSide(const Plan& plan, const PublicPart& part, Executor& executor, const ProductKeys* keys = nullptr);

  // Begins a pass over `tokens`, which follow the tokens kept so far; logits are wanted of its last `heads` rows. The tokens'
  // embedding rows, encoded.
  Words begin(std::span<const TokenId> tokens, std::size_t heads);
  // Called by the transformer's page.
  Words attention(std::size_t layer, const ShownPair& shown);
  Words activation(std::size_t layer, const ShownPair& shown);
  Words normed_for_attention(std::size_t layer);
  Words normed_for_mlp(std::size_t layer);
  Words normed_for_head();
  Words joined_attention(std::size_t layer);
  Words joined_mlp(std::size_t layer);
  void add_attention(std::size_t layer, const ShownPair& o);
  void add_mlp(std::size_t layer, const ShownPair& down);
  // What the pass showed at its end. Errors and result: those of ProductChecks::end; 0 where nothing is checked.
  void check(const ShownPair& logits);
  double check_seconds() const { return checks_ ? checks_->seconds() : 0; }
  // Logits of one row in vocabulary order, in units of 2^-Plan::choice_frac().
  std::vector<std::int64_t> logits(const ShownPair& shown, std::size_t row) const;
  // What the head is given of that row: the residual, normed. The norm's gain is the head's.
  std::vector<float> hidden_state(const ShownPair& shown, std::size_t row) const;
  // Forgets all but the first n tokens (rejected drafts, edited turns).
  void keep(std::size_t n);
  // Tokens in the cache.
  std::size_t length() const { return length_; }

 private:
  // (x - mean) scale of a row of real numbers.
  RowNorm norm_of(std::span<const double> row) const;
  // The values of row i that a matrix put out: y as it is, or of a residual that still has to be normed; and its bias.
  std::vector<double> output(const ShownPair& shown, std::size_t i, const std::vector<float>& bias) const;
  // Keeps the normed rows of the residual that is shown (Config::normed_residual).
  void note_normed(const ShownPair& shown);
  Words normed(std::size_t first, const NormShape& norm, const LinearShape& matrix);
  double place_of_pair(std::size_t token, std::size_t pair) const;
  Words joined(const Gain& gain, const std::vector<float>& shift);
  void add_normed(const ShownPair& shown, const Gain& gain);

  const Plan& plan_;
  const PublicPart& part_;
  Executor& executor_;
  std::size_t length_ = 0;  // kept, with those of the pass under way
  std::size_t begin_ = 0;   // of the pass under way
  std::size_t heads_ = 1;   // of the pass under way
  std::size_t prefix_ = 0;  // tokens of the first pass that attend both ways (Config::prefix): all but its last
  std::vector<std::vector<float>> keys_, values_;  // by layer: [token][kv_rows]
  // Of the pass under way, [token][width]: the residual (Config::post_norm), or what went into the last matrix, normed.
  std::vector<double> rows_;
  std::optional<ProductChecks> checks_;
};

}  // namespace permllm
