// Models that are hard on fixed point: entries of 150,000 beside rows of rms 0.05; long flat attention; prompts longer than a
// batch of packs and than a block of queries.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "model/reference.h"
#include "page/declared.h"
#include "plan/calibrate.h"
#include "support/model.h"
#include "support/protocol_check.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

constexpr TokenId k_sink = 1;  // the token whose row becomes massive

// Random rows of rms 0.05; the sink's embedding opens one neuron, whose output is `massive`.
IntWeights sink_model(float massive) {
  Config c;
  c.architecture = "llama";
  c.layers = 2;
  c.width = 64;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.ff = 96;
  c.vocab = 40;
  c.context = 64;
  c.rope = rope_frequencies(10000, c.head_dim, c.head_dim);
  c.score_scale = 0.25;
  std::mt19937 random(5);
  const auto matrix = [&](std::size_t rows, std::size_t cols, float size) {
    std::normal_distribution<float> normal(0, size);
    FloatMatrix m{rows, cols, std::vector<float>(rows * cols)};
    for (float& v : m.values) v = normal(random);
    return m;
  };
  const auto integer = [](const FloatMatrix& m) {
    float largest = 0;
    for (const float v : m.values) largest = std::max(largest, std::fabs(v));
    return IntMatrix(m, {IntMatrix::fraction_bits(largest)}, executor());
  };
  IntWeights w;
  w.config = c;
  FloatMatrix embed = matrix(c.width, c.vocab, 0.05f);
  for (std::size_t k = 0; k < c.vocab; ++k)
    embed.values[3 * c.vocab + k] = -0.2f;  // that neuron is shut for all others
  for (std::size_t d = 0; d < c.width; ++d) embed.values[d * c.vocab + k_sink] = d == 3 ? 0.4f : 0.0f;
  for (std::size_t l = 0; l < c.layers; ++l) {
    FloatMatrix up = matrix(2 * c.ff, c.width, 0.1f), down = matrix(c.width, c.ff, 0.02f);
    if (l == 0) {
      // Normed, the sink's only entry is 8; neuron 0 takes gate and up from it.
      for (std::size_t j = 0; j < 2 * c.ff; ++j) up.values[j * c.width + 3] = j == 0 || j == c.ff ? 16.0f : 0.0f;
      for (std::size_t d = 0; d < c.width; ++d) down.values[d * c.ff] = d == 9 ? massive / (128.0f * 128.0f) : 0.0f;
    }
    w.layers.push_back({integer(matrix(c.qkv_rows(), c.width, 0.1f)),
                        integer(matrix(c.width, c.q_rows(), l == 0 ? 1e-5f : 0.02f)), integer(up), integer(down)});
  }
  w.embed = integer(embed);
  w.head = integer(matrix(c.vocab, c.width, 0.5f));
  return w;
}

TEST(HardValues, massive_entries_beside_quiet_rows_are_right_or_refused) {
  const std::vector<TokenId> ids{k_sink, 7, 8, 20, k_sink, 9, 33};
  for (const float massive : {1000.0f, 150000.0f, 4e6f}) {
    const IntWeights weights = sink_model(massive);
    const Ranges ranges = calibrate(weights, ids, executor());
    EXPECT_NEAR(ranges.residual / massive, 1, 0.1);
    std::map<std::pair<int, std::size_t>, std::vector<double>> expected;  // (site, layer) -> rms by token
    ReferenceCache cache;
    const auto logits = reference_forward(weights, ids, cache, executor(), [&](const Observation& o) {
      const Site site = o.kind == "norm.attn"  ? Site::attention_norm
                        : o.kind == "norm.mlp" ? Site::mlp_norm
                                               : Site::next_embed;
      if (site == Site::next_embed || (site == Site::attention_norm && o.layer == 0)) return;
      double squares = 0;
      for (const float v : o.values) squares += double{v} * double{v};
      expected[{static_cast<int>(site), o.layer}].push_back(
          std::sqrt(squares / static_cast<double>(o.values.size()) + weights.config.norm_eps));
    });
    double quietest = 1e9;
    for (const auto& [place, rows] : expected)
      quietest = std::min(quietest, *std::min_element(rows.begin(), rows.end()));
    EXPECT_LT(quietest, 0.08);
    std::size_t served = 0;
    for (const Variant& v : k_variants) {
      std::optional<Plan> plan;
      try {
        plan = Plan::make(weights, ranges, 32, v.profile, v.fused);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Code::unsupported);
        fmt::print("{:.0f}, {}: {}\n", massive, v.name(), error.what());
        continue;
      }
      ++served;
      Rig rig(weights, *plan, executor());
      std::map<std::pair<int, std::size_t>, std::vector<double>> seen;
      rig.user().observe([&](const Seen& s) {
        if (s.site != Site::attention_norm && s.site != Site::mlp_norm) return;
        double squares = 0;
        for (const std::int64_t value : s.values)
          squares += std::pow(std::ldexp(static_cast<double>(value), -frac::norm_row), 2);
        seen[{static_cast<int>(s.site), s.layer}].push_back(
            std::sqrt(squares / static_cast<double>(s.values.size()) + weights.config.norm_eps));
      });
      rig.deal_for_pass(ids.size(), true);
      rig.user().prompt(ids, greedy);
      for (const auto& [place, rows] : expected) {
        ASSERT_EQ(seen[place].size(), rows.size()) << v.name();
        for (std::size_t i = 0; i < rows.size(); ++i)
          EXPECT_NEAR(seen[place][i] / rows[i], 1, 0.02)
              << v.name() << " site " << place.first << " token " << i << " rms " << rows[i];
      }
      const auto best = static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      EXPECT_EQ(rig.user().retrieve_last(), best) << v.name();
    }
    if (massive <= 150000) {
      EXPECT_GE(served, 2u) << massive;
    }
  }
}

