// What a model consumes: fixed-point formats, rings and ranges of every value. (Shapes of boxes: plan/shapes.h.)
// Both sides of a session compute with the same plan; its hash is compared in the handshake (docs/protocol.md 3).
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weights.h"
#include "permllm/error.h"
#include "ring/ring.h"

namespace permllm {

// Fraction bits (docs/protocol.md 2.3).
namespace frac {
inline constexpr int norm = 10;         // output of a norm, at least: LayerFractions::attention_norm
inline constexpr int probability = 16;  // 18 where a chain is long: Plan::probability_frac
inline constexpr int activation = 10;   // silu(gate) up, at least: LayerFractions::activation
inline constexpr int rope = 10;         // cos and sin, at least: LayerFractions::rope
inline constexpr int qk = 12;           // q and k once rotated and cut, at most: LayerFractions::rotated
inline constexpr int v = 12;            // v once cut; more where there is room: Plan::v_frac
inline constexpr int attention = 10;    // p.v, the input of o, at least: LayerFractions::attention
inline constexpr int head = 12;         // q and k once normed, before their gain
inline constexpr int post = 12;         // what attention and MLP put out once normed, before its gain
// As revealed to the user:
inline constexpr int norm_row = 16;
inline constexpr int head_row = 14;      // q and k before their norm
inline constexpr int gate_up = 8;        // once divided by the rms of its row; paper and fast
inline constexpr int open_gate_up = 10;  // of public weights, and of rows that no norm divided
inline constexpr int score = 10;         // q.k, before the division by sqrt(head_dim); at most: Plan::score_frac
inline constexpr int logit = 10;         // more where logits are small: Plan::shown_logit_frac
inline constexpr int raw = 16;           // products of rows that are not normalised yet; at least raw_least
inline constexpr int raw_least = 12;
}  // namespace frac

// From this many slots on, probabilities have two more fraction bits: a flat row of keys would round to nothing.
inline constexpr std::size_t k_long_chain = 2048;

// How much of the model's inner values the user sees, and how many round trips a layer takes (docs/protocol.md 5).
enum class Profile : std::uint8_t {
  paper = 1,  // every row in a fresh order
  fast = 2,   // attention scores in the order of the keys
  open = 3,   // public weights: nothing is permuted
};
const char* name_of(Profile profile);
// Errors: usage, naming the profiles.
Profile profile_of(const std::string& name);

// How the user learns which token it sampled (docs/protocol.md 4.7, 4.11).
enum class Retrieval : std::uint8_t {
  linear = 1,  // two words, exact
  bfv = 2,  // by homomorphic encryption, as the paper does it; not in profile open, where a token's position is its id
};
const char* name_of(Retrieval retrieval);
// Errors: usage, naming both.
Retrieval retrieval_of(const std::string& name);

// In which sessions a provider does not learn positions (Plan::hides_positions).
enum class HiddenPositions : std::uint8_t {
  off = 1,        // in none
  by_choice = 2,  // "auto": in those whose users ask for it, since they draft
  always = 3,
};
const char* name_of(HiddenPositions hidden);
// Errors: usage, naming all three.
HiddenPositions hidden_positions_of(const std::string& name);

// Largest magnitudes over real text (plan/calibrate.h), before the margin. "Raw": the matrix times the row that its norm
// would have divided, without a bias.
struct LayerRanges {
  double qk = 0, v = 0;    // outputs of the qkv matrix
  double qk_normed = 0;    // q and k with their gains (Config::qk_norm); qk is what their norm divides
  double score = 0;        // q.k, undivided
  double o = 0, down = 0;  // what the matrices put out, where it is normed (Config::post_norm)
  double activation = 0, gate_up = 0, gate_up_raw = 0, qkv_raw = 0;
  double least_rms = 0;  // the least that a row before gate and up was divided by; 0: not known
};
struct Ranges {
  double residual = 0, logit = 0, logit_raw = 0;
  std::vector<LayerRanges> layers;
};
inline constexpr double k_range_margin = 8;
// The user tells where a value that it opens is beyond so many times its range: before anything wraps.
inline constexpr double k_told_margin = 4;
inline constexpr double k_most_range = 1e15;
// The least statistical slack, in bits, under which v may be lifted (Plan::lift_slack_bits).
inline constexpr double k_least_lift_slack = 30;
// Of a product that is checked, at most: differences of such products are not divided by the prime 2^61 - 1 (Plan::checked).
inline constexpr int k_most_checked_bits = 56;
// Fraction bits: the most of a matrix's weights, the fewest of q and k once rotated.
inline constexpr int k_most_frac = 100, k_least_rotated = 4;

inline constexpr int k_most_rope = 14, k_most_answer = 16, k_most_v = 18, k_most_norm = 16;
// Normed rows that go into qkv: each bit costs the lift of v one.
inline constexpr int k_most_norm_of_heads = 12;
// Activations where down's output is normed, and so has a ring of its own: what is small there is heard.
inline constexpr int k_normed_activation = 12;

// Fraction bits of each layer's integer matrices and gains.
struct LayerFractions {
  int qkv = 0, o = 0, up = 0, down = 0;
  // Of profiles in which the provider rotates: of cos and sin, and of q and k once rotated and cut. Fewer where scores are too large for a 64-bit
  // word.
  int rope = k_most_rope, rotated = frac::qk;
  // Of p.v and of silu(gate) up, which go into o and down: as many as their rings hold without a byte more.
  int attention = frac::attention, activation = frac::activation;
  // Of the normed rows that go into qkv, and into gate and up: likewise.
  int attention_norm = frac::norm, mlp_norm = frac::norm;
  int qk_gain = 0, attention_gain = 0, mlp_gain = 0;  // 0 where the model has none
};

// A plan that does not fit, and the matrix that would need fewer fraction bits.
class Misfit : public Error {
 public:
  enum class At : std::uint8_t { qkv_matrix, o_matrix, up_matrix, down_matrix, head_matrix, residual_ring };
  Misfit(At at, std::size_t layer, const std::string& what);
  At at;
  std::size_t layer;  // of the first four
};

struct Plan {
  Config config;
  Profile profile = Profile::paper;
  Retrieval retrieval = Retrieval::linear;
  bool fused = false;  // the MLP's norm is applied after its matrix (paper and fast); always so in `open`
  // Paper and fast: the provider knows neither positions nor which tokens of a conversation are kept, so that drafts tell it nothing. A round trip a
  // layer more. It is a session's own; all else, and so what is registered of a model, is the same with and without.
  bool hides_positions = false;
  // Open: products and rows are shown whole, so that the user can check each product (docs/protocol.md 4.14).
  bool checked = false;
  std::vector<LayerFractions> layers;
  int embed_frac = 0, head_frac = 0;
  int final_norm_frac = frac::norm;  // of the normed rows that go into the head
  Ranges ranges;
  std::size_t slots = 0;  // of a chain: the longest conversation, in tokens
  // Of these, those of a prompt that attends both ways (Config::prefix), all of its tokens but the last. Unused ones are dead;
  // the prompt's pass goes through all of them.
  std::size_t prompt_slots = 0;
  // Of the residual: what its exact sum of all contributions needs.
  int residual_frac = 0;

