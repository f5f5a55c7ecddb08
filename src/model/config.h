// The shape of a model: public, sent to the user in the provider's card.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace permllm {

enum class NormKind : std::uint8_t {
  rms = 1,    // x / sqrt(mean(x^2) + eps)
  layer = 2,  // (x - mean(x)) / sqrt(variance(x) + eps) (GPT-2, ChatGLM-6B)
};
enum class Activation : std::uint8_t { silu = 1, gelu = 2 };  // gelu by tanh (arXiv 1606.08415, section 2)
enum class Positions : std::uint8_t {
  rotary = 1,   // RoPE, arXiv 2104.09864
  learned = 2,  // a row for each position, added to the embedding (GPT-2)
  rotary_2d =
      3,  // the first half of each head turns with the place in the prompt, the second with that in the answer (ChatGLM-6B)
};

// Of all query heads together: what a matrix may have of columns (ring/int_matrix.h) is far more.
inline constexpr std::size_t k_most_head_rows = std::size_t{1} << 17;

// A residual is mostly smaller than its norm's output, whose fraction bits it has to do with.
inline constexpr double k_plain_scale = 8;

// Differences between architectures are fields here, each with the model family that needs it. What a field changes stands on
// the transformer's page (page/transformer.h). Gains of norms, scales of embeddings and the order of a head's rotary pairs
// are no fields: they are folded into the weights when a model is loaded (model/weights.h).
struct Config {
  std::string architecture;  // GGUF general.architecture, or "chatglm-6b"
  std::string name;          // for people
  std::size_t layers = 0;
  std::size_t width = 0;     // d: entries of a residual row
  std::size_t heads = 0;     // query heads
  std::size_t kv_heads = 0;  // key and value heads; heads is a multiple (grouped-query attention)
  std::size_t head_dim = 0;  // even
  std::size_t ff = 0;        // neurons of the MLP
  std::size_t vocab = 0;
  std::size_t context = 0;  // the model's own limit of positions

  NormKind norm = NormKind::rms;
  double norm_eps = 1e-5;
  Activation activation = Activation::silu;
  bool gated = true;  // MLP: f(gate) up; false: f(up) (GPT-2, ChatGLM-6B)

  Positions positions = Positions::rotary;
  // Radians a position, of each of a head's head_dim / 2 adjacent pairs; 0 where a pair does not turn (half of each head in
  // GLM-4; all with learned positions). rotary_2d: the pairs of the second half turn with the place in the answer.
  std::vector<double> rope;
  std::vector<double> rope_local;  // of layers with a window, where not the same (Gemma 3)
  std::vector<bool> turned;        // by layer, whether its heads turn (SmolLM3: not in every fourth); empty: all do
  // In place of `rope` for conversations of at most so many tokens, until it is known how long they get (Phi 3 and 4 mini); no peer sees it.
  std::vector<double> rope_short;
  std::size_t rope_short_tokens = 0;
  std::size_t window =
      0;  // keys that a query of a windowed layer sees, itself included; 0: all (Gemma 2 and 3, Mistral)
  std::vector<bool> windows;  // by layer, whether it has the window (Gemma 3: five of six); empty: all have
  bool prefix = false;        // a prompt's tokens attend both ways (ChatGLM-6B)

  bool qk_norm = false;     // q and k are normed head by head before they turn (Qwen 3, Gemma 3)
  bool whole_norm = false;  // all heads of q, and all of k, as one row each instead (OLMo 2)
  double score_scale = 0;   // of q.k before the softmax, mostly 1 / sqrt(head_dim)
  double score_cap = 0;     // scores: cap tanh(score / cap), once scaled; 0: none (Gemma 2)
  double logit_cap = 0;     // logits likewise

  // A norm before the matrices of attention and MLP. Without one they get the residual times k_plain_scale, and the factor's inverse is in the
  // matrices (OLMo 2).
  bool pre_norm = true;
  bool post_norm = false;  // what attention and MLP put out is normed before it is added (Gemma 2 and 3, GLM-4, OLMo 2)
  bool normed_residual = false;  // what attention and MLP put out is added to the norm's output, scaled (ChatGLM-6B)

  // Constants that the matrices add to what they put out. Those of o and down are the provider's alone.
  bool qkv_bias = false, up_bias = false, head_bias = false;
  bool tied_head = false;  // the head is the embedding table (SmolLM2)

  std::size_t distinct_layers =
      0;  // layers of weights that exist, used in turn; 0: all (fewer in synthetic benchmarks)

  std::size_t q_rows() const { return heads * head_dim; }
  std::size_t kv_rows() const { return kv_heads * head_dim; }
  std::size_t qk_rows() const { return q_rows() + kv_rows(); }
  std::size_t qkv_rows() const { return q_rows() + 2 * kv_rows(); }
  std::size_t up_rows() const { return gated ? 2 * ff : ff; }
  std::size_t stored_layers() const { return distinct_layers == 0 ? layers : distinct_layers; }
  // Entries of the row that Config::qk_norm norms and that begins at entry `at` of q and k.
  std::size_t qk_norm_size(std::size_t at) const {
    if (!whole_norm) return head_dim;
    return at < q_rows() ? q_rows() : kv_rows();
  }
  // kv head that query head h reads.
  std::size_t kv_of(std::size_t h) const { return h / (heads / kv_heads); }
  bool windowed(std::size_t l) const { return window != 0 && (windows.empty() || windows[l]); }
  std::vector<double> rope_of(std::size_t l) const {
    if (!turned.empty() && !turned[l]) return std::vector<double>(head_dim / 2);
    return windowed(l) && !rope_local.empty() ? rope_local : rope;
  }
  // Chooses the frequencies for conversations of at most so many tokens.
  void set_length(std::size_t tokens) {
    if (!rope_short.empty() && tokens <= rope_short_tokens) rope = rope_short;
    rope_short.clear();
  }
};

// base^(-2 i / dims) for the first dims / 2 pairs of a head, 0 for the others: plain rotary positions.
inline std::vector<double> rope_frequencies(double base, std::size_t dims, std::size_t head_dim) {
  std::vector<double> frequencies(head_dim / 2);
  for (std::size_t i = 0; i < dims / 2; ++i)
    frequencies[i] = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(dims));
  return frequencies;
}

}  // namespace permllm
