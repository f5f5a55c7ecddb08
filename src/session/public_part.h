// What the user of profile open has of the model: messages, and the order of the vectors in them.
#pragma once

#include <bit>
#include <vector>

#include "model/weights.h"
#include "plan/plan.h"
#include "protocol/linear.h"
#include "wire/message.h"

namespace permllm {

// provider -> user, after Accepted, in profile open: the embedding table, 16-bit integers of some tokens in order.
struct EmbeddingRows {
  static constexpr Tag tag = Tag::embedding_rows;
  static constexpr std::size_t k_limit = std::size_t{2} << 20;  // 8 rows of the widest model
  Bytes rows;
  template <class Io>
  void visit(Io& io) {
    io.raw("rows", rows, k_limit);
  }
};

// provider -> user, after the embedding table: biases, gains and positions, in the order of for_each_vector.
struct PublicVectors {
  static constexpr Tag tag = Tag::public_vectors;
  std::vector<float> values;
  std::size_t limit = std::size_t{1} << 26;  // of them: a receiver states the plan's number
  template <class Io>
  void visit(Io& io) {
    const auto bits = [](auto& out, float& value) {
      auto word = std::bit_cast<std::uint32_t>(value);
      out.number("value", word);
      value = std::bit_cast<float>(word);
    };
    io.list("values", values, limit, bits);
  }
};

// What the user of profile open gets beside the embedding table: each(vector, size), each(gain, size, fraction bits).
template <class AnyWeights, class Each>
void for_each_vector(AnyWeights& w, const Plan& plan, Each each) {
  const Config& c = plan.config;
  const auto some = [&](auto& vector, bool has, std::size_t size) {
    if (has) each(vector, size);
  };
  for (std::size_t l = 0; l < c.stored_layers(); ++l) {
    auto& layer = w.layers[l];
    const LayerFractions& frac = plan.layers[l];
    some(layer.qkv_bias, c.qkv_bias, c.qkv_rows());
    some(layer.up_bias, c.up_bias, c.up_rows());
    if (c.qk_norm) each(layer.qk_gain, c.qk_rows(), frac.qk_gain);
    if (plan.gained()) each(layer.attention_gain, c.width, frac.attention_gain);
    if (plan.gained()) each(layer.mlp_gain, c.width, frac.mlp_gain);
    // The provider adds them to what the user is shown: without them it could not tell the products.
    some(layer.o_bias, plan.checked, c.width);
    some(layer.down_bias, plan.checked, c.width);
    some(layer.attention_shift, c.normed_residual, c.width);
    some(layer.mlp_shift, c.normed_residual, c.width);
  }
  some(w.head_bias, c.head_bias, c.vocab);
  some(w.positions, c.positions == Positions::learned, plan.slots * c.width);
}
PublicVectors vectors_of(const IntWeights& weights, const Plan& plan);
std::size_t values_of(const Plan& plan);  // how many they are
// Errors: malformed when their number is not the plan's.
Weights<NoMatrix> weights_of(const PublicVectors& vectors, const Plan& plan);

}  // namespace permllm
