// The provider's matrices, norm gains folded into the matrix that follows (docs/protocol.md 2).
//
// LayerNorm: the mean that it takes away is folded as well (each row of the matrix behind it sums to zero), and so is its
// bias, into the bias of that matrix. Rows of q and k are in the order in which rotary pairs are adjacent.
#pragma once

#include <vector>

#include "model/config.h"
#include "ring/gain.h"
#include "ring/matrix.h"

namespace permllm {

// Matrix is IntMatrix (the protocol's integers) or FloatMatrix (the reference in float32), or another party's.
template <class Matrix>
struct LayerWeights {
  Matrix qkv;   // qkv_rows x width: q, k, v stacked; attn_norm gain folded in
  Matrix o;     // width x q_rows
  Matrix up;    // 2 ff x width: gate, then up (without a gate: ff x width); ffn_norm gain folded in
  Matrix down;  // width x ff
  // Constants added to what the matrices put out; empty: none. The provider alone has them (and, of public weights, the user).
  std::vector<float> qkv_bias = {}, o_bias = {}, up_bias = {}, down_bias = {};
  // Taken away from each key once it is rotated (model/key_level.h): kv_rows, empty: nothing.
  std::vector<float> key_level = {};
  Gain qk_gain = {};  // Config::qk_norm: of q's and k's norms, qk_rows
  // Of the norms behind attention and MLP (Config::post_norm), or of those before them, scaled, with their biases
  // (Config::normed_residual): width.
  Gain attention_gain = {}, mlp_gain = {};
  std::vector<float> attention_shift = {}, mlp_shift = {};
};

template <class Matrix>
struct Weights {
  Config config;
  std::vector<LayerWeights<Matrix>> layers;  // config.stored_layers() of them
  Matrix embed;                              // width x vocab: the transposed embedding table
  Matrix head;                               // vocab x width; output_norm gain folded in
  std::vector<float> head_bias = {};
  std::vector<float> positions = {};  // Positions::learned: [context][width]

  const LayerWeights<Matrix>& layer(std::size_t l) const { return layers[l % layers.size()]; }
};

// Weights of a party that has none.
inline Weights<NoMatrix> no_weights(const Config& config) {
  Weights<NoMatrix> none;
  none.config = config;
  none.layers.resize(config.stored_layers());
  return none;
}

using IntWeights = Weights<IntMatrix>;
using FloatWeights = Weights<FloatMatrix>;
using RoundedWeights = Weights<RoundedMatrix>;

}  // namespace permllm
