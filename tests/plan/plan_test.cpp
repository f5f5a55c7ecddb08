#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "plan/fit.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::unsupported);
    return error.what();
  }
  return "accepted";
}

TEST(PlanTest, rings_grow_with_the_calibrated_ranges) {
  Ranges ranges = tiny_ranges();
  const auto residual_bits = [&](Profile profile = Profile::paper, bool fused = false) {
    return Plan::make(tiny_weights(), ranges, 16, profile, fused).residual.bits;
  };
  const int frac = tiny_plan(Profile::open).residual_frac;  // where room in the ring is not used for more
  for (const double residual : {30.0, 22778.0, 150000.0, 4e6}) {
    ranges.residual = residual;
    const int needed = static_cast<int>(std::ceil(std::log2(8 * residual))) + frac + 1;
    EXPECT_EQ(residual_bits(), (needed + 7) / 8 * 8);
  }
  // A row that is not normalised goes into the matrix behind the norm: its product must fit the residual's ring.
  ranges = tiny_ranges();
  ranges.layers[1].gate_up_raw = 1e6;
  EXPECT_GT(residual_bits(Profile::fast, true), residual_bits(Profile::fast, false));
  EXPECT_EQ(residual_bits(Profile::open), residual_bits(Profile::fast, true));
}

// Normed rows have as many fraction bits as need no byte more of what their matrix puts out.
TEST(PlanTest, normed_rows_use_the_room_of_their_matrix) {
  const auto of_up = [](double gate_up) {
    Ranges ranges = tiny_ranges();
    ranges.layers[1].gate_up = gate_up;
    const Plan plan = Plan::make(tiny_weights(), ranges, 16);
    Plan coarse = plan, finer = plan;
    coarse.layers[1].mlp_norm = frac::norm;
    EXPECT_EQ(plan.up(1), coarse.up(1));
    ++finer.layers[1].mlp_norm;
    EXPECT_TRUE(plan.layers[1].mlp_norm == k_most_norm || finer.up(1).bits > plan.up(1).bits);
    EXPECT_EQ(plan.layers[0].mlp_norm, tiny_plan().layers[0].mlp_norm);
    return plan.layers[1].mlp_norm;
  };
  std::set<int> different;
  for (int bits = 0; bits < 8; ++bits) different.insert(of_up(std::ldexp(1.0, bits)));
  EXPECT_GE(different.size(), 7u);
  // Each bit of what goes into qkv costs the lift of v one.
  Ranges ranges = tiny_ranges();
  EXPECT_EQ(Plan::make(tiny_weights(), ranges, 16).layers[0].attention_norm, k_most_norm_of_heads);
  while (Plan::make(tiny_weights(), ranges, 16).layers[0].attention_norm > frac::norm) ranges.layers[0].v *= 2;
  EXPECT_LT(Plan::make(tiny_weights(), ranges, 16).lift_slack_bits(0), k_least_lift_slack + 1);
  EXPECT_EQ(tiny_plan(Profile::open).layers[0].attention_norm, frac::norm);  // rows go in raw
}

// Where weights are not public. Fused, a unit of the row with the least rms is one of frac::gate_up bits once it is divided, or up to two.
TEST(PlanTest, gate_and_up_are_shown_with_few_bits) {
  const auto shown = [](const Plan& p) { return p.up_frac(1) - p.gate_up_reveal(1).drop; };
  for (const Profile profile : {Profile::paper, Profile::fast}) EXPECT_EQ(shown(tiny_plan(profile)), frac::gate_up);
  EXPECT_GE(shown(tiny_plan(Profile::open)), frac::raw_least);
  const auto fused = [&](double least_rms) {
    Ranges ranges = tiny_ranges();
    ranges.layers[1].least_rms = least_rms;
    return Plan::make(tiny_weights(), ranges, 16, Profile::paper, true);
  };
  EXPECT_EQ(shown(fused(1)), frac::gate_up);
  EXPECT_EQ(shown(fused(0.5)), frac::gate_up + 1);
  EXPECT_EQ(shown(fused(0.3)), frac::gate_up + 1);
  EXPECT_EQ(shown(fused(0.25)), frac::gate_up + 2);
  EXPECT_EQ(shown(fused(1000)), frac::gate_up - 10);  // less than whole numbers
  EXPECT_EQ(shown(fused(0)), frac::raw);              // nothing is known of it
  EXPECT_GE(fused(1e-8).gate_up_reveal(1).drop, 0);
  // All that the range has is shown, with its margin, whatever is dropped.
  for (const double rms : {1e-3, 1.0, 1000.0}) {
    const Plan p = fused(rms);
    EXPECT_GE(std::ldexp(1.0, p.gate_up_reveal(1).keep - 1 - shown(p)),
              k_range_margin * p.ranges.layers[1].gate_up_raw);
  }
  // A peer may state any.
  Plan wild = fused(1);
  wild.ranges.layers[1].least_rms = 1e14;
  EXPECT_NE(refusal([&] { wild.check(); }).find("no ring holds the product"), std::string::npos);
}

