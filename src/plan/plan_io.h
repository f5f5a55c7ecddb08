// Config and Plan as fields of messages (the provider's card, the offer of a model to the helper).
#pragma once

#include <cmath>

#include "plan/plan.h"
#include "wire/message.h"

namespace permllm {

// Every number that a peer states is bounded before anything is computed from it.
template <class Io>
void visit_size(Io& io, const char* field, std::size_t& value, std::size_t least, std::size_t most) {
  std::uint64_t number = value;
  io.number(field, number);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (number < least || number > most)
      io.refuse(field, std::to_string(number) + ", expected " + std::to_string(least) + " to " + std::to_string(most));
    value = number;
  }
}

template <class Io>
void visit_bits(Io& io, const char* field, int& value, int least, int most) {
  auto number = static_cast<std::uint32_t>(value);
  io.number(field, number);
  if constexpr (std::is_same_v<Io, Reader>) {
    value = static_cast<int>(number);
    if (value < least || value > most) {
      io.refuse(field, std::to_string(value) + ", expected " + std::to_string(least) + " to " + std::to_string(most));
    }
  }
}

// An enumeration whose values are 1 to `most`.
template <class Io, class E>
void visit_choice(Io& io, const char* field, E& value, int most) {
  auto number = static_cast<std::uint8_t>(value);
  io.number(field, number);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (number < 1 || number > most)
      io.refuse(field, std::to_string(number) + ", expected 1 to " + std::to_string(most));
    value = static_cast<E>(number);
  }
}

// A flag for each of `size` things, or none at all.
template <class Io>
void visit_flags(Io& io, const char* field, std::vector<bool>& flags, std::size_t size) {
  bool some = !flags.empty();
  visit_flag(io, field, some);
  flags.resize(some ? size : 0);
  for (std::size_t i = 0; i < flags.size(); ++i) {
    bool flag = flags[i];
    visit_flag(io, field, flag);
    flags[i] = flag;
  }
}

// A real number that is finite, at least `least` and below `most`.
template <class Io>
void visit_real(Io& io, const char* field, double& value, double least, double most) {
  io.real(field, value);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (!(value >= least && value < most)) io.refuse(field, "is out of range");
  }
}

template <class Io>
void visit(Io& io, Config& c) {
  io.text("config.architecture", c.architecture, 64);
  io.text("config.name", c.name, 256);
  visit_size(io, "config.layers", c.layers, 1, 1000);
  visit_size(io, "config.width", c.width, 1, 1 << 17);
  visit_size(io, "config.heads", c.heads, 1, 1 << 10);
  visit_size(io, "config.kv_heads", c.kv_heads, 1, 1 << 10);
  visit_size(io, "config.head_dim", c.head_dim, 1, 1 << 12);
  visit_size(io, "config.ff", c.ff, 1, 1 << 19);
  visit_size(io, "config.vocab", c.vocab, 1, 1 << 20);
  visit_size(io, "config.context", c.context, 0, 1 << 24);
  visit_size(io, "config.distinct_layers", c.distinct_layers, 0, c.layers);
  visit_choice(io, "config.norm", c.norm, 2);
  visit_real(io, "config.norm_eps", c.norm_eps, 0, 1);
  visit_choice(io, "config.activation", c.activation, 2);
  visit_flag(io, "config.gated", c.gated);
  visit_choice(io, "config.positions", c.positions, 3);
  bool local = !c.rope_local.empty();
  visit_flag(io, "config.rope_local", local);
  c.rope.resize(c.head_dim / 2);
  c.rope_local.resize(local ? c.head_dim / 2 : 0);
  for (double& frequency : c.rope) visit_real(io, "config.rope", frequency, 0, 1e6);
  for (double& frequency : c.rope_local) visit_real(io, "config.rope_local", frequency, 0, 1e6);
  visit_size(io, "config.window", c.window, 0, 1 << 24);
  visit_flags(io, "config.windows", c.windows, c.layers);
  visit_flags(io, "config.turned", c.turned, c.layers);
  visit_flag(io, "config.prefix", c.prefix);
  visit_flag(io, "config.qk_norm", c.qk_norm);
  visit_flag(io, "config.whole_norm", c.whole_norm);
  visit_real(io, "config.score_scale", c.score_scale, 1e-6, 1e3);
  visit_real(io, "config.score_cap", c.score_cap, 0, 1e6);
  visit_real(io, "config.logit_cap", c.logit_cap, 0, 1e6);
  visit_flag(io, "config.pre_norm", c.pre_norm);
  visit_flag(io, "config.post_norm", c.post_norm);
  visit_flag(io, "config.normed_residual", c.normed_residual);
  visit_flag(io, "config.qkv_bias", c.qkv_bias);
  visit_flag(io, "config.up_bias", c.up_bias);
  visit_flag(io, "config.head_bias", c.head_bias);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (c.heads % c.kv_heads != 0)
      io.refuse("config.kv_heads",
                std::to_string(c.kv_heads) + ", expected a divisor of " + std::to_string(c.heads) + " heads");
    if (c.head_dim % 2 != 0) io.refuse("config.head_dim", std::to_string(c.head_dim) + ", expected an even number");
  }
}

