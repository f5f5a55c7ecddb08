// The transformer on one page. Every party walks it: provider and user online, user and helper when they deal offline
// material, and the counter that adds up declared cost. What differs is inside the boxes.
//
// Value is what the party holds of a masked value: Masked (provider), Mask (user, helper) or Counted.
// Material gives the party its packs and the index range of each stretch: open(party, part) before, close after.
#pragma once

#include "model/weights.h"
#include "offline/shapes.h"

namespace permllm {

// A stretch of the page whose offline material travels together.
struct Part {
  enum class Kind : std::uint8_t {
    slot = 1,   // one token's way through one layer
    entry = 2,  // one prompt token's embedding
    pass = 3,   // from the last row of a pass to the next token's embedding row
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

// One layer. in: rows of the embedding table (layer 0), or the residual after the layer before.
template <class Party, class Matrix, class Value, class Material>
Value run_layer(Party& party, const Plan& plan, const Weights<Matrix>& w, std::size_t l, const Value& in,
                Material& material) {
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
  const Value qkv = linear(party, qkv_shape(plan, l), w.layer(l).qkv, h);
  const Value mixed = attention(party, attention_shape(plan, l), qkv);
  add_aligned(x, linear(party, o_shape(plan, l), w.layer(l).o, mixed));

  if (!plan.fused) h = norm(party, mlp_norm_shape(plan, l), x);
  const Value gate_up = linear(party, up_shape(plan, l), w.layer(l).up, plan.fused ? x : h);
  const RowScales scales = plan.fused ? row_scales(party, mlp_scale_shape(plan, l), x) : RowScales{};
  const Value active = mlp(party, mlp_shape(plan, l), gate_up, scales);
  add_aligned(x, linear(party, down_shape(plan, l), w.layer(l).down, active));
  material.close(party, part);
  return x;
}

// Rows of the embedding table -> the residual after the last layer.
template <class Party, class Matrix, class Value, class Material>
Value run_layers(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& rows, Material& material) {
  Value x = rows;
  for (std::size_t l = 0; l < plan.config.layers; ++l) x = run_layer(party, plan, w, l, x, material);
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
  const Value logits = linear(party, head_shape(plan), w.head, h);
  Sampled<Value> next;
  next.one_hot = sample(party, sample_shape(plan), logits, choose);
  next.row = linear(party, embed_linear_shape(plan, Site::next_embed), w.embed, next.one_hot);
  material.close(party, {Part::Kind::pass});
  return next;
}

// --- Public weights (profile open) --------------------------------------------------------------------------------------
// `clear` is what the user computes by itself from what it is shown: attention(layer, shown), activation(layer, shown) ->
// encoded rows. At the others NoClear.

struct NoClear {
  Words attention(std::size_t, const ShownPair&) { return {}; }
  Words activation(std::size_t, const ShownPair&) { return {}; }
};

template <class Party, class Matrix, class Value, class Material, class Clear>
Value run_open_layer(Party& party, const Plan& plan, const Weights<Matrix>& w, std::size_t l, const Value& in,
                     Material& material, Clear& clear) {
  const Part part{Part::Kind::slot, static_cast<std::uint32_t>(l)};
  material.open(party, part);
  Value x = in;
  const Value qkv = linear(party, qkv_shape(plan, l), w.layer(l).qkv, x);
  const ShownPair seen = show(party, show_shape(plan, Site::attention_norm, qkv_shape(plan, l), plan.qkv_reveal(l)), x, qkv);
  const Value mixed = hand(party, hand_attention_shape(plan, l), clear.attention(l, seen));
  add_aligned(x, linear(party, o_shape(plan, l), w.layer(l).o, mixed));

  const Value gate_up = linear(party, up_shape(plan, l), w.layer(l).up, x);
  const ShownPair neurons = show(party, show_shape(plan, Site::mlp_norm, up_shape(plan, l), plan.gate_up_reveal(l)), x, gate_up);
  const Value active = hand(party, hand_activation_shape(plan, l), clear.activation(l, neurons));
  add_aligned(x, linear(party, down_shape(plan, l), w.layer(l).down, active));
  material.close(party, part);
  return x;
}

// rows: embedding rows that the user handed over -> the residual after the last layer.
template <class Party, class Matrix, class Value, class Material, class Clear>
Value run_open_layers(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& rows, Material& material,
                      Clear& clear) {
  Value x = rows;
  for (std::size_t l = 0; l < plan.config.layers; ++l) x = run_open_layer(party, plan, w, l, x, material, clear);
  return x;
}

// The residual's last rows -> their logits at the user, less the norm.
template <class Party, class Matrix, class Value, class Material>
ShownPair run_open_pass(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& last, Material& material) {
  material.open(party, {Part::Kind::pass});
  const Value x = remask(party, last_row_shape(plan), last);
  const Value logits = linear(party, head_shape(plan), w.head, x);
  const ShownPair seen = show(party, show_shape(plan, Site::final_norm, head_shape(plan), plan.logit_reveal()), x, logits);
  material.close(party, {Part::Kind::pass});
  return seen;
}

}  // namespace permllm