TEST(PlanTest, the_norm_is_fused_where_the_ranges_allow_it) {
  Executor executor(1);
  IntWeights weights = load_int_weights(Gguf::parse(tiny_llama().finish()), executor);
  Ranges ranges = tiny_ranges();
  const auto fused = [&](Profile profile) {
    const Fitted fitted = fit(weights, ranges, {.slots = 16, .profile = profile, .fused = {}}, executor);
    EXPECT_TRUE(fitted.given_up.empty());
    return fitted.plan.fused;
  };
  EXPECT_TRUE(fused(Profile::paper));
  EXPECT_FALSE(fused(Profile::open));
  ranges.layers[0].gate_up_raw = 1e13;
  EXPECT_FALSE(fused(Profile::paper));
  EXPECT_NE(refusal([&] { Plan::make(tiny_weights(), ranges, 16, Profile::paper, true); }).find("with the norm fused"),
            std::string::npos);
  EXPECT_NE(refusal([&] {
              Plan::make(tiny_weights(), tiny_ranges(), 16, Profile::open, true);
            }).find("profile open has no fused norm"),
            std::string::npos);
}

// A bit of the weights that nobody hears is worth a byte of the residual's ring, and of what joins it; more of them are not.
TEST(PlanTest, a_ring_that_is_a_bit_too_small_is_made_to_do) {
  Executor executor(1);
  Ranges ranges = tiny_ranges();
  const auto loaded = [&] {  // one neuron is far larger than the others, so these have finer steps
    return load_int_weights(Gguf::parse(tiny_llama({.growth = 1}).finish()), executor);
  };
  const auto fitted = [&](double raw) {
    IntWeights weights = loaded();
    ranges.layers[0].gate_up_raw = raw;
    Fitted made = fit(weights, ranges, {.slots = 16, .profile = Profile::paper, .fused = true}, executor);
    EXPECT_EQ(weights.layers[0].up.frac(), made.plan.layers[0].up);
    return made;
  };
  const Plan wide = Plan::make(loaded(), ranges, 16, Profile::paper, true);
  // The largest value that its ring holds.
  const int bits = wide.residual.bits;
  const double most = std::ldexp(1.0, bits - 1 - wide.up_frac(0)) / k_range_margin;
  const Fitted just = fitted(most), over = fitted(1.5 * most), far = fitted(100 * most);
  EXPECT_EQ(just.plan.residual.bits, bits);
  EXPECT_TRUE(just.given_up.empty());
  EXPECT_EQ(over.plan.residual.bits, bits);
  ASSERT_EQ(over.given_up.size(), 1u);
  EXPECT_EQ(over.given_up[0].find("layer 0: 1 bit of up"), 0u) << over.given_up[0];
  EXPECT_EQ(over.plan.layers[0].up, just.plan.layers[0].up - 1);
  EXPECT_EQ(far.plan.residual.bits, bits + 8);
  EXPECT_TRUE(far.given_up.empty());
}

TEST(PlanTest, a_skipped_keys_probability_rounds_to_zero) {
  for (const double score : {0.1, 4.0, 50.0, 379.0}) {
    Ranges ranges = tiny_ranges();
    for (LayerRanges& layer : ranges.layers) layer.score = score;
    const Plan plan = Plan::make(tiny_weights(), ranges, 16);
    // The least that lies between any score and a skipped key's.
    const double gap = std::ldexp(1.0, plan.score_reveal(0).keep - 3 - plan.score_frac(0)) - 8 * score;
    EXPECT_LT(std::exp(-gap / std::sqrt(static_cast<double>(plan.config.head_dim))),
              std::ldexp(0.5, -plan.probability_frac()))
        << score;
  }
}

