// The simulation of what a user sees, against real sessions: with a session's coins it shows the same numbers in the same places.
#include "audit/witness.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <numeric>
#include <tuple>

#include "model/load.h"
#include "plan/calibrate.h"
#include "support/rig.h"
#include "support/tiny_models.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

using Place = std::tuple<Site, std::uint16_t, std::uint32_t, std::size_t>;  // site, layer, slot or pass, row
using Rows = std::map<Place, std::vector<std::int64_t>>;

Rows seen_in_session(const IntWeights& weights, const Plan& plan, const std::vector<TokenId>& prompt,
                     std::uint8_t seed = 1) {
  Executor executor(1);
  Rows rows;
  Rig rig(weights, plan, executor, seed);
  rig.user().observe([&](const Seen& seen) {
    rows[{seen.site, seen.layer, seen.index, seen.row}].assign(seen.values.begin(), seen.values.end());
  });
  rig.deal_for_pass(prompt.size(), true);
  rig.user().prompt(prompt, greedy);
  return rows;
}

Rows simulated(const IntWeights& weights, const Plan& plan, const std::vector<TokenId>& prompt, std::uint8_t seed = 1) {
  Executor executor(2);
  const AesCoins user(seed_of(seed)), provider(seed_of(static_cast<std::uint8_t>(seed + 1)));
  Rows rows;
  std::mutex mutex;
  Witness w{user, provider, executor, prompt.size()};
  w.shown = [&](const Showing& showing) {
    const Seen& seen = showing.seen;
    const std::lock_guard lock(mutex);
    rows[{seen.site, seen.layer, seen.index, seen.row}].assign(seen.values.begin(), seen.values.end());
  };
  run_witness_pass(w, plan, weights, run_witness(w, plan, weights, prompt, plan.config.layers));
  return rows;
}

TEST(Witness, with_the_coins_of_a_session_it_sees_what_its_user_saw) {
  for (const bool fused : {false, true}) {
    const Plan plan = tiny_plan(Profile::paper, fused);
    const std::vector<TokenId> prompt{5, 6, 7, 8};
    const Rows real = seen_in_session(tiny_weights(), plan, prompt);
    EXPECT_GT(real.size(), 30u);
    EXPECT_EQ(real, simulated(tiny_weights(), plan, prompt)) << fused;
    EXPECT_NE(real, simulated(tiny_weights(), plan, prompt, 3)) << fused;  // with other coins not
  }
}

// Of every architecture, with prompts longer than windows.
TEST(Witness, of_every_architecture) {
  Executor executor(2);
  std::size_t compared = 0;
  for (const std::string& name : tiny_model_names()) {
    const TinyModel model = tiny_model(name);
    const std::vector<TokenId>& prompt = model.prompts.back().ids;
    const IntWeights weights = load_int_weights(ModelFile::open(model.path), executor);
    const Plan plan = Plan::make(weights, calibrate(weights, prompt, executor), 40, Profile::paper, false,
                                 weights.config.prefix ? 21 : 0);
    if (weights.config.prefix) {
      EXPECT_THROW(simulated(weights, plan, prompt), Error) << name;
      continue;
    }
    // Where the user's part of p.v is split otherwise, one value in 2^16 is cut to another unit: of these coins none.
    constexpr std::uint8_t k_seed = 5;
    const Rows real = seen_in_session(weights, plan, prompt, k_seed), made = simulated(weights, plan, prompt, k_seed);
    ASSERT_EQ(real.size(), made.size()) << name;
    for (const auto& [place, row] : real) {
      const auto& [site, layer, index, part] = place;
      ASSERT_TRUE(made.contains(place));
      EXPECT_EQ(row, made.at(place)) << name << ", site " << static_cast<int>(site) << ", layer " << layer << ", "
                                     << index << ", " << part;
    }
    ++compared;
  }
  EXPECT_GE(compared, 15u);
}

// In profile fast the user's part of a shown score is drawn afresh: a score may differ by a unit, and what is made of it by as little.
TEST(Witness, scores_in_order_differ_by_a_unit_at_most) {
  const Plan plan = tiny_plan(Profile::fast);
  const std::vector<TokenId> prompt{5, 6, 7, 8};
  const Rows real = seen_in_session(tiny_weights(), plan, prompt), ours = simulated(tiny_weights(), plan, prompt);
  ASSERT_EQ(real.size(), ours.size());
  std::size_t equal = 0, all = 0;
  for (const auto& [place, row] : real) {
    const auto& [site, layer, index, head] = place;
    ASSERT_TRUE(ours.contains(place));
    const auto& other = ours.at(place);
    ASSERT_EQ(row.size(), other.size());
    if (site != Site::scores || layer != 0) continue;
    const Ring ring = attention_shape(plan, 0).head().shown.sent();
    for (std::size_t j = 0; j < row.size(); ++j, ++all) {
      const std::int64_t off = centre(static_cast<Word>(row[j] - other[j]), ring);
      EXPECT_LE(std::abs(off), 1) << index << " " << head << " " << j;
      equal += off == 0 ? 1 : 0;
    }
  }
  EXPECT_GT(equal, all / 4);
  EXPECT_LT(equal, all);
}

