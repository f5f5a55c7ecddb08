// The plan as shapes of boxes: what the transformer's page calls each box with.
#pragma once

#include "plan/plan.h"
#include "protocol/attention.h"
#include "protocol/embed.h"
#include "protocol/mlp.h"
#include "protocol/open.h"
#include "protocol/retrieve_bfv.h"
#include "protocol/sample.h"

namespace permllm {

inline std::uint16_t layer_id(std::size_t l) { return static_cast<std::uint16_t>(l); }

// The largest integer of `frac` fraction bits that counts as within a range (docs/protocol.md 2.9). What rounding adds is no more than a unit.
inline std::int64_t most_of(double range, int frac, double margin = k_told_margin) {
  return std::llrint(std::min(std::ldexp(margin * range, frac), std::ldexp(1.0, 60))) + 1;
}
// Of what the user encodes, which is clamped where it would wrap: just below that.
inline std::int64_t most_encoded(double range, int frac) { return most_of(range, frac, 0.99 * k_range_margin); }

// --- By layer ---------------------------------------------------------------------------------------------------------

inline LinearShape qkv_shape(const Plan& p, std::size_t l) {
  return {Site::qkv, layer_id(l), p.config.qkv_rows(), p.config.width, {p.qkv(l), p.qkv_frac(l)}, p.open()};
}
inline LinearShape o_shape(const Plan& p, std::size_t l) {
  return {Site::o, layer_id(l), p.config.width, p.config.q_rows(), {p.o(l), p.o_frac(l)}, p.open()};
}
inline LinearShape up_shape(const Plan& p, std::size_t l) {
  return {Site::up, layer_id(l), p.config.up_rows(), p.config.width, {p.up(l), p.up_frac(l)}, p.open()};
}
inline LinearShape down_shape(const Plan& p, std::size_t l) {
  return {Site::down, layer_id(l), p.config.width, p.config.ff, {p.down(l), p.down_frac(l)}, p.open()};
}
// Gains are diagonal: as many columns as rows.
inline LinearShape qk_gain_shape(const Plan& p, std::size_t l) {
  return {Site::qk_gain, layer_id(l), p.config.qk_rows(), p.config.qk_rows(), {p.qkv(l), p.qk_frac(l)}};
}
inline LinearShape attention_gain_shape(const Plan& p, std::size_t l) {
  return {Site::attention_gain,
          layer_id(l),
          p.config.width,
          p.config.width,
          {p.part(p.attention_gain_frac(l)), p.attention_gain_frac(l)}};
}
inline LinearShape mlp_gain_shape(const Plan& p, std::size_t l) {
  return {
      Site::mlp_gain, layer_id(l), p.config.width, p.config.width, {p.part(p.mlp_gain_frac(l)), p.mlp_gain_frac(l)}};
}

// Rows of the residual that go into a matrix as they are, scaled. Of rows that are normed no entry is beyond what check() looks at.
inline bool is_plain(const Plan& p, Site norm) { return !p.config.pre_norm && norm != Site::final_norm; }
inline std::int64_t normed_most(const Plan& p, Site norm, int frac) {
  return is_plain(p, norm) ? most_encoded(k_plain_scale * p.ranges.residual, frac) : k_any_magnitude;
}
// A norm of the residual, with what goes into a matrix.
inline NormShape norm_shape(const Plan& p, Site site, std::size_t l, Format out) {
  NormShape s;
  s.map = {.site = site,
           .layer = layer_id(l),
           .columns = p.config.width,
           .in = p.residual,
           .reveal = p.norm_reveal(),
           .shown = Shown::residual_row,
           .most = most_of(p.ranges.residual, p.residual_frac - p.norm_reveal().drop),
           .answers = {{site, out, normed_most(p, site, out.frac)}}};
  s.eps = p.config.norm_eps;
  s.centred = p.config.norm == NormKind::layer;
  s.plain = is_plain(p, site) ? k_plain_scale : 0;
  return s;
}
// What goes into the matrix and, where the norm's output is the residual, into its gain.
inline Ring normed_ring(const Plan& p, Ring matrix, int gain_frac) {
  return Ring{p.config.normed_residual ? std::max(matrix.bits, p.part(gain_frac).bits) : matrix.bits};
}
inline NormShape attention_norm_shape(const Plan& p, std::size_t l) {
  return norm_shape(p, Site::attention_norm, l,
                    {normed_ring(p, p.qkv(l), p.attention_gain_frac(l)), p.layers[l].attention_norm});
}
inline NormShape mlp_norm_shape(const Plan& p, std::size_t l) {
  return norm_shape(p, Site::mlp_norm, l, {normed_ring(p, p.up(l), p.mlp_gain_frac(l)), p.layers[l].mlp_norm});
}
// Behind a matrix. No mean is taken away: the signs of its entries are hidden.
inline NormShape rms_norm_shape(const Plan& p, Site site, std::size_t l, std::size_t rows, std::size_t columns, Ring in,
                                const Reveal& reveal, Shown shown, std::int64_t most, Format out) {
  NormShape s;
  s.map = {.site = site,
           .layer = layer_id(l),
           .rows = rows,
           .columns = columns,
           .in = in,
           .reveal = reveal,
           .sign = true,
           .shown = shown,
           .most = most,
           .answers = {{site, out}}};
  s.eps = p.config.norm_eps;
  return s;
}
// Of q and k, head by head or each as a whole.
inline NormShape head_norm_shape(const Plan& p, std::size_t l) {
  const Config& c = p.config;
  NormShape s = rms_norm_shape(p, Site::head_norm, l, c.whole_norm ? 2 : c.heads + c.kv_heads, c.qk_norm_size(0),
                               p.qkv(l), p.head_norm_reveal(l), Shown::head_row,
                               most_of(p.ranges.layers[l].qk, p.qkv_frac(l) - p.head_norm_reveal(l).drop),
                               {p.qkv(l), frac::head});
  s.map.fewer = c.qk_norm_size(0) - c.qk_norm_size(c.q_rows());
  return s;
}
// Of what attention and MLP put out.
inline NormShape post_attention_shape(const Plan& p, std::size_t l) {
  return rms_norm_shape(p, Site::post_attention, l, 1, p.config.width, p.o(l), p.o_reveal(l), Shown::output_row,
                        most_of(p.ranges.layers[l].o, p.o_frac(l) - p.o_reveal(l).drop),
                        {attention_gain_shape(p, l).out.ring, frac::post});
}
inline NormShape post_mlp_shape(const Plan& p, std::size_t l) {
  return rms_norm_shape(p, Site::post_mlp, l, 1, p.config.width, p.down(l), p.down_reveal(l), Shown::output_row,
                        most_of(p.ranges.layers[l].down, p.down_frac(l) - p.down_reveal(l).drop),
                        {mlp_gain_shape(p, l).out.ring, frac::post});
}
// Fused: the row is shown, nothing is answered.
inline NormShape mlp_scale_shape(const Plan& p, std::size_t l) {
  NormShape s = mlp_norm_shape(p, l);
  s.map.answers.clear();
  return s;
}

inline AttentionShape attention_shape(const Plan& p, std::size_t l) {
  AttentionShape s;
  const Config& c = p.config;
  s.values.head = {.layer = layer_id(l),
                   .heads = c.heads,
                   .kv_heads = c.kv_heads,
                   .head_dim = c.head_dim,
                   .rope = c.rope_of(l),
                   .two_places = c.positions == Positions::rotary_2d,
                   .prompt = p.prompt_slots,
                   .window = c.windowed(l) ? c.window : 0,
                   .hidden = p.hides_positions,
                   .rope_frac = p.layers[l].rope,
                   .qk_cut = p.qk_cut(l),
                   .qk = {p.qk(l), p.layers[l].rotated},
                   .v_cut = p.v_cut(l),
                   .v = {p.v(l), p.v_frac(l)},
                   .dead_bits = p.score_reveal(l).drop + p.score_reveal(l).keep - 2,
                   .shown = p.score_reveal(l),
                   .level = c.score_cap == 0};
  s.values.mixed = p.mixed(l);
  s.values.cut = p.mix_cut(l);
  s.values.out = {p.o(l), p.layers[l].attention};
  s.fast = p.profile == Profile::fast;
  s.softmax = {.site = Site::scores,
               .layer = layer_id(l),
               .rows = c.heads,
               .prompt = p.prompt_slots,
               .in = p.qk(l),
               .reveal = p.score_reveal(l),
               .level = c.score_cap == 0,
               .shown = Shown::score,
               .answers = {{Site::scores, {p.mixed(l), p.probability_frac()}}}};
  s.unit = c.score_scale * power_of_two(-p.score_frac(l));
  s.cap = c.score_cap;
  s.most = most_of(p.ranges.layers[l].score, p.score_frac(l));
  s.weight_frac = p.probability_frac();
  return s;
}

inline std::int64_t gate_up_most(const Plan& p, std::size_t l) {
  const LayerRanges& r = p.ranges.layers[l];
  return most_of(p.raw_up() ? r.gate_up_raw : r.gate_up, p.up_frac(l) - p.gate_up_reveal(l).drop);
}
inline std::int64_t activation_most(const Plan& p, std::size_t l) {
  return most_encoded(p.ranges.layers[l].activation, p.layers[l].activation);
}
inline MlpShape mlp_shape(const Plan& p, std::size_t l) {
  MlpShape s;
  s.map = {.site = Site::mlp,
           .layer = layer_id(l),
           .groups = p.config.gated ? std::size_t{2} : std::size_t{1},
           .columns = p.config.ff,
           .in = p.up(l),
           .reveal = p.gate_up_reveal(l),
           .sign = p.config.gated,
           .shown = p.fused ? Shown::raw_gate_up : Shown::gate_up,
           .most = gate_up_most(p, l),
           .answers = {{Site::mlp, {p.down(l), p.layers[l].activation}, activation_most(p, l)}}};
  s.gelu = p.config.activation == Activation::gelu;
  return s;
}

// --- Public weights ---------------------------------------------------------------------------------------------------

inline HandShape hand_row_shape(const Plan& p) {
  return {Site::hand_row,
          0,
          p.config.width,
          {p.residual, p.residual_frac},
          most_encoded(p.ranges.residual, p.residual_frac)};
}
inline HandShape hand_attention_shape(const Plan& p, std::size_t l) {
  return {Site::hand_attention,
          layer_id(l),
          p.config.q_rows(),
          {p.o(l), p.layers[l].attention},
          most_encoded(p.ranges.layers[l].v, p.layers[l].attention)};
}
inline HandShape hand_activation_shape(const Plan& p, std::size_t l) {
  return {Site::hand_activation, layer_id(l), p.config.ff, {p.down(l), p.layers[l].activation}, activation_most(p, l)};
}
// A whole residual row, once attention or MLP is through (Config::normed_residual).
inline HandShape hand_residual_shape(const Plan& p, Site norm, std::size_t l) {
  return {norm,
          layer_id(l),
          p.config.width,
          {p.residual, p.residual_frac},
          most_encoded(p.ranges.residual, p.residual_frac)};
}
// A normed row (Config::post_norm).
inline HandShape hand_normed_shape(const NormShape& norm) {
  const auto& answer = norm.map.answers[0];
  return {norm.map.site, norm.map.layer, norm.map.columns, answer.out, answer.most};
}
// Of what a matrix puts out in profile open.
inline double product_range(const Plan& p, const LinearShape& linear) {
  if (linear.site == Site::head) return p.raw_head() ? p.ranges.logit_raw : p.ranges.logit;
  const LayerRanges& r = p.ranges.layers[linear.layer];
  switch (linear.site) {
    case Site::qkv:
      return p.raw_qkv() ? r.qkv_raw : std::max(r.qk, r.v);
    case Site::up:
      return p.raw_up() ? r.gate_up_raw : r.gate_up;
    case Site::o:
      return r.o;
    default:
      return r.down;
  }
}
// What a matrix puts out, shown as it is.
inline Shown product_shown(Site matrix) {
  switch (matrix) {
    case Site::qkv:
      return Shown::qkv;
    case Site::o:
    case Site::down:
      return Shown::output_row;
    case Site::up:
      return Shown::gate_up;
    case Site::head:
      return Shown::logit;
    default:
      return Shown::undeclared;
  }
}
// The residual with what the matrix of `linear` makes of it.
inline ShowShape show_shape(const Plan& p, Site norm, const LinearShape& linear, const Reveal& reveal) {
  return {norm,
          linear.site,
          linear.layer,
          {p.residual, p.residual_frac},
          linear.out,
          linear.cols,
          linear.rows,
          p.norm_reveal(),
          reveal,
          Shown::residual_row,
          product_shown(linear.site),
          most_of(p.ranges.residual, p.residual_frac - p.norm_reveal().drop),
          most_of(product_range(p, linear), linear.out.frac - reveal.drop)};
}
// What the matrix of `linear` puts out alone.
inline ShowShape show_output_shape(const Plan& p, const LinearShape& linear, const Reveal& reveal) {
  return {linear.site,
          linear.site,
          linear.layer,
          {linear.out.ring, 0},
          linear.out,
          0,
          linear.rows,
          {0, linear.out.ring.bits},
          reveal,
          Shown::undeclared,
          product_shown(linear.site),
          k_any_magnitude,
          most_of(product_range(p, linear), linear.out.frac - reveal.drop)};
}

// Room for so many slots in the caches of a party: growing them would stall a token. Pages are taken when they are written.
template <class Keys>
void reserve(std::vector<Keys>& layers, const Plan& p, std::size_t slots) {
  for (std::size_t l = 0; !p.open() && l < layers.size(); ++l)
    layers[l].reserve(slots * p.config.kv_rows(), p.mixed(l).bits > 64);
}

// --- Embedding --------------------------------------------------------------------------------------------------------

inline OneHotShape one_hot_shape(const Plan& p) { return {Site::prompt_one_hot, p.config.vocab, p.embed}; }

// The table times one-hots: of a prompt (by entry), or of the sampled token (by pass).
inline LinearShape embed_linear_shape(const Plan& p, Site site) {
  return {site, 0, p.config.width, p.config.vocab, {p.embed, p.embed_frac}};
}
inline RemaskShape embed_remask_shape(const Plan& p) {
  return {Use::embed_row, Site::embed_residual, p.config.width, {p.embed, p.embed_frac}};
}
inline EmbedShape embed_shape(const Plan& p) {
  EmbedShape s;
  s.map = {.site = Site::embed_residual,
           .columns = p.config.width,
           .in = p.embed,
           .reveal = {0, p.embed.bits},
           .shown = Shown::embedding_row,
           .answers = {
               {Site::embed_residual, {p.residual, p.residual_frac}, most_encoded(p.ranges.residual, p.residual_frac)},
               {Site::embed_norm, attention_norm_shape(p, 0).map.answers[0].out,
                normed_most(p, Site::attention_norm, p.layers[0].attention_norm)}}};
  s.eps = p.config.norm_eps;
  s.centred = p.config.norm == NormKind::layer;
  s.plain = p.config.pre_norm ? 0 : k_plain_scale;
  s.frac = p.embed_frac;
  return s;
}

// --- By pass ----------------------------------------------------------------------------------------------------------

inline RemaskShape last_row_shape(const Plan& p) {
  return {Use::last_row, Site::final_norm, p.config.width, {p.residual, p.residual_frac}};
}
inline NormShape final_norm_shape(const Plan& p) {
  return norm_shape(p, Site::final_norm, 0, {p.head, p.final_norm_frac});
}
inline LinearShape head_shape(const Plan& p) {
  return {Site::head, 0, p.config.vocab, p.config.width, {p.head, p.logit_frac()}, p.open()};
}
inline SampleShape sample_shape(const Plan& p) {
  SampleShape s;
  s.map = {.site = Site::logits,
           .columns = p.config.vocab,
           .in = p.head,
           .reveal = p.logit_reveal(),
           .level = p.config.logit_cap == 0,
           .shown = Shown::logit,
           .most = most_of(p.ranges.logit, p.shown_logit_frac()),
           .answers = {{Site::logits, {p.embed, 0}}}};
  s.cap = std::ldexp(p.config.logit_cap, p.shown_logit_frac());
  return s;
}

inline BfvShape bfv_shape(const Plan& p) { return {he::parameters_of(p.config.vocab), sample_shape(p).map}; }

}  // namespace permllm
