// Config and Plan as fields of messages (the provider's card, the offer of a model to the helper).
#pragma once

#include <cmath>

#include "offline/plan.h"
#include "wire/message.h"

namespace permllm {

// Every number that a peer states is bounded before anything is computed from it.
template <class Io>
void visit_size(Io& io, const char* field, std::size_t& value, std::size_t limit) {
  std::uint64_t number = value;
  io.number(field, number);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (number > limit) io.refuse(field, "more than " + std::to_string(limit));
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

template <class Io>
void visit_flag(Io& io, const char* field, bool& value) {
  auto number = static_cast<std::uint8_t>(value);
  io.number(field, number);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (number > 1) io.refuse(field, std::to_string(number) + ", expected 0 or 1");
    value = number != 0;
  }
}

template <class Io>
void visit(Io& io, Config& c) {
  io.text("config.architecture", c.architecture, 64);
  io.text("config.name", c.name, 256);
  visit_size(io, "config.layers", c.layers, 1000);
  visit_size(io, "config.width", c.width, 1 << 17);
  visit_size(io, "config.heads", c.heads, 1 << 10);
  visit_size(io, "config.kv_heads", c.kv_heads, 1 << 10);
  visit_size(io, "config.head_dim", c.head_dim, 1 << 12);
  visit_size(io, "config.ff", c.ff, 1 << 19);
  visit_size(io, "config.vocab", c.vocab, 1 << 20);
  visit_size(io, "config.context", c.context, 1 << 24);
  visit_size(io, "config.distinct_layers", c.distinct_layers, c.layers);
  visit_flag(io, "config.gated", c.gated);
  io.real("config.rope_base", c.rope_base);
  io.real("config.norm_eps", c.norm_eps);
  if constexpr (std::is_same_v<Io, Reader>) {
    const bool whole = c.layers && c.width && c.heads && c.kv_heads && c.head_dim && c.ff && c.vocab;
    if (!whole || c.heads % c.kv_heads != 0 || c.head_dim % 2 != 0) io.refuse("config", "its shapes do not fit together");
    if (!(c.rope_base > 1 && c.rope_base < 1e12 && c.norm_eps >= 0 && c.norm_eps < 1)) {
      io.refuse("config", "rope base or norm epsilon out of range");
    }
  }
}

template <class Io>
void visit(Io& io, Plan& p) {
  visit(io, p.config);
  auto profile = static_cast<std::uint8_t>(p.profile);
  io.number("plan.profile", profile);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (profile < 1 || profile > 3) io.refuse("plan.profile", std::to_string(profile) + ", expected 1 to 3");
    p.profile = static_cast<Profile>(profile);
  }
  visit_flag(io, "plan.fused", p.fused);
  p.layers.resize(p.config.layers);
  for (LayerFractions& layer : p.layers) {
    for (int* frac : {&layer.qkv, &layer.o, &layer.up, &layer.down}) visit_bits(io, "plan.layer.frac", *frac, 0, 40);
  }
  visit_bits(io, "plan.embed.frac", p.embed_frac, 0, 40);
  visit_bits(io, "plan.head.frac", p.head_frac, 0, 40);
  visit_size(io, "plan.slots", p.slots, 1 << 20);
  visit_bits(io, "plan.residual.frac", p.residual_frac, 0, 64);
  for (Ring* ring : {&p.embed, &p.head, &p.residual}) visit_bits(io, "plan.ring", ring->bits, 8, 64);
  const auto range = [&](double& value) {
    io.real("plan.range", value);
    if constexpr (std::is_same_v<Io, Reader>) {
      if (!(value >= 0 && value < 1e15)) io.refuse("plan.range", "is not a magnitude");
    }
  };
  for (double* value : {&p.ranges.residual, &p.ranges.qk, &p.ranges.v, &p.ranges.score, &p.ranges.activation, &p.ranges.logit,
                        &p.ranges.logit_raw}) {
    range(*value);
  }
  for (std::vector<double>* values : {&p.ranges.gate_up, &p.ranges.gate_up_raw, &p.ranges.qkv_raw}) {
    values->resize(p.config.layers);
    for (double& value : *values) range(value);
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
