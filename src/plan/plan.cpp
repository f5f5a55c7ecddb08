#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "he/parameters.h"
#include "plan/plan_io.h"
#include "rand/domains.h"
#include "rand/seed.h"
#include "wire/frame.h"

namespace permllm {
namespace {

// Bits of a signed integer that holds `magnitude`, with the margin, with `frac` fraction bits.
int bits_for(double magnitude, int frac) {
  return static_cast<int>(std::ceil(std::log2(std::max(k_range_margin * magnitude, 1e-9)))) + frac + 1;
}

int whole_bytes(int bits) { return (std::max(bits, 1) + 7) / 8 * 8; }

// A value with `frac` fraction bits in `ring`, shown with all the bits that its range needs.
Reveal reveal_of(Ring ring, int frac, double range, int shown_frac) {
  const int drop = frac - shown_frac;
  return {drop, std::min(ring.bits - drop, std::max(1, bits_for(range, shown_frac)))};
}

// All of it.
Reveal whole(Ring ring) { return {0, ring.bits}; }

// Products of rows that are not normalised: as many fraction bits, up to frac::raw, as the fewest bytes hold that hold
// frac::raw_least.
Reveal raw_reveal(Ring ring, int frac, double range) {
  const int sent = whole_bytes(bits_for(range, frac::raw_least));
  return reveal_of(ring, frac, range, std::min({frac::raw, sent - bits_for(range, 0), frac}));
}

// Far above any model, and what a machine has: bytes that a party keeps of a token's keys and values, and of a conversation's; words of
// constants, gains and positions; entries of the embedding table.
constexpr std::uint64_t k_most_slot_bytes = std::uint64_t{1} << 26, k_most_cache_bytes = std::uint64_t{1} << 40;
constexpr std::uint64_t k_most_vector_words = std::uint64_t{1} << 26, k_most_table = std::uint64_t{1} << 32;

double largest_of(std::span<const float> values) {
  double largest = 0;
  for (const float v : values) largest = std::max(largest, double{std::fabs(v)});
  return largest;
}

void require(bool holds, const std::string& what) {
  if (!holds) throw Error(Code::unsupported, "plan", what);
}

// Whether a matrix's ring holds the rows that go into it, normed or, where they are not, scaled.
bool takes_rows(const Plan& p, Ring ring, int frac) {
  return p.config.pre_norm ? p.fits_normed(ring, frac) : bits_for(k_plain_scale * p.ranges.residual, frac) <= ring.bits;
}

// What a reveal shows lies within the ring.
bool shows(const Reveal& r, Ring ring) { return r.drop >= 0 && r.keep > 0 && r.drop + r.keep <= ring.bits; }

// The tensors of a matrix, as GGUF files call them.
std::string tensors_of(Misfit::At at, std::size_t layer) {
  switch (at) {
    case Misfit::At::qkv_matrix:
      return fmt::format("blk.{0}.attn_q, blk.{0}.attn_k and blk.{0}.attn_v", layer);
    case Misfit::At::o_matrix:
      return fmt::format("blk.{}.attn_output", layer);
    case Misfit::At::up_matrix:
      return fmt::format("blk.{0}.ffn_gate and blk.{0}.ffn_up", layer);
    case Misfit::At::down_matrix:
      return fmt::format("blk.{}.ffn_down", layer);
    case Misfit::At::head_matrix:
      return "output";
    case Misfit::At::residual_ring:
      return "token_embd and the blocks' output";
  }
  return "";
}

void fit_or_refuse(bool holds, Misfit::At at, std::size_t layer, const std::string& what) {
  if (!holds) throw Misfit(at, layer, what);
}

// Fraction bits of what is shown of values up to `range`: `least`, or as many more as small values need to be told apart.
int shown_frac(double range, int least) {
  constexpr int k_bits = 16;
  return std::clamp(k_bits - static_cast<int>(std::ceil(std::log2(std::max(range, 1e-9)))), least, 40);
}

}  // namespace

Misfit::Misfit(At where, std::size_t of_layer, const std::string& what)
    : Error(Code::unsupported, "tensors " + tensors_of(where, of_layer), what), at(where), layer(of_layer) {}

const char* name_of(Profile profile) {
  switch (profile) {
    case Profile::paper:
      return "paper";
    case Profile::fast:
      return "fast";
    case Profile::open:
      return "open";
  }
  return "unknown";
}

Profile profile_of(const std::string& name) {
  for (const Profile profile : {Profile::paper, Profile::fast, Profile::open}) {
    if (name == name_of(profile)) return profile;
  }
  throw Error(Code::usage, "profile", fmt::format("\"{:.40}\", expected paper, fast or open", name));
}

const char* name_of(HiddenPositions hidden) {
  return hidden == HiddenPositions::off ? "off" : hidden == HiddenPositions::always ? "always" : "auto";
}

HiddenPositions hidden_positions_of(const std::string& name) {
  for (const HiddenPositions hidden : {HiddenPositions::off, HiddenPositions::by_choice, HiddenPositions::always}) {
    if (name == name_of(hidden)) return hidden;
  }
  throw Error(Code::usage, "hidden positions", fmt::format("\"{:.20}\", expected off, auto or always", name));
}

const char* name_of(Retrieval retrieval) { return retrieval == Retrieval::bfv ? "bfv" : "linear"; }

Retrieval retrieval_of(const std::string& name) {
  for (const Retrieval retrieval : {Retrieval::linear, Retrieval::bfv}) {
    if (name == name_of(retrieval)) return retrieval;
  }
  throw Error(Code::usage, "retrieval", fmt::format("\"{:.40}\", expected linear or bfv", name));
}

Plan Plan::make(const IntWeights& weights, const Ranges& ranges, std::size_t slots, Profile profile, bool fused,
                std::size_t prompt_slots) {
  Plan p = draft(weights, fractions_of(weights), weights.head.frac(), ranges, slots, profile, fused, prompt_slots);
  p.check();
  return p;
}

std::vector<LayerFractions> fractions_of(const IntWeights& weights) {
  std::vector<LayerFractions> fractions;
  for (const LayerWeights<IntMatrix>& layer : weights.layers) {
    fractions.push_back({.qkv = layer.qkv.frac(),
                         .o = layer.o.frac(),
                         .up = layer.up.frac(),
                         .down = layer.down.frac(),
                         .qk_gain = layer.qk_gain.frac,
                         .attention_gain = layer.attention_gain.frac,
                         .mlp_gain = layer.mlp_gain.frac});
  }
  return fractions;
}

Plan Plan::draft(const IntWeights& weights, std::vector<LayerFractions> stored, int head, const Ranges& ranges,
                 std::size_t slots, Profile profile, bool fused, std::size_t prompt_slots) {
  const auto finite = [](std::initializer_list<double> some) {
    require(std::all_of(some.begin(), some.end(), [](double range) { return std::isfinite(range); }),
            "the model's values on the calibration text are not finite");
  };
  finite({ranges.residual, ranges.logit, ranges.logit_raw});
  for (const LayerRanges& r : ranges.layers)
    finite(
        {r.qk, r.v, r.qk_normed, r.score, r.o, r.down, r.activation, r.gate_up, r.gate_up_raw, r.qkv_raw, r.least_rms});
  Plan p;
  p.config = weights.config;
  p.profile = profile;
  p.fused = fused;
  p.ranges = ranges;
  p.slots = slots;
  if (p.config.prefix && !p.open())
    p.prompt_slots = prompt_slots != 0 ? prompt_slots : std::max<std::size_t>(slots / 4, 1);
  p.embed_frac = weights.embed.frac();
  p.head_frac = head;
  p.residual_frac = std::max(frac::norm_row, p.embed_frac);
  require(ranges.layers.size() == weights.config.layers, "ranges of another number of layers");
  for (std::size_t l = 0; l < weights.config.layers; ++l) {
    p.layers.push_back(stored[l % stored.size()]);
    if (p.config.post_norm) p.layers[l].activation = k_normed_activation;
    if (!p.config.post_norm) p.residual_frac = std::max({p.residual_frac, p.o_frac(l), p.down_frac(l)});
    if (p.gained()) p.residual_frac = std::max({p.residual_frac, p.attention_gain_frac(l), p.mlp_gain_frac(l)});
    // As many fraction bits as scores leave room for.
    LayerFractions& f = p.layers[l];
    while (!p.open() && f.rope > frac::rope && !p.scores_fit(l)) --f.rope;
    while (!p.open() && f.rotated > k_least_rotated && !p.scores_fit(l)) --f.rotated;
  }
  require(p.config.positions != Positions::learned || weights.positions.size() >= slots * p.config.width,
          "the model has fewer positions than slots");
  const double places = largest_of(weights.positions);
  require(std::ldexp(places, p.embed_frac) + weights.embed.most() < (1 << (p.embed.bits - 1)),
          fmt::format("rows of positions reach {:g}, too much beside the embedding table", places));
  // The residual's ring also holds what a matrix makes of a row that is not normalised.
  int bits = bits_for(ranges.residual, p.residual_frac);
  for (std::size_t l = 0; l < p.layers.size(); ++l) {
    if (p.raw_qkv()) bits = std::max(bits, bits_for(ranges.layers[l].qkv_raw, p.qkv_frac(l)));
    if (p.raw_up()) bits = std::max(bits, bits_for(ranges.layers[l].gate_up_raw, p.up_frac(l)));
  }
  if (p.raw_head()) bits = std::max(bits, bits_for(ranges.logit_raw, p.logit_frac()));
  p.residual = Ring{whole_bytes(bits)};
  if (!p.raw_qkv() && !p.raw_up()) p.residual_frac = std::min(p.residual_frac + p.residual.bits - bits, 60);
  p.use_room();
  p.head = p.head_ring();
  return p;
}

// More fraction bits for what goes into the matrices, where the same bytes hold what they put out.
void Plan::use_room() {
  const auto raise = [](int& frac, int most, const auto& fits) {
    while (frac < most) {
      ++frac;
      if (fits()) continue;
      --frac;
      break;
    }
  };
  for (std::size_t l = 0; l < layers.size(); ++l) {
    LayerFractions& f = layers[l];
    const std::size_t o_bytes = o(l).bytes(), down_bytes = down(l).bytes();
    const auto joins = [&](int frac) { return config.post_norm || frac <= residual_frac; };
    raise(f.attention, k_most_answer, [&] { return joins(o_frac(l)) && o(l).bytes() == o_bytes; });
    raise(f.activation, k_most_answer, [&] {
      return joins(down_frac(l)) && down(l).bytes() == down_bytes &&
             bits_for(ranges.layers[l].activation, f.activation) <= down(l).bits;
    });
    if (config.normed_residual) continue;  // whose rows are the residual, too
    if (!raw_up()) {
      raise(f.mlp_norm, k_most_norm,
            [&, bytes = up(l).bytes()] { return up(l).bytes() == bytes && takes_rows(*this, up(l), f.mlp_norm); });
    }
    if (!raw_qkv()) {
      raise(f.attention_norm, open() ? k_most_norm : k_most_norm_of_heads,
            [&, qkv_bytes = qkv(l).bytes(), qk_bytes = qk(l).bytes()] {
              return qkv(l).bytes() == qkv_bytes && takes_rows(*this, qkv(l), f.attention_norm) &&
                     (open() || (qk(l).bytes() == qk_bytes && attention_misfit(l).empty()));
            });
    }
  }
  if (!raw_head()) {
    raise(final_norm_frac, k_most_norm, [&, bytes = head_ring().bytes()] {
      return head_ring().bytes() == bytes && fits_normed(head_ring(), final_norm_frac);
    });
  }
}

Ring Plan::qkv(std::size_t l) const {
  if (raw_qkv()) return Ring{whole_bytes(bits_for(ranges.layers[l].qkv_raw, qkv_frac(l)))};
  return Ring{open() ? whole_bytes(bits_for(std::max(ranges.layers[l].qk, ranges.layers[l].v), qkv_frac(l))) : 64};
}

Ring Plan::o(std::size_t l) const {
  return config.post_norm ? Ring{whole_bytes(bits_for(ranges.layers[l].o, o_frac(l)))} : part(o_frac(l));
}
Ring Plan::down(std::size_t l) const {
  return config.post_norm ? Ring{whole_bytes(bits_for(ranges.layers[l].down, down_frac(l)))} : part(down_frac(l));
}

// Logits at a hidden level wrap: a bit more than their range, so that differences do not.
Ring Plan::head_ring() const {
  return Ring{
      whole_bytes(raw_head() ? bits_for(ranges.logit_raw, logit_frac()) : bits_for(ranges.logit, logit_frac()) + 1)};
}

Ring Plan::up(std::size_t l) const {
  return Ring{whole_bytes(bits_for(raw_up() ? ranges.layers[l].gate_up_raw : ranges.layers[l].gate_up, up_frac(l)))};
}

// A skipped key's score lies this much below all others at least, so that its probability rounds to 0.
double Plan::skipped_gap() const { return (probability_frac() + 2) * std::log(2.0) / config.score_scale; }

// Scores leave room for a skipped key's, which lies in the second quarter from below of what is shown: two bits more.
Ring Plan::qk(std::size_t l) const {
  const double range = ranges.layers[l].score + skipped_gap() / k_range_margin;
  return Ring{std::min(64 - qk_cut(l), whole_bytes(bits_for(range, 2 * layers[l].rotated) + 2))};
}

double Plan::largest_score(std::size_t l) const { return k_range_margin * ranges.layers[l].score + skipped_gap(); }

// Scores and the gap below them fit half of what a skipped key has.
bool Plan::scores_fit(std::size_t l) const {
  return qk(l).bits > 2 * layers[l].rotated &&
         largest_score(l) <= std::ldexp(1.0, qk(l).bits - 3 - 2 * layers[l].rotated);
}

// What is shown of scores fits 32 bits.
int Plan::score_frac(std::size_t l) const {
  const int whole = 3 + static_cast<int>(std::ceil(std::log2(largest_score(l))));
  return std::min({frac::score, 2 * layers[l].rotated, 32 - whole});
}

// Checked: whole words, of as many bytes as the range needs, so that what is added to it is known to the last bit.
Reveal Plan::norm_reveal() const {
  if (checked) return {0, std::min(residual.bits, whole_bytes(bits_for(ranges.residual, residual_frac)))};
  return reveal_of(residual, residual_frac, ranges.residual, frac::norm_row);
}
Reveal Plan::head_norm_reveal(std::size_t l) const {
  return reveal_of(qkv(l), qkv_frac(l), ranges.layers[l].qk, std::min(frac::head_row, qkv_frac(l)));
}
Reveal Plan::o_reveal(std::size_t l) const {
  if (checked) return whole(o(l));
  return reveal_of(o(l), o_frac(l), ranges.layers[l].o, std::min(frac::norm_row, o_frac(l)));
}
Reveal Plan::down_reveal(std::size_t l) const {
  if (checked) return whole(down(l));
  return reveal_of(down(l), down_frac(l), ranges.layers[l].down, std::min(frac::norm_row, down_frac(l)));
}

Reveal Plan::score_reveal(std::size_t l) const {
  const int drop = 2 * layers[l].rotated - score_frac(l), keep = qk(l).bits - drop;
  return {drop, std::min(keep, 32)};
}

// The user divides by the row's rms. Of the row with the least, a unit of what is shown is then one of frac::gate_up bits or up to two, of others less.
int Plan::fused_gate_up_frac(std::size_t l) const {
  const double bits = -std::log2(std::clamp(ranges.layers[l].least_rms, 1e-9, k_most_range));
  return std::min({frac::gate_up + static_cast<int>(std::floor(bits)), frac::raw, up_frac(l)});
}

Reveal Plan::gate_up_reveal(std::size_t l) const {
  if (checked) return whole(up(l));
  const LayerRanges& r = ranges.layers[l];
  if (open() && raw_up()) return raw_reveal(up(l), up_frac(l), r.gate_up_raw);
  if (fused) return reveal_of(up(l), up_frac(l), r.gate_up_raw, fused_gate_up_frac(l));
  return reveal_of(up(l), up_frac(l), r.gate_up, open() || !config.pre_norm ? frac::open_gate_up : frac::gate_up);
}

Reveal Plan::qkv_reveal(std::size_t l) const {
  if (checked) return whole(qkv(l));
  return raw_qkv() ? raw_reveal(qkv(l), qkv_frac(l), ranges.layers[l].qkv_raw)
                   : reveal_of(qkv(l), qkv_frac(l), std::max(ranges.layers[l].qk, ranges.layers[l].v),
                               std::min(frac::norm_row, qkv_frac(l)));
}

Reveal Plan::logit_reveal() const {
  if (checked) return whole(head);
  if (raw_head()) return raw_reveal(head, logit_frac(), ranges.logit_raw);
  const int drop = logit_frac() - choice_frac();
  return {drop, head.bits - drop};
}

int Plan::choice_frac() const { return std::min(logit_frac(), shown_frac(ranges.logit, frac::logit)); }

void Plan::check_sizes() const {
  const Config& c = config;
  require(c.q_rows() <= k_most_head_rows,
          fmt::format("{} heads of {}, at most {} in all are supported", c.heads, c.head_dim, k_most_head_rows));
  require(
      c.vocab * c.width <= k_most_table,
      fmt::format("an embedding table of {} x {}, at most {} entries are supported", c.vocab, c.width, k_most_table));
  // Of keys, values and their masks: three words an entry.
  const std::uint64_t slot = c.layers * c.kv_rows() * 3 * sizeof(Word);
  require(slot <= k_most_slot_bytes && slots <= k_most_cache_bytes / slot,
          fmt::format("{} slots of {} bytes of keys and values, at most {} and {} in all are supported", slots, slot,
                      k_most_slot_bytes, k_most_cache_bytes));
  const std::uint64_t vectors = c.stored_layers() * (c.qkv_rows() + c.up_rows() + c.qk_rows() + 6 * c.width) + c.vocab +
                                (c.positions == Positions::learned ? slots * c.width : 0);
  require(vectors <= k_most_vector_words,
          fmt::format("{} words of constants, gains and positions, at most {} are supported", vectors,
                      k_most_vector_words));
}

// No entry of a normed row is larger than the root of their number.
bool Plan::fits_normed(Ring ring, int frac) const {
  return bits_for(std::sqrt(static_cast<double>(config.width)) / k_range_margin, frac) <= ring.bits;
}

std::string Plan::why_not_hidden() const {
  if (open()) return "profile open tells the provider of no positions: there are none to hide";
  if (config.positions != Positions::rotary || config.prefix)
    return "hidden positions are supported where all positions are rotary and a prompt does not attend both ways";
  if (bfv()) return "hidden positions with retrieval bfv are not supported: tokens are retrieved by blocks";
  return "";
}

void Plan::check_kind() const {
  require(
      (config.positions != Positions::rotary_2d || config.prefix) &&
          (config.norm == NormKind::rms || !(config.post_norm || config.qk_norm)),
      "two places of a token without a prompt that attends both ways, or LayerNorm behind matrices, are not supported");
  require(!config.prefix || (config.window == 0 && config.positions != Positions::learned),
          "a prompt that attends both ways, with a window or learned positions, is not supported");
  require(!(fused && open()), "profile open has no fused norm: all of its norms are");
  require(!checked || open(), "products are checked in profile open alone: the user of others is not shown them whole");
  if (hides_positions) {
    const std::string why_not = why_not_hidden();
    require(why_not.empty(), why_not);
  }
  require(!bfv() || !open(), "retrieval bfv has nothing to retrieve in profile open: a token's position is its id");
  require(!bfv() || config.vocab <= he::k_most_vocabulary,
          fmt::format("retrieval bfv: {} tokens, at most {} are supported", config.vocab, he::k_most_vocabulary));
  require(!bfv() || slots <= he::k_queries_per_key,
          fmt::format("retrieval bfv: {} slots, a key answers {} queries", slots, he::k_queries_per_key));
  require(!(fused && (config.up_bias || config.norm != NormKind::rms || config.normed_residual)),
          "norms cannot be fused: gate and up have a bias, or the norm is no RMSNorm");
  require(!config.whole_norm || config.qk_norm, "norms of all heads together where none are normed are not supported");
  require(config.pre_norm || (config.norm == NormKind::rms && config.post_norm && !fused),
          "matrices without a norm before them are supported with norms behind them, and nothing is fused");
  require(!(config.post_norm && config.normed_residual) && (config.gated || config.activation == Activation::gelu),
          "an MLP or norms of this kind are not supported");
}

void Plan::check_layer(std::size_t l) const {
  const auto fits = [l](bool holds, Misfit::At at, int bits, const char* what) {
    fit_or_refuse(holds, at, l, fmt::format("no ring holds {} with {} fraction bits of the weights", what, bits));
  };
  using enum Misfit::At;
  const LayerFractions& f = layers[l];
  const LayerRanges& r = ranges.layers[l];
  for (const int answer : {f.attention, f.activation})
    require(answer >= frac::attention && answer <= k_most_answer,
            "fraction bits of what o and down take are beyond bounds");
  for (const auto& [matrix, bits] :
       {std::pair{qkv_matrix, f.qkv}, {o_matrix, f.o}, {up_matrix, f.up}, {down_matrix, f.down}})
    fits(bits >= 0 && bits <= k_most_frac, matrix, bits, "the matrix");
  fits((config.post_norm || o_frac(l) <= residual_frac) && o(l).bits > f.attention && o(l).bits <= 64, o_matrix, f.o,
       "the product");
  fits((config.post_norm || down_frac(l) <= residual_frac) && down(l).bits > f.activation && down(l).bits <= 64,
       down_matrix, f.down, "the product");
  if (config.post_norm) {
    fits(shows(o_reveal(l), o(l)) && bits_for(r.o, o_frac(l)) <= o(l).bits, o_matrix, f.o, "the product");
    fits(shows(down_reveal(l), down(l)) && bits_for(r.down, down_frac(l)) <= down(l).bits, down_matrix, f.down,
         "the product");
  }
  if (gained()) {
    fits(attention_gain_frac(l) <= residual_frac && fits_normed(part(attention_gain_frac(l)), frac::post), o_matrix,
         f.attention_gain, "the gain behind it");
    fits(mlp_gain_frac(l) <= residual_frac && fits_normed(part(mlp_gain_frac(l)), frac::post), down_matrix, f.mlp_gain,
         "the gain behind it");
  }
  fits(bits_for(r.v, f.attention) <= o(l).bits, o_matrix, f.o, "values before it");
  fits(bits_for(r.activation, f.activation) <= down(l).bits, down_matrix, f.down, "activations before it");
  fits(raw_up() || takes_rows(*this, up(l), f.mlp_norm), up_matrix, f.up, "rows before it");
  fits(raw_qkv() || takes_rows(*this, qkv(l), f.attention_norm), qkv_matrix, f.qkv, "rows before it");
  const double shown = raw_up() ? r.gate_up_raw : r.gate_up;
  fits(up(l).bits <= (raw_up() ? residual.bits : 64) && shows(gate_up_reveal(l), up(l)) &&
           bits_for(shown, up_frac(l) - gate_up_reveal(l).drop) <= gate_up_reveal(l).keep,
       up_matrix, f.up, "the product");
  if (checked) {
    // What is added to the residual is shown with as many bits as that is, less the shift.
    const auto bits = [&](Ring ring, int frac) {
      return config.post_norm ? ring.bits : norm_reveal().keep - (residual_frac - frac);
    };
    const auto checks = [&](int of_product, Misfit::At at, int of) {
      fits(of_product > 0 && of_product <= k_most_checked_bits, at, of, "a product that can be checked");
    };
    checks(qkv(l).bits, qkv_matrix, f.qkv);
    checks(bits(o(l), o_frac(l)), o_matrix, f.o);
    checks(up(l).bits, up_matrix, f.up);
    checks(bits(down(l), down_frac(l)), down_matrix, f.down);
  }
  if (open())
    fits(qkv(l).bits <= (raw_qkv() ? residual.bits : 64) && shows(qkv_reveal(l), qkv(l)), qkv_matrix, f.qkv,
         "the product");
}

// Of profiles in which the provider holds the keys: why scores or values do not fit; empty: they do.
std::string Plan::attention_misfit(std::size_t l) const {
  const LayerFractions& f = layers[l];
  const LayerRanges& r = ranges.layers[l];
  const auto no_ring = [&](const char* what) {
    return fmt::format("no ring holds {} with {} fraction bits of the weights", what, f.qkv);
  };
  if (f.rope < frac::rope || f.rope > k_most_rope || f.rotated < k_least_rotated || f.rotated > frac::qk ||
      qk_cut(l) < 0 || !scores_fit(l) || score_frac(l) < 0 ||
      largest_score(l) > std::ldexp(1.0, score_reveal(l).keep - 3 - score_frac(l)))
    return no_ring("scores");
  // q, k and v fit before and after their cuts.
  const double turned = config.qk_norm ? r.qk_normed : r.qk;
  if (k_range_margin * turned >= std::ldexp(1.0, 63 - qk_frac(l) - f.rope - 1)) return no_ring("q and k");
  if (config.qk_norm && (!shows(head_norm_reveal(l), qkv(l)) || bits_for(r.qk, qkv_frac(l)) > qkv(l).bits))
    return no_ring("heads before their norm");
  if (v_frac(l) <= 0 || v_cut(l) < 0 || mix_cut(l) < 0 || mixed(l).bits > 96 ||
      k_range_margin * r.v >= std::ldexp(1.0, v(l).bits - 2 - v_frac(l)))
    return no_ring("values");
  if (lift_slack_bits(l) < k_least_lift_slack)
    return fmt::format("values would be hidden from the user up to 2^-{:.0f} only, expected 2^-{:.0f} or less",
                       lift_slack_bits(l), k_least_lift_slack);
  return "";
}

void Plan::check() const {
  require(slots >= 1 && layers.size() == config.layers && ranges.layers.size() == config.layers,
          "no slots or no layers");
  require((prompt_slots != 0) == (config.prefix && !open()) && prompt_slots < slots,
          fmt::format("{} prompt slots of {}, expected {}", prompt_slots, slots,
                      config.prefix && !open() ? "1 to all but one" : "none"));
  check_sizes();
  check_kind();
  fit_or_refuse(residual.bits <= 64, Misfit::At::residual_ring, 0,
                fmt::format("the residual's range ({:g}) fits no 64-bit ring{}", ranges.residual,
                            raw_up() ? " with the norm fused" : ""));
  require(embed.bits == 16 && embed_frac <= residual_frac, "the rings of the embedding do not fit");
  require(residual_frac >= frac::norm_row && bits_for(ranges.residual, residual_frac) <= residual.bits &&
              shows(norm_reveal(), residual),
          "the residual's range does not fit its ring");
  for (std::size_t l = 0; l < layers.size(); ++l) {
    check_layer(l);
    if (open()) continue;
    const std::string misfit = attention_misfit(l);
    fit_or_refuse(misfit.empty(), Misfit::At::qkv_matrix, l, misfit);
  }
  for (std::size_t l = config.stored_layers(); l < layers.size(); ++l) {
    const std::size_t k = l % config.stored_layers();
    require(up(l) == up(k) && qkv(l) == qkv(k) && o(l) == o(k) && down(l) == down(k),
            "layers that share weights differ in rings");
  }
  fit_or_refuse(
      !checked || head.bits <= k_most_checked_bits, Misfit::At::head_matrix, 0,
      fmt::format("no ring holds logits that can be checked with {} fraction bits of the weights", head_frac));
  const double logits = raw_head() ? ranges.logit_raw : ranges.logit;
  fit_or_refuse(
      head.bits <= 64 && (raw_head() || fits_normed(head, final_norm_frac)) && shows(logit_reveal(), head) &&
          bits_for(logits, shown_logit_frac()) + (raw_head() ? 0 : 1) <= logit_reveal().keep &&
          head.bits <= (raw_head() ? residual.bits : 64),
      Misfit::At::head_matrix, 0,
      fmt::format("no ring holds the logits' range ({:g}) with {} fraction bits of the weights", logits, head_frac));
}

void Plan::check_prompt(std::size_t tokens) const {
  if (tokens == 0) throw Error(Code::usage, "prompt", "is empty");
  if (!config.prefix) return;
  const std::size_t most = open() ? slots : prompt_slots + 1;
  if (tokens < 2 || tokens > most) {
    throw Error(Code::usage, tokens > most ? Reason::context_exceeded : Reason::none, "prompt",
                fmt::format("{} tokens, the model takes 2 to {}", tokens, most));
  }
}

double Plan::lift_slack_bits(std::size_t l) const {
  return v(l).bits - 1 - v_frac(l) - std::log2(std::max(ranges.layers[l].v, 1e-9) * k_range_margin);
}

double Plan::lift_slack_bits() const {
  double least = 64;
  for (std::size_t l = 0; l < layers.size(); ++l) least = std::min(least, lift_slack_bits(l));
  return least;
}

void check_as_peers_do(const Plan& plan) {
  Plan copy = plan;
  Writer writer;
  visit(writer, copy);
  const Bytes bytes = writer.take();
  Reader reader("model", bytes);
  try {
    visit(reader, copy);
  } catch (const Error& error) {
    throw Error(Code::unsupported, "", error.what());
  }
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
