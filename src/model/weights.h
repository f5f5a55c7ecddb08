// The provider's matrices, norm gains folded into the matrix that follows (docs/protocol.md 2).
#pragma once

#include <vector>

#include "model/config.h"
#include "ring/matrix.h"

namespace permllm {

// Matrix is IntMatrix (the protocol's integers) or FloatMatrix (the reference in float32).
template <class Matrix>
struct LayerWeights {
  Matrix qkv;   // qkv_rows x width: q, k, v stacked; attn_norm gain folded in
  Matrix o;     // width x q_rows
  Matrix up;    // 2 ff x width: gate, then up (without a gate: ff x width); ffn_norm gain folded in
  Matrix down;  // width x ff
};

template <class Matrix>
struct Weights {
  Config config;
  std::vector<LayerWeights<Matrix>> layers;  // config.stored_layers() of them
  Matrix embed;  // width x vocab: the transposed embedding table
  Matrix head;   // vocab x width; output_norm gain folded in

  const LayerWeights<Matrix>& layer(std::size_t l) const { return layers[l % layers.size()]; }
};

using IntWeights = Weights<IntMatrix>;
using FloatWeights = Weights<FloatMatrix>;

}  // namespace permllm
