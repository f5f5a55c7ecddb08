// The private answer of a real model against float32, and its cost against the declared cost.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/reference.h"
#include "page/declared.h"
#include "support/model.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

class PrivateAnswer : public testing::TestWithParam<Variant> {
 protected:
  const OfferedModel& model = smollm2();
  const Plan plan = smollm2_plan(GetParam());
};
INSTANTIATE_TEST_SUITE_P(Variants, PrivateAnswer, testing::ValuesIn(k_variants),
                         [](const auto& variant) { return variant.param.name(); });
INSTANTIATE_TEST_SUITE_P(Retrieval, PrivateAnswer, testing::Values(k_bfv_variant),
                         [](const auto& variant) { return variant.param.name(); });

// Every pass costs what its boxes declare, to the byte.
INSTANTIATE_TEST_SUITE_P(Choices, PrivateAnswer, testing::Values(k_hidden_variant, k_checked_variant),
                         [](const auto& variant) { return variant.param.name(); });

TEST_P(PrivateAnswer, costs_exactly_what_the_boxes_declare) {
  const GreedyCase c = greedy_cases()[4];
  const std::size_t rounds_a_layer = (plan.open()                     ? 2u
                                      : plan.profile == Profile::fast ? 4u
                                                                      : 6u) -
                                     (plan.fused ? 1u : 0u) + (plan.hides_positions ? 1u : 0u);
  Rig rig(model.weights, plan, executor());
  const auto check = [&](const Cost& declared, const Traffic& before, std::size_t offline_before[2]) {
    const Traffic t = rig.traffic() - before;
    EXPECT_EQ(t.sent.payload_bytes, declared.online.user_to_provider);
    EXPECT_EQ(t.received.payload_bytes, declared.online.provider_to_user);
    EXPECT_EQ(t.round_trips, declared.rounds);
    EXPECT_EQ(rig.offline(Stock::Source::helper).size() - offline_before[0], declared.offline.helper_to_provider);
    EXPECT_EQ(rig.offline(Stock::Source::user).size() - offline_before[1], declared.offline.user_to_provider);
  };
  std::size_t offline[2] = {0, 0};
  rig.deal_for_pass(c.prompt_ids.size(), true);
  rig.user().prompt(c.prompt_ids, greedy);
  check(pass_cost(plan, 0, c.prompt_ids.size(), true), {}, offline);
  for (std::size_t step = 0; step < 3; ++step) {
    const Traffic before = rig.traffic();
    offline[0] = rig.offline(Stock::Source::helper).size();
    offline[1] = rig.offline(Stock::Source::user).size();
    rig.deal_for_pass(1, false);
    rig.user().advance([](TokenId) { return true; }, greedy);
    const Cost declared = pass_cost(plan, c.prompt_ids.size() + step, 1, false);
    check(declared, before, offline);
    EXPECT_EQ(declared.rounds, rounds_a_layer * plan.config.layers + (plan.open() ? 1 : 2));
  }
}

// What the secret cuts of a token add to plain ones.
Cost secret_cuts_of(const Plan& plan) {
  Cost more;
  for (std::size_t l = 0; l < plan.config.layers; ++l) {
    const ValuesShape s = attention_shape(plan, l).values;
    for (const SecretCutShape& cut : {s.head.rotated_cut(), s.head.value_cut(), s.mix_cut()}) {
      more += cost(cut, {0, 1});
      if (cut.sent) more.online.user_to_provider -= cut.size * cut.out.bytes();
    }
  }
  return more;
}