template <class Io>
void visit(Io& io, Plan& p) {
  visit(io, p.config);
  visit_choice(io, "plan.profile", p.profile, 3);
  visit_choice(io, "plan.retrieval", p.retrieval, 2);
  visit_flag(io, "plan.fused", p.fused);
  visit_flag(io, "plan.hides_positions", p.hides_positions);
  visit_flag(io, "plan.checked", p.checked);
  p.layers.resize(p.config.layers);
  for (LayerFractions& layer : p.layers) {
    for (int* frac :
         {&layer.qkv, &layer.o, &layer.up, &layer.down, &layer.qk_gain, &layer.attention_gain, &layer.mlp_gain})
      visit_bits(io, "plan.layer.frac", *frac, 0, k_most_frac);
    visit_bits(io, "plan.layer.rope", layer.rope, frac::rope, k_most_rope);
    visit_bits(io, "plan.layer.attention", layer.attention, frac::attention, k_most_answer);
    visit_bits(io, "plan.layer.activation", layer.activation, frac::activation, k_most_answer);
    for (int* frac : {&layer.attention_norm, &layer.mlp_norm})
      visit_bits(io, "plan.layer.norm", *frac, frac::norm, k_most_norm);
    visit_bits(io, "plan.layer.rotated", layer.rotated, k_least_rotated, frac::qk);
  }
  visit_bits(io, "plan.embed.frac", p.embed_frac, 0, 40);
  visit_bits(io, "plan.head.frac", p.head_frac, 0, k_most_frac);
  visit_bits(io, "plan.final_norm.frac", p.final_norm_frac, frac::norm, k_most_norm);
  visit_size(io, "plan.slots", p.slots, 1, 1 << 20);
  visit_size(io, "plan.prompt_slots", p.prompt_slots, 0, 1 << 20);
  visit_bits(io, "plan.residual.frac", p.residual_frac, 0, 64);
  for (Ring* ring : {&p.embed, &p.head, &p.residual}) visit_bits(io, "plan.ring", ring->bits, 8, 64);
  const auto range = [&](double& value) {
    io.real("plan.range", value);
    if constexpr (std::is_same_v<Io, Reader>) {
      if (!(value >= 0 && value < k_most_range)) io.refuse("plan.range", "is not a magnitude");
    }
  };
  for (double* value : {&p.ranges.residual, &p.ranges.logit, &p.ranges.logit_raw}) range(*value);
  p.ranges.layers.resize(p.config.layers);
  for (LayerRanges& r : p.ranges.layers) {
    for (double* value : {&r.qk, &r.v, &r.qk_normed, &r.score, &r.o, &r.down, &r.activation, &r.gate_up, &r.gate_up_raw,
                          &r.qkv_raw, &r.least_rms})
      range(*value);
  }
  if constexpr (std::is_same_v<Io, Reader>) {
    try {
      p.check();
    } catch (const Error& error) {
      io.refuse("plan", error.what());
    }
  }
}

}  // namespace permllm