// Repeats are sessions of their own: nothing that one draws is another's.
TEST(Witness, repeats_show_the_same_values_in_fresh_orders_and_roundings) {
  Executor executor(2);
  const Plan plan = tiny_plan();
  const AesCoins user(seed_of(1)), provider(seed_of(2));
  Witness w{user, provider, executor, 2, 50};
  std::mutex mutex;
  std::map<std::uint32_t, std::vector<std::int64_t>> rows;
  std::map<std::uint32_t, Permutation> orders;
  double most = 0;
  w.shown = [&](const Showing& showing) {
    if (showing.seen.site != Site::mlp_norm || showing.seen.layer != 0 || showing.seen.index % 2 == 0) return;
    const std::lock_guard lock(mutex);
    const auto n = showing.seen.values.size();
    std::vector<std::int64_t>& row = rows[showing.seen.index];
    row.resize(n);
    orders[showing.seen.index] = showing.order.pi;
    for (std::size_t j = 0; j < n; ++j) {
      row[showing.order.pi[j]] = showing.seen.values[j];
      // What was rounded lies between D - 1 and D units above what is seen.
      const double exact = static_cast<double>(centre(showing.exact[showing.order.pi[j]], plan.residual)) *
                           power_of_two(-plan.norm_reveal().drop);
      const double above = exact - static_cast<double>(showing.seen.values[j]);
      most = std::max(most, std::abs(above - showing.part[j] + 0.5));
    }
  };
  run_witness(w, plan, tiny_weights(), std::vector<TokenId>{5, 6}, 1);
  EXPECT_LE(most, 0.5);
  ASSERT_EQ(rows.size(), 50u);
  std::size_t moved = 0, other_order = 0;
  for (const auto& [index, row] : rows) {
    for (std::size_t j = 0; j < row.size(); ++j) {
      EXPECT_LE(std::abs(row[j] - rows.begin()->second[j]), 4000) << index;  // of 2^-16
      moved += row[j] != rows.begin()->second[j] ? 1 : 0;
    }
    other_order += orders[index] != orders.begin()->second ? 1 : 0;
  }
  EXPECT_GT(moved, 100u);
  EXPECT_EQ(other_order, 49u);
}

// Of each cut: the coin decides, whatever the user knows. Without the coin the user's own bits decide alone.
TEST(Witness, roundings_are_decided_by_the_coin) {
  Executor executor(2);
  for (const bool coined : {true, false}) {
    for (const Profile profile : {Profile::paper, Profile::fast}) {
      const Plan plan = tiny_plan(profile);
      const AesCoins user(seed_of(1)), provider(seed_of(2));
      Witness w{user, provider, executor, 2, 200};
      w.coined = coined;
      std::mutex mutex;
      struct Sums {
        double n = 0, x = 0, y = 0, xx = 0, yy = 0, xy = 0;
        double share() const {
          const double c = n * xy - x * y;
          return c * c / (n * xx - x * x) / (n * yy - y * y);
        }
      };
      std::map<Site, Sums> sums;
      w.rounded = [&](const Rounding& rounding) {
        const std::lock_guard lock(mutex);
        Sums& s = sums[rounding.cut.site];
        for (std::size_t j = 0; j < rounding.own.size(); ++j) {
          const double x = rounding.own[j], y = rounding.off[j];
          EXPECT_LE(std::abs(y), 1);
          s.n += 1, s.x += x, s.y += y, s.xx += x * x, s.yy += y * y, s.xy += x * y;
        }
      };
      run_witness(w, plan, tiny_weights(), std::vector<TokenId>{5, 6}, 2);
      ASSERT_EQ(sums.size(), 3u);
      for (const auto& [site, s] : sums) {
        if (coined) {
          EXPECT_LT(s.share(), 20 / s.n) << static_cast<int>(site);
        } else {
          EXPECT_GT(s.share(), 0.3) << static_cast<int>(site);
        }
      }
    }
  }
}

}  // namespace
}  // namespace permllm::test
