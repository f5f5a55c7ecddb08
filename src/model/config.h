// The shape of a model: public, sent to the user in the provider's card.
#pragma once

#include <cstddef>
#include <string>

namespace permllm {

// Differences between architectures are fields here, each with the model family that needs it.
struct Config {
  std::string architecture;      // GGUF general.architecture; "llama" only so far
  std::string name;              // GGUF general.name, for people
  std::size_t layers = 0;
  std::size_t width = 0;         // d: entries of a residual row
  std::size_t heads = 0;         // query heads
  std::size_t kv_heads = 0;      // key and value heads; heads is a multiple (grouped-query attention: llama)
  std::size_t head_dim = 0;      // even
  std::size_t ff = 0;            // neurons of the MLP
  std::size_t vocab = 0;
  std::size_t context = 0;       // the model's own limit of positions
  double rope_base = 10000;
  double norm_eps = 1e-5;        // RMSNorm: x / sqrt(mean(x^2) + eps)
  bool tied_head = false;        // no output.weight: the head is the embedding table (SmolLM2)
  bool gated = true;             // MLP: silu(gate) up; false: gelu(up) (ChatGLM)
  std::size_t distinct_layers = 0;  // layers of weights that exist, used in turn; 0: all (fewer in synthetic benchmarks)

  std::size_t q_rows() const { return heads * head_dim; }
  std::size_t kv_rows() const { return kv_heads * head_dim; }
  std::size_t qkv_rows() const { return q_rows() + 2 * kv_rows(); }
  std::size_t up_rows() const { return gated ? 2 * ff : ff; }
  std::size_t stored_layers() const { return distinct_layers == 0 ? layers : distinct_layers; }
  // kv head that query head h reads.
  std::size_t kv_of(std::size_t h) const { return h / (heads / kv_heads); }
};

}  // namespace permllm