// Every query sees 1 to 2,048 equal keys: their share of p.v must not vanish in rounding.
TEST(HardValues, long_flat_attention_keeps_its_sum) {
  constexpr std::size_t k_dim = 4, k_rows = 3 * k_dim, k_count = 2048;
  const Plan plan = smollm2_plan({Profile::fast, false}, k_count);
  ASSERT_EQ(plan.probability_frac(), 18);
  AttentionShape s = attention_shape(plan, 0);
  s.values.head.heads = s.values.head.kv_heads = 1;
  s.values.head.head_dim = k_dim;
  const Format in{plan.qkv(0), plan.qkv_frac(0)};
  AesCoins user(seed_of(1)), helper_user(seed_of(1)), helper_provider(seed_of(2)), provider(seed_of(2));
  Fibers fibers;
  BoxRun run(user, helper_user, helper_provider, provider, {0, k_count}, fibers);
  Words qkv(k_count * k_rows), mask(qkv.size());
  std::mt19937_64 random(3);
  for (std::size_t i = 0; i < k_count; ++i) {
    for (std::size_t d = 0; d < k_dim; ++d)
      qkv[i * k_rows + 2 * k_dim + d] = encode(1.5 + 0.1 * static_cast<double>((i * 7 + d) % 5), in);
  }
  for (Word& word : mask) word = random();
  Words x0(qkv.size());
  for (std::size_t j = 0; j < qkv.size(); ++j) x0[j] = qkv[j] - mask[j];
  Masked out;
  Mask r;
  run.offline([&](Helper& h) { attention(h, s, Mask{in, k_rows, mask}); });
  run.online(
      [&](Provider& p) {
        out = attention(p, s, Masked{in, k_rows, x0});
      },
      [&](User& u) {
        r = attention(u, s, Mask{in, k_rows, mask});
      });
  double sum = 0, worst = 0;
  for (std::size_t i = 0; i < k_count; ++i) {
    sum += decode(qkv[i * k_rows + 2 * k_dim], in);
    const double mean = sum / static_cast<double>(i + 1), got = decode(out.token(i)[0] + r.token(i)[0], s.values.out);
    worst = std::max(worst, std::fabs(got / mean - 1));
  }
  fmt::print("worst error {:.4f}\n", worst);
  EXPECT_LT(worst, 0.01);
}

// Longer than a batch of packs (128) and than a block of queries (256): the token that the clear engine chooses, and the
// declared cost to the byte.
class LongPrompt : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Variants, LongPrompt, testing::Values(k_variants[0], k_variants[3], k_variants[4]),
                         [](const auto& variant) { return variant.param.name(); });

TEST_P(LongPrompt, is_fed_in_one_pass) {
  const Plan plan = smollm2_plan(GetParam(), 320);
  std::vector<TokenId> ids;
  for (const GreedyCase& c : greedy_cases()) ids.insert(ids.end(), c.prompt_ids.begin(), c.prompt_ids.end());
  while (ids.size() < 300)
    ids.insert(ids.end(), ids.begin(),
               ids.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(ids.size(), 300 - ids.size())));
  ids.resize(300);
  Rig rig(smollm2().weights, plan, executor());
  rig.deal_for_request(ids.size(), 2);
  rig.user().prompt(ids, greedy);
  const Cost declared = pass_cost(plan, 0, ids.size(), true);
  EXPECT_EQ(rig.traffic().round_trips, declared.rounds);
  EXPECT_EQ(rig.traffic().sent.payload_bytes, declared.online.user_to_provider);
  EXPECT_EQ(rig.traffic().received.payload_bytes, declared.online.provider_to_user);
  ReferenceCache cache;
  const auto logits = reference_forward(smollm2().weights, ids, cache, executor());
  const TokenId chosen = rig.user().retrieve_last();
  const float best = *std::max_element(logits.begin(), logits.end());
  EXPECT_LT(best - logits[chosen], 0.15f);
}

}  // namespace
}  // namespace permllm::test
