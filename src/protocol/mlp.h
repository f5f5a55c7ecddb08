// MLP activation: <gate>, <up> -> <silu(gate) up>. One round trip.  docs/protocol.md 4.5
//
//   A PermutedMap whose columns are the neurons, as pairs (gate, up); up, and so the product, with a random sign.
//   silu(g) = g / (1 + exp(-g))
#pragma once

#include <algorithm>
#include <cmath>

#include "protocol/permuted_map.h"

namespace permllm {

struct MlpShape {
  MapShape map;  // one row of two groups, signs on; one answer
};

inline constexpr Leak k_mlp_leak[] = {{Role::user, "pairs (gate, up) of all neurons in a fresh order, up to the sign of up"},
                                      {Role::provider, "nothing"},
                                      {Role::helper, "nothing"}};

constexpr Cost cost(const MlpShape& s, Batch batch) { return cost(s.map, batch); }

inline double silu(double gate) { return gate / (1.0 + std::exp(-std::clamp(gate, -700.0, 700.0))); }

inline Mask mlp(Helper& helper, const MlpShape& s, const Mask& gate_up) {
  return std::move(permuted_map(helper, s.map, gate_up.words)[0]);
}
inline Mask mlp(UserDealer& user, const MlpShape& s, const Mask&) { return std::move(permuted_map(user, s.map)[0]); }

inline Masked mlp(Provider& provider, const MlpShape& s, const Masked& gate_up) {
  return std::move(permuted_map(provider, s.map, gate_up.words)[0]);
}

inline Mask mlp(User& user, const MlpShape& s, const Mask& gate_up) {
  const double unit = std::ldexp(1.0, s.map.reveal.drop - gate_up.format.frac);
  const Format out = s.map.answers[0].out;
  return std::move(permuted_map(user, s.map, [&](std::size_t, std::size_t, auto row, auto& answers) {
    const std::size_t n = row.size() / 2;
    for (std::size_t j = 0; j < n; ++j) {
      const double gate = static_cast<double>(row[j]) * unit, up = static_cast<double>(row[n + j]) * unit;
      answers[0][j] = encode(silu(gate) * up, out);
    }
  })[0]);
}

inline Counted mlp(Counter& counter, const MlpShape& s, const Counted& gate_up) {
  counter.total += cost(s, counter.batch);
  return {s.map.answers[0].out, gate_up.size / 2};
}

}  // namespace permllm
