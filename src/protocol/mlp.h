// MLP activation: <gate>, <up> -> <f(gate) up>, f = silu or gelu; or <up> -> <gelu(up)>. One round trip.
//                                                                 docs/protocol.md 4.5
//
//   A PermutedMap whose columns are the neurons: pairs (gate, up) with a random sign of up, and so of the product; or single
//   values where the model has no gate. Fused: the values come of a row that is not normalised yet, and the user multiplies
//   them by the row's 1 / rms (row_scales) first.
//   silu(g) = g / (1 + exp(-g));  gelu by tanh (arXiv 1606.08415, section 2)
#pragma once

#include "protocol/norm.h"
#include "ring/clear.h"

namespace permllm {

struct MlpShape {
  MapShape map;       // one row of two groups, signs on, or of one group without; one answer
  bool gelu = false;  // always so without a gate
  bool gated() const { return map.groups == 2; }
};

constexpr Cost cost(const MlpShape& s, Batch batch) { return cost(s.map, batch); }

inline Mask mlp(Helper& helper, const MlpShape& s, const Mask& gate_up, const RowScales&) {
  return std::move(permuted_map(helper, s.map, gate_up)[0]);
}
inline Mask mlp(UserDealer& user, const MlpShape& s, const Mask&, const RowScales&) {
  return std::move(permuted_map(user, s.map)[0]);
}

inline Masked mlp(Provider& provider, const MlpShape& s, const Masked& gate_up, const RowScales&) {
  return std::move(permuted_map(provider, s.map, gate_up)[0]);
}

inline Mask mlp(User& user, const MlpShape& s, const Mask& gate_up, const RowScales& scales) {
  const double unit = power_of_two(s.map.reveal.drop - gate_up.format.frac);
  const Format out = s.map.answers[0].out;
  return std::move(permuted_map(user, s.map, [&](std::size_t i, std::size_t, auto row, auto& answers) {
    const double scale = unit * (scales.empty() ? 1.0 : scales[i]);
    if (!s.gated()) return clear::gelu(row, scale, out, answers[0]);
    const auto gate = row.first(row.size() / 2), up = row.last(row.size() / 2);
    s.gelu ? clear::gelu_product(gate, up, scale, out, answers[0])
           : clear::silu_product(gate, up, scale, out, answers[0]);
  })[0]);
}

inline Counted mlp(Counter& counter, const MlpShape& s, const Counted&, const RowScales&) {
  counter.total += cost(s, counter.batch);
  return {s.map.answers[0].out, s.map.columns};
}

}  // namespace permllm
