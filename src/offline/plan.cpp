#include "offline/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "offline/plan_io.h"
#include "rand/domains.h"
#include "rand/seed.h"

namespace permllm {
namespace {

// Bits of a signed integer that holds `magnitude` with `frac` fraction bits.
int bits_for(double magnitude, int frac) {
  return std::max(1, static_cast<int>(std::ceil(std::log2(std::max(magnitude, 1e-9))))) + frac + 1;
}

Ring widened(Ring ring, int bits) { return Ring{std::max(ring.bits, (bits + 7) / 8 * 8)}; }

void require(bool holds, const std::string& what) {
  if (!holds) throw Error(Code::unsupported, "plan", what);
}

}  // namespace

Plan Plan::make(const IntWeights& weights, const Ranges& ranges, std::size_t slots) {
  Plan p;
  p.config = weights.config;
  p.ranges = ranges;
  p.slots = slots;
  p.embed_frac = weights.embed.frac();
  p.head_frac = weights.head.frac();
  for (const LayerWeights<IntMatrix>& layer : weights.layers) {
    p.layers.push_back({layer.qkv.frac(), layer.o.frac(), layer.up.frac(), layer.down.frac()});
  }
  p.head = widened(p.head, bits_for(k_range_margin * ranges.logit, frac::norm + p.head_frac));
  p.residual = widened(p.residual, bits_for(k_range_margin * ranges.residual, frac::residual));
  p.check();
  return p;
}

Ring Plan::up(std::size_t l) const {
  return widened(Ring{32}, bits_for(k_range_margin * ranges.gate_up[l], frac::norm + layers[l].up));
}

void Plan::check() const {
  require(slots >= 1 && layers.size() == config.layers && ranges.gate_up.size() == config.layers, "no slots or no layers");
  require(residual.bits <= 64, fmt::format("the residual's range ({:g}) fits no 64-bit ring", ranges.residual));
  require(head.bits <= 64, fmt::format("the logits' range ({:g}) fits no 64-bit ring", ranges.logit));
  require(embed.bits == 16 && qkv.bits == 64, "the rings of embedding and qkv are fixed");
  require(k_range_margin * ranges.residual < std::ldexp(1.0, residual.bits - 1 - frac::residual), "the residual's range does not fit its ring");
  require(frac::norm + head_frac >= frac::logit && logit_reveal().keep > 0, "the head's fraction bits do not fit its ring");
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const auto fits = [&](bool holds, const char* matrix, int bits) {
      require(holds, fmt::format("layer {}: matrix {} with {} fraction bits does not fit", l, matrix, bits));
    };
    const LayerFractions& f = layers[l];
    fits(o_shift(l) >= 0 && o(l).bits > 0, "o", f.o);
    fits(down_shift(l) >= 0 && down(l).bits > 0, "down", f.down);
    fits(qk_cut(l) >= 0 && qk(l).bits > 2 * frac::qk, "qkv", f.qkv);
    fits(v_frac(l) > 0 && v_cut(l) >= 0 && mix_cut(l) >= 0 && mixed(l).bits <= 64, "qkv", f.qkv);
    // Scores leave room for a dead key's constant; q, k and v fit before and after their cuts.
    fits(k_range_margin * ranges.score < std::ldexp(1.0, qk(l).bits - 3 - 2 * frac::qk), "qkv (scores)", f.qkv);
    fits(k_range_margin * ranges.score < std::ldexp(1.0, score_reveal(l).keep - 3 - frac::score), "qkv (scores)", f.qkv);
    fits(k_range_margin * ranges.qk < std::ldexp(1.0, 63 - frac::norm - f.qkv - frac::rope - 1), "qkv", f.qkv);
    fits(k_range_margin * ranges.v < std::ldexp(1.0, v(l).bits - 2 - v_frac(l)), "qkv (values)", f.qkv);
    fits(up(l).bits <= 64 && gate_up_reveal(l).drop >= 0 && gate_up_reveal(l).keep > 0, "up", f.up);
    fits(k_range_margin * ranges.gate_up[l] < std::ldexp(1.0, gate_up_reveal(l).keep - 1 - frac::gate_up), "up", f.up);
  }
  require(k_range_margin * ranges.logit < std::ldexp(1.0, logit_reveal().keep - 1 - frac::logit), "the logits' range does not fit");
}

double Plan::lift_slack_bits() const {
  double least = 64;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const double magnitude = std::max(ranges.v, 1e-9) * k_range_margin;
    least = std::min(least, v(l).bits - 1 - v_frac(l) - std::log2(magnitude));
  }
  return least;
}

std::string Plan::hash() const {
  Plan copy = *this;
  copy.config.context = 0;
  copy.config.name.clear();
  Writer writer;
  visit(writer, copy);
  return hash_hex(domain::plan, writer.take());
}

}  // namespace permllm
