// The order of a model's matrices and gains: of their numbers on the wire, of U's streams, and in V.
#pragma once

#include "model/weights.h"
#include "plan/shapes.h"

namespace permllm {

// Matrices of the model in the order of their numbers on the wire, which is also U's order: qkv, o, up, down of each layer,
// then embed (not with public weights, which send it to the user as it is), head. each(id, shape, matrix).
// w: Weights of any matrix, const or not.
template <class AnyWeights, class Each>
void for_each_matrix(AnyWeights& w, const Plan& plan, Each each) {
  std::uint32_t id = 0;
  for (std::size_t l = 0; l < plan.config.stored_layers(); ++l) {
    each(id++, qkv_shape(plan, l), w.layers[l].qkv);
    each(id++, o_shape(plan, l), w.layers[l].o);
    each(id++, up_shape(plan, l), w.layers[l].up);
    each(id++, down_shape(plan, l), w.layers[l].down);
  }
  if (!plan.open()) each(id++, embed_linear_shape(plan, Site::next_embed), w.embed);
  each(id++, head_shape(plan), w.head);
}

// Gains, whose numbers follow those of the matrices: of q and k, of attention, of the MLP. Not with public weights, where they
// are the user's. Words of 8 bytes; a diagonal matrix as one of a single column.
template <class AnyWeights, class Each>
void for_each_gain(AnyWeights& w, const Plan& plan, Each each) {
  auto id = static_cast<std::uint32_t>(4 * plan.config.stored_layers() + 2);
  for (std::size_t l = 0; !plan.open() && l < plan.config.stored_layers(); ++l) {
    if (plan.config.qk_norm) each(id++, qk_gain_shape(plan, l), w.layers[l].qk_gain);
    if (plan.gained()) each(id++, attention_gain_shape(plan, l), w.layers[l].attention_gain);
    if (plan.gained()) each(id++, mlp_gain_shape(plan, l), w.layers[l].mlp_gain);
  }
}

}  // namespace permllm
