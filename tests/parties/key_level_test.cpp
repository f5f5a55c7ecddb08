// A large bias of k, as Qwen 2.5 has it: what of it moves all scores of a row alike is not carried, and nothing that is said changes.
#include "model/key_level.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model/load.h"
#include "model/reference.h"
#include "plan/calibrate.h"
#include "plan/plan.h"
#include "support/model.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

constexpr std::size_t k_slots = 24;
const std::vector<TokenId> k_ids{1, 5, 3, 7, 2, 6, 4, 1, 5};

IntWeights tiny(const std::string& name) {
  return load_int_weights(ModelFile::open(PERMLLM_TINY_MODELS "/" + name + ".gguf"), executor());
}

// The pairs that turn slowest have a bias of this size.
IntWeights biased(float bias) {
  IntWeights weights = tiny("qwen2");
  const Config& c = weights.config;
  for (auto& layer : weights.layers) {
    for (std::size_t head = 0; head < c.kv_heads; ++head) {
      const std::size_t end = c.q_rows() + (head + 1) * c.head_dim;
      layer.qkv_bias[end - 1] = layer.qkv_bias[end - 2] = bias;
    }
  }
  return weights;
}

double largest_score(const IntWeights& weights) {
  double most = 0;
  for (const LayerRanges& layer : calibrate(weights, k_ids, executor()).layers) most = std::max(most, layer.score);
  return most;
}

TEST(KeyLevel, takes_what_a_bias_adds_to_all_scores_alike) {
  IntWeights weights = biased(2000);
  ReferenceCache with, without;
  const double before = largest_score(weights);
  const auto want = reference_forward(weights, k_ids, with, executor());
  level_keys(weights, k_slots);
  EXPECT_LT(largest_score(weights), before / 5);
  const auto got = reference_forward(weights, k_ids, without, executor());
  for (std::size_t k = 0; k < want.size(); ++k) EXPECT_NEAR(got[k], want[k], 2e-3 * (1 + std::fabs(want[k])));
}

TEST(KeyLevel, is_the_providers_alone_and_changes_no_choice) {
  IntWeights weights = biased(200);
  level_keys(weights, k_slots);
  const Ranges ranges = calibrate(weights, k_ids, executor());
  for (const Profile profile : {Profile::paper, Profile::fast}) {
    const Plan plan = Plan::make(weights, ranges, k_slots, profile);
    Rig rig(weights, plan, executor());
    rig.deal_for_request(k_ids.size(), 4);
    rig.user().prompt(k_ids, greedy);
    ReferenceCache cache;
    std::vector<TokenId> fed = k_ids;
    for (int step = 0; step < 3; ++step) {
      const auto logits = reference_forward(weights, fed, cache, executor());
      const auto best = static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      EXPECT_EQ(rig.user().advance([](TokenId) { return true; }, greedy), best) << name_of(profile) << " " << step;
      fed = {best};
    }
  }
}

TEST(KeyLevel, is_none_where_scores_are_capped_or_k_is_normed) {
  for (const char* name : {"llama", "gemma2", "qwen3", "gemma3"}) {
    IntWeights weights = tiny(name);
    level_keys(weights, k_slots);
    for (const auto& layer : weights.layers) EXPECT_TRUE(layer.key_level.empty()) << name;
  }
}

}  // namespace
}  // namespace permllm::test