TEST(PlanTest, a_range_that_fits_no_ring_is_refused_by_name) {
  const auto with = [](const std::function<void(Ranges&)>& change) {
    Ranges ranges = tiny_ranges();
    change(ranges);
    return refusal([&] { Plan::make(tiny_weights(), ranges, 16); });
  };
  EXPECT_EQ(with([](Ranges&) {}), "accepted");
  EXPECT_NE(with([](Ranges& r) { r.residual = 1e14; }).find("the residual's range (1e+14)"), std::string::npos);
  EXPECT_NE(with([](Ranges& r) {
              r.layers[0].score = 1e14;
            }).find("blk.0.attn_q, blk.0.attn_k and blk.0.attn_v: no ring holds scores"),
            std::string::npos);
  EXPECT_NE(with([](Ranges& r) { r.residual = 1e6, r.layers[1].v = 1e5; }).find("values would be hidden"),
            std::string::npos);
  EXPECT_NE(with([](Ranges& r) { r.layers[0].qk = 1e12; }).find("attn_q"), std::string::npos);
  EXPECT_NE(with([](Ranges& r) {
              r.layers[1].gate_up = 1e12;
            }).find("blk.1.ffn_gate and blk.1.ffn_up: no ring holds the product"),
            std::string::npos);
  EXPECT_NE(with([](Ranges& r) { r.logit = 1e15; }).find("the logits' range (1e+15)"), std::string::npos);
}

// Of a peer's plan, whose numbers may be anything: what follows from them would be negative, wrap, or take a machine's memory for a few bytes.
TEST(PlanTest, a_plan_that_no_model_has_is_refused) {
  const auto with = [](const std::function<void(Plan&)>& change, Profile profile = Profile::paper) {
    Plan plan = tiny_plan(profile);
    change(plan);
    return refusal([&] { plan.check(); });
  };
  EXPECT_EQ(with([](Plan&) {}), "accepted");
  // A residual of no magnitude in a narrow ring, of which more bits than it has would be cut.
  EXPECT_NE(with([](Plan& p) {
              p.ranges.residual = 0;
              for (LayerRanges& r : p.ranges.layers) r.v = r.activation = 0;
              p.residual_frac = 36;
              p.residual.bits = 12;
              for (LayerFractions& layer : p.layers) layer.o = layer.down = 26;
            }).find("the residual's range does not fit its ring"),
            std::string::npos);
  EXPECT_NE(with([](Plan& p) {
              p.config.heads = p.config.kv_heads = 1 << 10, p.config.head_dim = 1 << 12;
            }).find("1024 heads of 4096, at most 131072"),
            std::string::npos);
  EXPECT_NE(with([](Plan& p) {
              p.config.vocab = 1 << 20, p.config.width = 1 << 13;
            }).find("an embedding table of 1048576 x 8192"),
            std::string::npos);
  EXPECT_NE(with([](Plan& p) {
              p.config.distinct_layers = 2, p.config.layers = 1000, p.config.heads = p.config.kv_heads = 1 << 7,
              p.config.head_dim = 1 << 9;
              p.layers.resize(1000, p.layers[0]);
              p.ranges.layers.resize(1000, p.ranges.layers[0]);
            }).find("16 slots of 1572864000 bytes of keys and values"),
            std::string::npos);
  EXPECT_NE(with([](Plan& p) {
              p.slots = 1 << 20, p.config.heads = p.config.kv_heads = 1 << 7, p.config.head_dim = 1 << 9;
            }).find("1048576 slots of 3145728 bytes"),
            std::string::npos);
  EXPECT_NE(with([](Plan& p) { p.config.positions = Positions::learned, p.config.width = 1 << 12, p.slots = 1 << 15; },
                 Profile::open)
                .find("words of constants, gains and positions"),
            std::string::npos);
}

