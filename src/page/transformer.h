// The transformer on one page. Every party walks it: provider and user online, user and helper when they deal offline
// material, and the counter that adds up declared cost. What differs is inside the boxes.
//
// Value is what the party holds of a masked value: Masked (provider), Mask (user, helper) or Counted.
// Material gives the party its packs and the index range of each stretch: open(party, part) before, close after.
#pragma once

#include "model/weights.h"
#include "plan/shapes.h"
#include "plan/marks.h"

namespace permllm {

// A stretch of the page whose offline material travels together.
struct Part {
  enum class Kind : std::uint8_t {
    slot = 1,   // one token's way through one layer
    entry = 2,  // one prompt token's embedding
    pass = 3,   // from the last row of a pass to the next token's embedding row
    query = k_users_kind,  // the query by which the user learns which token a pass sampled (Plan::bfv): of the user alone
  };
  Kind kind;
  std::uint32_t layer = 0;  // of a slot
};

// Weights of a party that has none.
inline Weights<NoMatrix> no_weights(const Config& config) {
  Weights<NoMatrix> none;
  none.config = config;
  none.layers.resize(1);
  return none;
}

// Masked one-hots of prompt tokens -> their rows of the embedding table.
template <class Party, class Matrix, class Value, class Material>
Value run_entries(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& one_hots, Material& material) {
  material.open(party, {Part::Kind::entry});
  Value rows = linear(party, embed_linear_shape(plan, Site::prompt_embed), w.embed, one_hots);
  material.close(party, {Part::Kind::entry});
  return rows;
}

// q and k normed head by head, where the model does that; v stays.
template <class Party, class Matrix, class Value>
void run_head_norms(Party& party, const Plan& plan, const LayerWeights<Matrix>& w, std::size_t l, Value& qkv) {
  if (!plan.config.qk_norm) return;
  const Value normed = norm(party, head_norm_shape(plan, l), leading(qkv, plan.config.qk_rows()));
  replace_leading(qkv, linear(party, qk_gain_shape(plan, l), w.qk_gain, normed));
}

// What attention or MLP put out joins the residual x: as it is, normed, or in place of x beside the normed row h that went in.
template <class Party, class Value>
void join(Party& party, const Plan& plan, Value& x, Value out, const NormShape& post, const LinearShape& gain_shape, const Gain& gain,
          std::span<const float> shift, const Value& h) {
  if (plan.config.post_norm) out = linear(party, gain_shape, gain, norm(party, post, out));
  if (plan.config.normed_residual) {
    x = aligned(linear(party, gain_shape, gain, h), {plan.residual, plan.residual_frac});
    add_constant(x, shift);
  }
  add_aligned(x, out);
}

// One layer. in: rows of the embedding table (layer 0), or the residual after the layer before.
template <class Party, class Matrix, class Value, class Material>
Value run_layer(Party& party, const Plan& plan, const Weights<Matrix>& weights, std::size_t l, const Value& in,
                Material& material) {
  const LayerWeights<Matrix>& w = weights.layer(l);
  const Part part{Part::Kind::slot, static_cast<std::uint32_t>(l)};
  material.open(party, part);
  Value x, h;
  if (l == 0) {
    Embedded<Value> first = embed(party, embed_shape(plan), in);
    x = std::move(first.x);
    h = std::move(first.h);
  } else {
    x = in;
    h = norm(party, attention_norm_shape(plan, l), x);
  }
  Value qkv = linear(party, qkv_shape(plan, l), w.qkv, h);
  add_constant(qkv, w.qkv_bias);
  run_head_norms(party, plan, w, l, qkv);
  const Value mixed = attention(party, attention_shape(plan, l), qkv);
  Value o = linear(party, o_shape(plan, l), w.o, mixed);
  add_constant(o, w.o_bias);
  join(party, plan, x, o, post_attention_shape(plan, l), attention_gain_shape(plan, l), w.attention_gain, w.attention_shift, h);

  if (!plan.fused) h = norm(party, mlp_norm_shape(plan, l), x);
  Value gate_up = linear(party, up_shape(plan, l), w.up, plan.fused ? x : h);
  add_constant(gate_up, w.up_bias);
  const RowScales scales = plan.fused ? row_scales(party, mlp_scale_shape(plan, l), x) : RowScales{};
  const Value active = mlp(party, mlp_shape(plan, l), gate_up, scales);
  Value down = linear(party, down_shape(plan, l), w.down, active);
  add_constant(down, w.down_bias);
  join(party, plan, x, down, post_mlp_shape(plan, l), mlp_gain_shape(plan, l), w.mlp_gain, w.mlp_shift, h);
  material.close(party, part);
  return x;
}

// What a party does behind a layer: nothing.
struct Nothing {
  void operator()(std::size_t) const {}
};

// Rows of the embedding table -> the residual after the last layer. behind(layer): behind each layer; behind the first the user's
// next step is to receive, in a model of one layer it is to send.
template <class Party, class Matrix, class Value, class Material, class Behind = Nothing>
Value run_layers(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& rows, Material& material, const Behind& behind = {}) {
  Value x = rows;
  add_positions(party, w.positions, x);
  for (std::size_t l = 0; l < plan.config.layers; ++l) {
    x = run_layer(party, plan, w, l, x, material);
    behind(l);
  }
  return x;
}

// The sampled token, as a masked one-hot, and its row of the embedding table.
template <class Value>
struct Sampled {
  Value one_hot, row;
};

// The residual's last row -> the next token. choose(logits) -> position, at the user.
template <class Party, class Matrix, class Value, class Choose, class Material>
Sampled<Value> run_pass(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& last, const Choose& choose,
                        Material& material) {
  material.open(party, {Part::Kind::pass});
  const Value x = remask(party, last_row_shape(plan), last);
  const Value h = norm(party, final_norm_shape(plan), x);
  Value logits = linear(party, head_shape(plan), w.head, h);
  add_constant(logits, w.head_bias);
  Sampled<Value> next;
  next.one_hot = sample(party, sample_shape(plan), logits, choose);
  next.row = linear(party, embed_linear_shape(plan, Site::next_embed), w.embed, next.one_hot);
  material.close(party, {Part::Kind::pass});
  return next;
}

// --- Public weights (profile open) --------------------------------------------------------------------------------------
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
void run_open_post_norm_layer(Party& party, const Plan& plan, const Weights<Matrix>& weights, std::size_t l, Material& material, Clear& clear) {
  const LayerWeights<Matrix>& w = weights.layer(l);
  const Part part{Part::Kind::slot, static_cast<std::uint32_t>(l)};
  material.open(party, part);
  const auto matrix = [&](const LinearShape& shape, const Matrix& m, const Reveal& reveal, const Value& in, std::span<const float> bias) {
    Value out = linear(party, shape, m, in);
    add_constant(out, bias);
    return show(party, show_output_shape(shape, reveal), Value{}, out);
  };
  const Value h = hand(party, hand_normed_shape(Site::attention_norm, qkv_shape(plan, l)), clear.normed_for_attention(l));
  const ShownPair qkv = matrix(qkv_shape(plan, l), w.qkv, plan.qkv_reveal(l), h, {});
  const Value mixed = hand(party, hand_attention_shape(plan, l), clear.attention(l, qkv));
  clear.add_attention(l, matrix(o_shape(plan, l), w.o, plan.o_reveal(l), mixed, w.o_bias));

  const Value g = hand(party, hand_normed_shape(Site::mlp_norm, up_shape(plan, l)), clear.normed_for_mlp(l));
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
  const ShownPair seen = show(party, show_shape(plan, Site::attention_norm, qkv_shape(plan, l), plan.qkv_reveal(l)), x, qkv);
  const Value mixed = hand(party, hand_attention_shape(plan, l), clear.attention(l, seen));
  if (plan.config.normed_residual) x = hand(party, hand_residual_shape(plan, Site::attention_norm, l), clear.joined_attention(l));
  Value o = linear(party, o_shape(plan, l), w.o, mixed);
  add_constant(o, w.o_bias);
  add_aligned(x, o);

  const Value gate_up = linear(party, up_shape(plan, l), w.up, x);
  const ShownPair neurons = show(party, show_shape(plan, Site::mlp_norm, up_shape(plan, l), plan.gate_up_reveal(l)), x, gate_up);
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
ShownPair run_open_pass(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& last, Material& material, Clear& clear) {
  material.open(party, {Part::Kind::pass});
  ShownPair seen;
  if (plan.config.post_norm) {
    const Value h = hand(party, hand_normed_shape(Site::final_norm, head_shape(plan)), clear.normed_for_head());
    seen = show(party, show_output_shape(head_shape(plan), plan.logit_reveal()), Value{}, linear(party, head_shape(plan), w.head, h));
  } else {
    const Value x = remask(party, last_row_shape(plan), last);
    const Value logits = linear(party, head_shape(plan), w.head, x);
    seen = show(party, show_shape(plan, Site::final_norm, head_shape(plan), plan.logit_reveal()), x, logits);
  }
  material.close(party, {Part::Kind::pass});
  return seen;
}

}  // namespace permllm