  // Rings of the residual and of what the matrices put out: whole bytes that hold the calibrated ranges with their
  // margin. What o and down put out is added to the residual after a left shift, so they need that many bits less.
  Ring embed{16}, head{32}, residual{48};

  // Errors: unsupported when a value cannot fit any ring, or an alignment shift would be negative (names the matrix's tensors).
  // prompt_slots: of models that have any (Config::prefix); 0: a quarter of the slots.
  static Plan make(const IntWeights& weights, const Ranges& ranges, std::size_t slots, Profile profile = Profile::paper,
                   bool fused = false, std::size_t prompt_slots = 0);
  // Likewise, with other fraction bits than those of the weights: layers, by stored layer, and head. It may not fit: check().
  static Plan draft(const IntWeights& weights, std::vector<LayerFractions> stored, int head, const Ranges& ranges,
                    std::size_t slots, Profile profile, bool fused, std::size_t prompt_slots);
  // The same checks, for a plan that a peer sent: nothing that follows from it is negative, wraps, or takes memory out of proportion to a model.
  // (plan/plan_io.h checks each field by itself.) Errors: unsupported.
  void check() const;

  bool open() const { return profile == Profile::open; }
  bool bfv() const { return retrieval == Retrieval::bfv; }
  // What was chosen beside the profile, for a person: ", norms fused, positions hidden".
  std::string choices() const {
    return std::string(fused ? ", norms fused" : "") + (hides_positions ? ", positions hidden" : "") +
           (checked ? ", products checked" : "");
  }
  // This plan, of a session that hides positions or one that does not.
  Plan with_positions(bool hidden) const {
    Plan plan = *this;
    plan.hides_positions = hidden;
    return plan;
  }
  // Whether a session may hide positions: why not; empty: it may.
  std::string why_not_hidden() const;
  // Whether tokens may be drafted and taken back without telling the provider.
  bool takes_drafts() const { return open() || hides_positions; }
  // Rows of the pass of a prompt.
  std::size_t prompt_rows(std::size_t tokens) const { return prompt_slots != 0 ? prompt_slots + 1 : tokens; }
  // Errors: usage, where a prompt of so many tokens has no room (both numbers).
  void check_prompt(std::size_t tokens) const;
  // The norms of attention and MLP have gains of their own. In profile open they are the user's.
  bool gained() const { return config.post_norm || config.normed_residual; }
  // A row goes into the matrix behind its norm before it is normalised. With norms behind the matrices as well, the user of
  // profile open keeps the residual by itself and hands over normed rows.
  bool raw_qkv() const { return open() && !config.post_norm; }
  bool raw_up() const { return raw_qkv() || fused; }
  bool raw_head() const { return raw_qkv(); }