TEST(PlanTest, what_a_peer_would_refuse_is_refused_before_it_is_asked) {
  const auto with = [](const std::function<void(Plan&)>& change) {
    Plan plan = tiny_plan();
    change(plan);
    return refusal([&] { check_as_peers_do(plan); });
  };
  EXPECT_EQ(with([](Plan&) {}), "accepted");
  EXPECT_EQ(with([](Plan& p) { p.embed_frac = -3; }), "model.plan.embed.frac: -3, expected 0 to 40");
  EXPECT_EQ(with([](Plan& p) { p.config.rope[0] = 1e7; }), "model.config.rope: is out of range");
  EXPECT_EQ(with([](Plan& p) { p.config.head_dim = 1 << 13, p.config.rope.resize(1 << 12); }),
            "model.config.head_dim: 8192, expected 1 to 4096");
  Ranges ranges = tiny_ranges();
  ranges.layers[1].activation = INFINITY;
  EXPECT_NE(refusal([&] { Plan::make(tiny_weights(), ranges, 16); }).find("not finite"), std::string::npos);
}

// Two sides with different plans must not talk: every number that a box consumes is in the hash.
TEST(PlanTest, the_hash_covers_every_number_but_the_names) {
  const Plan plan = tiny_plan();
  std::set<std::string> hashes{plan.hash()};
  const std::vector<std::function<void(Plan&)>> changes{
      [](Plan& p) { ++p.slots; },
      [](Plan& p) { ++p.layers[1].qkv; },
      [](Plan& p) { --p.layers[1].rope; },
      [](Plan& p) { --p.layers[1].rotated; },
      [](Plan& p) { ++p.layers[0].attention; },
      [](Plan& p) { ++p.layers[0].activation; },
      [](Plan& p) { ++p.layers[0].attention_norm; },
      [](Plan& p) { ++p.layers[1].mlp_norm; },
      [](Plan& p) { ++p.final_norm_frac; },
      [](Plan& p) { p.ranges.layers[1].score *= 2; },
      [](Plan& p) { p.ranges.layers[0].v *= 2; },
      [](Plan& p) { ++p.layers[0].o; },
      [](Plan& p) { ++p.layers[0].up; },
      [](Plan& p) { ++p.layers[0].down; },
      [](Plan& p) { ++p.embed_frac; },
      [](Plan& p) { ++p.head_frac; },
      [](Plan& p) { p.residual.bits += 8; },
      [](Plan& p) { ++p.residual_frac; },
      [](Plan& p) { p.profile = Profile::fast; },
      [](Plan& p) { p.fused = true; },
      [](Plan& p) { p.ranges.layers[0].qkv_raw *= 2; },
      [](Plan& p) { p.ranges.layers[0].gate_up_raw *= 2; },
      [](Plan& p) { p.ranges.layers[1].least_rms *= 2; },
      [](Plan& p) { p.ranges.logit_raw *= 2; },
      [](Plan& p) { p.config.gated = false; },
      [](Plan& p) { p.config.distinct_layers = 1; },
      [](Plan& p) { p.head.bits += 8; },
      [](Plan& p) { p.ranges.layers[1].gate_up *= 2; },
      [](Plan& p) { p.config.rope[0] *= 2; },
      [](Plan& p) { p.config.window = 4; },
      [](Plan& p) { p.config.window = 4, p.config.windows.assign(p.config.layers, true); },
      [](Plan& p) { p.config.window = 4, p.config.windows.assign(p.config.layers, false); },
      [](Plan& p) { p.config.whole_norm = true; },
      [](Plan& p) { p.config.pre_norm = false; },
      [](Plan& p) { p.config.turned.assign(p.config.layers, true); },
      [](Plan& p) { p.config.turned.assign(p.config.layers, true), p.config.turned[1] = false; },
      [](Plan& p) { p.config.norm_eps *= 2; },
      [](Plan& p) { p.config.vocab += 1; },
      [](Plan& p) { p.config.ff += 1; },
      [](Plan& p) { p.config.heads *= 2; },
  };
  for (const auto& change : changes) {
    Plan other = plan;
    change(other);
    EXPECT_TRUE(hashes.insert(other.hash()).second);
  }
  Plan renamed = plan;
  renamed.config.name = "another name";
  EXPECT_EQ(renamed.hash(), plan.hash());
}

}  // namespace
}  // namespace permllm::test
