#include "model/key_level.h"

#include <cmath>

namespace permllm {

void level_keys(IntWeights& weights, std::size_t slots) {
  const Config& c = weights.config;
  if (!c.qkv_bias || c.qk_norm || c.score_cap != 0 || c.positions == Positions::rotary_2d) return;
  for (std::size_t l = 0; l < weights.layers.size(); ++l) {
    LayerWeights<IntMatrix>& layer = weights.layers[l];
    const auto bias = layer.qkv_bias.begin() + static_cast<std::ptrdiff_t>(c.q_rows());
    layer.key_level.assign(bias, bias + static_cast<std::ptrdiff_t>(c.kv_rows()));
    const std::vector<double>& rope = c.rope_of(l);
    for (std::size_t i = 0; i < rope.size(); ++i) {
      double cos = 0, sin = 0;
      for (std::size_t position = 0; position < slots; ++position) {
        cos += std::cos(rope[i] * static_cast<double>(position)) / static_cast<double>(slots);
        sin += std::sin(rope[i] * static_cast<double>(position)) / static_cast<double>(slots);
      }
      for (std::size_t at = 2 * i; at < c.kv_rows(); at += c.head_dim) {
        const double a = double{layer.key_level[at]}, b = double{layer.key_level[at + 1]};
        layer.key_level[at] = static_cast<float>(a * cos - b * sin);
        layer.key_level[at + 1] = static_cast<float>(a * sin + b * cos);
      }
    }
  }
}

}  // namespace permllm