  // --- Derived formats of layer l ---
  Ring qkv(std::size_t l) const;
  Ring up(std::size_t l) const;
  int qkv_frac(std::size_t l) const { return (raw_qkv() ? residual_frac : layers[l].attention_norm) + layers[l].qkv; }
  int up_frac(std::size_t l) const { return (raw_up() ? residual_frac : layers[l].mlp_norm) + layers[l].up; }
  int logit_frac() const { return (raw_head() ? residual_frac : final_norm_frac) + head_frac; }
  int o_frac(std::size_t l) const { return layers[l].attention + layers[l].o; }
  int down_frac(std::size_t l) const { return layers[l].activation + layers[l].down; }
  // Once normed or as they are, with their gain where there is one:
  int attention_gain_frac(std::size_t l) const {
    return (config.post_norm ? frac::post : layers[l].attention_norm) + layers[l].attention_gain;
  }
  int mlp_gain_frac(std::size_t l) const {
    return (config.post_norm ? frac::post : layers[l].mlp_norm) + layers[l].mlp_gain;
  }
  // Of a part of the residual that has `frac` fraction bits and is shifted when it is added.
  Ring part(int frac) const { return Ring{residual.bits - (residual_frac - frac)}; }
  Ring o(std::size_t l) const;
  Ring down(std::size_t l) const;
  int qk_frac(std::size_t l) const {
    return config.qk_norm ? frac::head + layers[l].qk_gain : layers[l].attention_norm + layers[l].qkv;
  }
  int qk_cut(std::size_t l) const { return qk_frac(l) + layers[l].rope - layers[l].rotated; }
  // Of scores, and of q and k once cut, which need not fit it: products commute with reduction.
  Ring qk(std::size_t l) const;
  double largest_score(std::size_t l) const;  // with the margin and the gap to a key that is not seen
  int score_frac(std::size_t l) const;        // as shown
  double skipped_gap() const;
  int probability_frac() const { return slots >= k_long_chain ? frac::probability + 2 : frac::probability; }
  // p.v has v_frac + probability_frac() fraction bits in the ring mixed(l), of which mix_cut(l) are cut to leave o's ring.
  // v keeps as many fraction bits as let the ring fit a 64-bit word; where the residual is wide it is wider.
  int v_frac(std::size_t l) const {
    const int room = 64 - o(l).bits - (probability_frac() - layers[l].attention);
    return room < frac::v - 2 ? frac::v
                              : std::min({room, k_most_v, std::max(frac::v, layers[l].attention_norm + layers[l].qkv)});
  }
  int v_cut(std::size_t l) const { return layers[l].attention_norm + layers[l].qkv - v_frac(l); }
  int mix_cut(std::size_t l) const { return probability_frac() + v_frac(l) - layers[l].attention; }
  Ring v(std::size_t l) const { return Ring{64 - v_cut(l)}; }
  Ring mixed(std::size_t l) const { return Ring{o(l).bits + mix_cut(l)}; }  // of p and p.v
  Reveal norm_reveal() const;
  Reveal head_norm_reveal(std::size_t l) const;
  Reveal o_reveal(std::size_t l) const;     // Config::post_norm
  Reveal down_reveal(std::size_t l) const;  // likewise
  Reveal score_reveal(std::size_t l) const;
  Reveal gate_up_reveal(std::size_t l) const;
  int fused_gate_up_frac(std::size_t l) const;  // as shown, where norms are fused
  Reveal logit_reveal() const;
  Reveal qkv_reveal(std::size_t l) const;  // open
  int shown_logit_frac() const { return logit_frac() - logit_reveal().drop; }
  // Of the logits among which the user chooses, in vocabulary order or not.
  int choice_frac() const;

  // v reaches the user under a mask that hides it up to a statistical distance of 2^-this a value (the model owner's side
  // of privacy); the least over the layers, at the calibrated range with its margin.
  double lift_slack_bits() const;
  double lift_slack_bits(std::size_t l) const;

  // Part of draft().
  void use_room();
  Ring head_ring() const;
  // Parts of check().
  void check_sizes() const;
  void check_kind() const;
  void check_layer(std::size_t l) const;
  std::string attention_misfit(std::size_t l) const;
  bool fits_normed(Ring ring, int frac) const;
  bool scores_fit(std::size_t l) const;

  // SHA-256 over every number above in wire order, hex. The config's `context` and `name` are not part of it.
  std::string hash() const;
};

// Those of a model's integers, by stored layer.
std::vector<LayerFractions> fractions_of(const IntWeights& weights);

// What a peer would refuse of this side's own plan is refused before one is asked. Errors: unsupported, naming the field.
void check_as_peers_do(const Plan& plan);

}  // namespace permllm
