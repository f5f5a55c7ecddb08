// The transformer on one page. Every party walks it: provider and user online, user and helper when they deal offline
// material, and the counter that adds up declared cost. What differs is inside the boxes.
//
// Value is what the party holds of a masked value: Masked (provider), Mask (user, helper) or Counted.
// Material gives the party its packs and the index range of each stretch: open(party, part) before, close after.
#pragma once

#include "model/weights.h"
#include "plan/marks.h"
#include "plan/shapes.h"

namespace permllm {

// A stretch of the page whose offline material travels together.
struct Part {
  enum class Kind : std::uint8_t {
    slot = 1,   // one token's way through one layer
    entry = 2,  // one prompt token's embedding
    pass = 3,   // from the last row of a pass to the next token's embedding row
    query =
        k_users_kind,  // the query by which the user learns which token a pass sampled (Plan::bfv): of the user alone
  };
  Kind kind;
  std::uint32_t layer = 0;  // of a slot
};

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
void join(Party& party, const Plan& plan, Value& x, Value out, const NormShape& post, const LinearShape& gain_shape,
          const Gain& gain, std::span<const float> shift, const Value& h) {
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
  const Value mixed = attention(party, attention_shape(plan, l), qkv, w.key_level);
  Value o = linear(party, o_shape(plan, l), w.o, mixed);
  add_constant(o, w.o_bias);
  join(party, plan, x, o, post_attention_shape(plan, l), attention_gain_shape(plan, l), w.attention_gain,
       w.attention_shift, h);

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
Value run_layers(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& rows, Material& material,
                 const Behind& behind = {}) {
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

// Of parties that choose nothing.
inline constexpr auto k_no_choice = [](std::span<const std::int64_t>) { return std::size_t{0}; };

// Of a sampled token: its row, which feeds it; in a block (PassBegin) tokens are fed otherwise, and there is none.
enum class NextRow : bool { none, made };

// The residual's last rows -> a token behind each. choose(logits) -> position, at the user, row by row.
template <NextRow next_row = NextRow::made, class Party, class Matrix, class Value, class Choose, class Material>
Sampled<Value> run_pass(Party& party, const Plan& plan, const Weights<Matrix>& w, const Value& last,
                        const Choose& choose, Material& material) {
  material.open(party, {Part::Kind::pass});
  const Value x = remask(party, last_row_shape(plan), last);
  const Value h = norm(party, final_norm_shape(plan), x);
  Value logits = linear(party, head_shape(plan), w.head, h);
  add_constant(logits, w.head_bias);
  Sampled<Value> next;
  next.one_hot = sample(party, sample_shape(plan), logits, choose);
  const LinearShape row = embed_linear_shape(plan, Site::next_embed);
  if constexpr (next_row == NextRow::made) {
    next.row = linear(party, row, w.embed, next.one_hot);
  } else {
    leave_out(party, row);
  }
  material.close(party, {Part::Kind::pass});
  return next;
}

}  // namespace permllm
