// The transformer with public weights (profile open), on one page: the user computes what lies between the matrices by itself.
#pragma once

#include "page/transformer.h"

namespace permllm {

// `clear` is what the user computes by itself from what it is shown, encoded for the provider: attention(layer, shown),
// activation(layer, shown); normed_for_attention(layer), normed_for_mlp(layer), normed_for_head() -> normed rows;
// joined_attention(layer), joined_mlp(layer) -> residual rows. add_attention(layer, o), add_mlp(layer, down): rows that its
// own residual is to be given. At the others NoClear.

struct NoClear {
  Words attention(std::size_t, const ShownPair&) { return {}; }
  Words activation(std::size_t, const ShownPair&) { return {}; }
  Words normed_for_attention(std::size_t) { return {}; }
  Words normed_for_mlp(std::size_t) { return {}; }
  Words normed_for_head() { return {}; }
  Words joined_attention(std::size_t) { return {}; }
  Words joined_mlp(std::size_t) { return {}; }
  void add_attention(std::size_t, const ShownPair&) {}
  void add_mlp(std::size_t, const ShownPair&) {}
};

// Config::post_norm: the user keeps the residual, and every matrix is an exchange of its own.
template <class Value, class Party, class Matrix, class Material, class Clear>
void run_open_post_norm_layer(Party& party, const Plan& plan, const Weights<Matrix>& weights, std::size_t l,
                              Material& material, Clear& clear) {
  const LayerWeights<Matrix>& w = weights.layer(l);
  const Part part{Part::Kind::slot, static_cast<std::uint32_t>(l)};
  material.open(party, part);
  const auto matrix = [&](const LinearShape& shape, const Matrix& m, const Reveal& reveal, const Value& in,
                          std::span<const float> bias) {
    Value out = linear(party, shape, m, in);
    add_constant(out, bias);
    return show(party, show_output_shape(plan, shape, reveal), Value{}, out);
  };
  const Value h = hand(party, hand_normed_shape(attention_norm_shape(plan, l)), clear.normed_for_attention(l));
  const ShownPair qkv = matrix(qkv_shape(plan, l), w.qkv, plan.qkv_reveal(l), h, {});
  const Value mixed = hand(party, hand_attention_shape(plan, l), clear.attention(l, qkv));
  clear.add_attention(l, matrix(o_shape(plan, l), w.o, plan.o_reveal(l), mixed, w.o_bias));

  const Value g = hand(party, hand_normed_shape(mlp_norm_shape(plan, l)), clear.normed_for_mlp(l));
  const ShownPair gate_up = matrix(up_shape(plan, l), w.up, plan.gate_up_reveal(l), g, {});
  const Value active = hand(party, hand_activation_shape(plan, l), clear.activation(l, gate_up));
  clear.add_mlp(l, matrix(down_shape(plan, l), w.down, plan.down_reveal(l), active, w.down_bias));
  material.close(party, part);
}

// The residual is masked at the provider and goes through the matrices as it is; the user divides what it is shown.
template <class Party, class Matrix, class Value, class Material, class Clear>
Value run_open_layer(Party& party, const Plan& plan, const Weights<Matrix>& weights, std::size_t l, const Value& in,
                     Material& material, Clear& clear) {
  if (plan.config.post_norm) {
    run_open_post_norm_layer<Value>(party, plan, weights, l, material, clear);
    return in;
  }
  const LayerWeights<Matrix>& w = weights.layer(l);
  const Part part{Part::Kind::slot, static_cast<std::uint32_t>(l)};
  material.open(party, part);
  Value x = in;
  const Value qkv = linear(party, qkv_shape(plan, l), w.qkv, x);
  const ShownPair seen =
      show(party, show_shape(plan, Site::attention_norm, qkv_shape(plan, l), plan.qkv_reveal(l)), x, qkv);
  const Value mixed = hand(party, hand_attention_shape(plan, l), clear.attention(l, seen));
  if (plan.config.normed_residual)
    x = hand(party, hand_residual_shape(plan, Site::attention_norm, l), clear.joined_attention(l));
  Value o = linear(party, o_shape(plan, l), w.o, mixed);
  add_constant(o, w.o_bias);
  add_aligned(x, o);

  const Value gate_up = linear(party, up_shape(plan, l), w.up, x);
  const ShownPair neurons =
      show(party, show_shape(plan, Site::mlp_norm, up_shape(plan, l), plan.gate_up_reveal(l)), x, gate_up);
  const Value active = hand(party, hand_activation_shape(plan, l), clear.activation(l, neurons));
  if (plan.config.normed_residual) x = hand(party, hand_residual_shape(plan, Site::mlp_norm, l), clear.joined_mlp(l));
  Value down = linear(party, down_shape(plan, l), w.down, active);
  add_constant(down, w.down_bias);
  add_aligned(x, down);
  material.close(party, part);
  return x;
}

// The user's embedding rows of new tokens, at the provider; nothing where the user keeps the residual.
template <class Party>
auto hand_rows(Party& party, const Plan& plan, const Words& rows) {
  using Value = decltype(hand(party, hand_row_shape(plan), rows));
  return plan.config.post_norm ? Value{} : hand(party, hand_row_shape(plan), rows);
}

// rows: embedding rows that the user handed over -> the residual after the last layer; nothing where the user keeps it.
template <class Party, class Matrix, class Value, class Material, class Clear, class Behind = Nothing>
Value run_open_layers(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& rows, Material& material,
                      Clear& clear, const Behind& behind = {}) {
  Value x = rows;
  for (std::size_t l = 0; l < plan.config.layers; ++l) {
    x = run_open_layer(party, plan, w, l, x, material, clear);
    behind(l);
  }
  return x;
}

// The residual's last rows -> their logits at the user, less the norm.
template <class Party, class Matrix, class Value, class Material, class Clear>
ShownPair run_open_pass(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& last, Material& material,
                        Clear& clear) {
  material.open(party, {Part::Kind::pass});
  ShownPair seen;
  if (plan.config.post_norm) {
    const Value h = hand(party, hand_normed_shape(final_norm_shape(plan)), clear.normed_for_head());
    seen = show(party, show_output_shape(plan, head_shape(plan), plan.logit_reveal()), Value{},
                linear(party, head_shape(plan), w.head, h));
  } else {
    const Value x = remask(party, last_row_shape(plan), last);
    const Value logits = linear(party, head_shape(plan), w.head, x);
    seen = show(party, show_shape(plan, Site::final_norm, head_shape(plan), plan.logit_reveal()), x, logits);
  }
  material.close(party, {Part::Kind::pass});
  return seen;
}

}  // namespace permllm