// At 17 to 20 tokens of context. The bounds are those of the executable specification of the protocol, where matrices have one
// step each and all cuts are plain; what finer steps of small columns cost is offline, and at most 6 %.
TEST(PrivateAnswerCost, needs_no_more_bytes_than_the_specification) {
  struct Bound {
    Variant variant;
    std::size_t to_user, to_provider, from_user, from_helper;
  };
  for (const Bound& b : {Bound{{Profile::paper, false}, 850'000, 960'000, 1'005'000, 2'640'000},
                         Bound{{Profile::fast, false}, 800'000, 880'000, 1'005'000, 2'560'000},
                         Bound{{Profile::fast, true}, 1'110'000, 940'000, 1'440'000, 3'350'000},
                         Bound{{Profile::open, false}, 1'060'000, 460'000, 0, 1'430'000}}) {
    const Plan plan = smollm2_plan(b.variant);
    for (std::size_t context = 17; context <= 20; ++context) {
      Cost c = pass_cost(plan, context - 1, 1, false);
      if (!plan.open()) {
        const Cost more = secret_cuts_of(plan);
        EXPECT_LE(more.online.user_to_provider * 100, c.online.user_to_provider * 10);
        EXPECT_LE(more.offline.helper_to_provider * 100, c.offline.helper_to_provider * 11);
        c.online.user_to_provider -= more.online.user_to_provider;
        c.offline.helper_to_provider -= more.offline.helper_to_provider;
      }
      EXPECT_LE(c.online.provider_to_user, b.to_user) << b.variant.name();
      EXPECT_LE(c.online.user_to_provider, b.to_provider) << b.variant.name();
      EXPECT_LE(c.offline.user_to_provider * 100, b.from_user * 106) << b.variant.name();
      EXPECT_LE(c.offline.helper_to_provider * 100, b.from_helper * 106) << b.variant.name();
    }
  }
}

// A pass that is given up burns its slot and leaves the conversation as it was.
TEST_P(PrivateAnswer, goes_on_as_if_a_pass_that_was_given_up_had_not_been) {
  if (plan.open()) return;  // there the id is known before a pass begins: none is given up
  const GreedyCase c = greedy_cases()[1];
  Rig rig(model.weights, plan, executor());
  rig.deal_for_request(c.prompt_ids.size(), 10);
  rig.deal(Part::Kind::entry, 1);
  rig.user().prompt(c.prompt_ids, greedy);
  const auto go_on = [](TokenId) { return true; };
  EXPECT_EQ(rig.user().advance(go_on, greedy), c.float_ids[0]);
  EXPECT_EQ(rig.user().advance(go_on, greedy), c.float_ids[1]);
  EXPECT_EQ(rig.user().advance([](TokenId) { return false; }, greedy), c.float_ids[2]);
  // The same token again, as a prompt of one.
  rig.user().prompt({{c.float_ids[2]}}, greedy);
  for (std::size_t step = 3; step < 8; ++step) EXPECT_EQ(rig.user().advance(go_on, greedy), c.float_ids[step]) << step;
}

// The rms of every row, as the user saw it, against float32: attention sinks included.
TEST_P(PrivateAnswer, rows_have_the_rms_that_float32_gives_them) {
  const FloatWeights real = load_float_weights(Gguf::open(PERMLLM_TEST_MODEL), executor());
  std::vector<double> errors;
  double largest = 0;
  for (const std::size_t index : {0u, 4u}) {
    const GreedyCase c = greedy_cases()[index];
    std::map<std::pair<int, std::size_t>, std::vector<double>> expected, seen;  // (site, layer) -> rms by token
    const auto rms = [](const auto& values, double unit) {
      double sum = 0;
      for (const auto v : values) sum += static_cast<double>(v) * unit * static_cast<double>(v) * unit;
      return std::sqrt(sum / static_cast<double>(values.size()));
    };
    ReferenceCache cache;
    reference_forward(real, c.prompt_ids, cache, executor(), [&](const Observation& o) {
      const int site = o.kind == "norm.attn" ? 5 : o.kind == "norm.mlp" ? 7 : o.kind == "norm.final" ? 13 : 0;
      if (site != 0) expected[{site, site == 13 ? 0 : o.layer}].push_back(rms(o.values, 1));
    });
    Rig rig(model.weights, plan, executor());
    rig.user().observe([&](const Seen& s) {
      const bool row = s.site == Site::attention_norm || s.site == Site::mlp_norm || s.site == Site::final_norm;
      if (row)
        seen[{static_cast<int>(s.site), s.layer}].push_back(
            rms(s.values, std::ldexp(1.0, plan.norm_reveal().drop - plan.residual_frac)));
      if (s.site == Site::embed_residual) seen[{5, 0}].push_back(rms(s.values, std::ldexp(1.0, -plan.embed_frac)));
    });
    rig.deal_for_pass(c.prompt_ids.size(), true);
    rig.user().prompt(c.prompt_ids, greedy);
    ASSERT_EQ(seen.size(), expected.size());
    for (const auto& [place, rows] : expected) {
      ASSERT_EQ(seen[place].size(), rows.size());
      for (std::size_t i = 0; i < rows.size(); ++i) {
        errors.push_back(std::fabs(seen[place][i] / rows[i] - 1));
        largest = std::max(largest, rows[i]);
        EXPECT_LT(errors.back(), 0.25) << "site " << place.first << " layer " << place.second << " token " << i;
      }
    }
  }
  EXPECT_GT(largest, 500) << "the prompts were chosen to contain an attention sink";
  std::nth_element(errors.begin(), errors.begin() + static_cast<std::ptrdiff_t>(errors.size() / 2), errors.end());
  EXPECT_LT(errors[errors.size() / 2], 0.01);
  fmt::print("rms of {} rows: median error {:.4f}, largest row {:.0f}\n", errors.size(), errors[errors.size() / 2],
             largest);
}

}  // namespace
}  // namespace permllm::test
