// What a model consumes: fixed-point formats, rings and ranges of every value, and the shape of every box.
// Both sides of a session compute with the same plan; its hash is compared in the handshake (docs/protocol.md 3).
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weights.h"
#include "ring/ring.h"

namespace permllm {

// Fraction bits (docs/protocol.md 2.3).
namespace frac {
inline constexpr int norm = 10;         // output of a norm
inline constexpr int probability = 16;
inline constexpr int activation = 10;   // silu(gate) up
inline constexpr int rope = 10;         // cos and sin
inline constexpr int qk = 12;           // q and k once rotated and cut
inline constexpr int v = 12;            // v once cut (at most: Plan::v_frac)
inline constexpr int attention = 10;    // p.v, the input of o
inline constexpr int residual = 26;
// As revealed to the user:
inline constexpr int norm_row = 16;
inline constexpr int gate_up = 10;
inline constexpr int score = 10;        // q.k, before the division by sqrt(head_dim)
inline constexpr int logit = 10;
}  // namespace frac

// Largest magnitudes over real text (offline/calibrate.h), before the margin.
struct Ranges {
  double residual = 0;
  double qk = 0, v = 0;             // outputs of the qkv matrix
  double score = 0;                 // q.k, undivided
  std::vector<double> gate_up;      // by layer
  double activation = 0, logit = 0;
};
inline constexpr double k_range_margin = 8;

// Fraction bits of each layer's integer matrices.
struct LayerFractions {
  int qkv = 0, o = 0, up = 0, down = 0;
};

struct Plan {
  Config config;
  std::vector<LayerFractions> layers;
  int embed_frac = 0, head_frac = 0;
  Ranges ranges;
  std::size_t slots = 0;  // of a chain: the longest conversation, in tokens

  // Rings of the residual and of what the matrices put out: the default or, where the calibrated ranges with their
  // margin need more, the next whole byte. What o and down put out is added to the residual after a left shift, so
  // they need that many bits less: see o(l) and down(l).
  Ring embed{16}, qkv{64}, head{32}, residual{48};
  Ring up(std::size_t l) const;

  // Errors: unsupported when a value cannot fit any ring, or an alignment shift would be negative (names the matrix).
  static Plan make(const IntWeights& weights, const Ranges& ranges, std::size_t slots);
  // The same checks, for a plan that a peer sent.
  void check() const;

  // --- Derived formats of layer l ---
  int o_shift(std::size_t l) const { return frac::residual - frac::attention - layers[l].o; }
  int down_shift(std::size_t l) const { return frac::residual - frac::activation - layers[l].down; }
  Ring o(std::size_t l) const { return Ring{residual.bits - o_shift(l)}; }
  Ring down(std::size_t l) const { return Ring{residual.bits - down_shift(l)}; }
  int qk_cut(std::size_t l) const { return frac::norm + layers[l].qkv + frac::rope - frac::qk; }
  // p.v has v_frac + frac::probability fraction bits in the ring mixed(l), of which mix_cut(l) are cut to leave o's ring.
  // That ring fits a 64-bit word.
  int v_frac(std::size_t l) const {
    const int room = 64 - o(l).bits - (frac::probability - frac::attention);
    return frac::v < room ? frac::v : room;
  }
  int v_cut(std::size_t l) const { return frac::norm + layers[l].qkv - v_frac(l); }
  int mix_cut(std::size_t l) const { return frac::probability + v_frac(l) - frac::attention; }
  Ring qk(std::size_t l) const { return Ring{64 - qk_cut(l)}; }  // q and k once cut; also scores
  Ring v(std::size_t l) const { return Ring{64 - v_cut(l)}; }
  Ring mixed(std::size_t l) const { return Ring{o(l).bits + mix_cut(l)}; }  // of p and p.v
  Reveal norm_reveal() const { return {frac::residual - frac::norm_row, residual.bits - (frac::residual - frac::norm_row)}; }
  Reveal score_reveal(std::size_t l) const {
    const int drop = 2 * frac::qk - frac::score;
    const int keep = qk(l).bits - drop;
    return {drop, keep < 32 ? keep : 32};
  }
  Reveal gate_up_reveal(std::size_t l) const {
    const int drop = frac::norm + layers[l].up - frac::gate_up;
    const int keep = up(l).bits - drop;
    return {drop, keep < 40 ? keep : 40};
  }
  Reveal logit_reveal() const {
    const int drop = frac::norm + head_frac - frac::logit;
    return {drop, head.bits - drop};
  }

  // v reaches the user under a mask that hides it up to a statistical distance of 2^-this a value (the model owner's side
  // of privacy); the least over the layers, at the calibrated range with its margin.
  double lift_slack_bits() const;

  // SHA-256 over every number above in wire order, hex. The config's `context` and `name` are not part of it.
  std::string hash() const;
};

}  // namespace permllm
