// Every architecture in every profile, on tiny models with random weights, against the independent forward pass in
// tests/reference: the tokens, every number that the user sees, and the cost of every pass.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "model/load.h"
#include "page/declared.h"
#include "plan/calibrate.h"
#include "support/leaks.h"
#include "support/model.h"
#include "support/rig.h"
#include "support/tiny_models.h"

namespace permllm::test {
namespace {

struct Case {
  std::string model;
  Variant variant;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& name : tiny_model_names()) {
    for (const Variant& variant : k_variants) all.push_back({name, variant});
    all.push_back({name, {Profile::paper, false, Retrieval::bfv}});
    all.push_back({name, k_checked_variant});
  }
  return all;
}
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.model << " " << c.variant; }

// What is the same for every variant of a model.
struct Subject {
  TinyModel oracle;
  IntWeights weights;
  Ranges ranges;
};
const Subject& subject(const std::string& name) {
  static std::map<std::string, Subject> all;
  const auto found = all.find(name);
  if (found != all.end()) return found->second;
  Subject s{tiny_model(name), {}, {}};
  s.weights = load_int_weights(ModelFile::open(s.oracle.path), executor());
  s.ranges = calibrate(s.weights, s.oracle.prompts.back().ids, executor());
  return all.emplace(name, std::move(s)).first->second;
}

// Round trips of a layer: docs/protocol.md 5.
std::size_t rounds_of_a_layer(const Plan& plan) {
  const Config& c = plan.config;
  if (plan.open()) return c.post_norm ? 4 : 2;
  return (plan.profile == Profile::fast ? 4u : 6u) - (plan.fused ? 1u : 0u) + (c.qk_norm ? 1u : 0u) +
         (c.post_norm ? 2u : 0u);
}

using Numbers = std::vector<double>;
Numbers sorted(Numbers v) {
  std::sort(v.begin(), v.end());
  return v;
}
Numbers magnitudes(Numbers v) {
  for (double& x : v) x = std::fabs(x);
  return sorted(std::move(v));
}
Numbers part(const Numbers& v, std::size_t begin, std::size_t count) {
  return {v.begin() + static_cast<std::ptrdiff_t>(begin), v.begin() + static_cast<std::ptrdiff_t>(begin + count)};
}
double rms(const Numbers& v) {
  double squares = 0;
  for (const double x : v) squares += x * x;
  return std::sqrt(squares / static_cast<double>(v.size()));
}

// Compares what the user saw in one prompt's pass with the oracle.
class SeenCheck {
 public:
  SeenCheck(const Plan& plan, const IntWeights& weights, const TinyPrompt& oracle)
      : plan_(plan), weights_(weights), c_(plan.config), oracle_(oracle) {}

  void operator()(Seen s) {
    // With prompt slots the prompt's last token comes behind all of them, and dead ones before it.
    if (plan_.prompt_slots != 0 && by_slot(s.site)) {
      if (s.index >= last() && s.index < plan_.prompt_slots) return;
      s.index = static_cast<std::uint32_t>(std::min<std::size_t>(s.index, last()));
    }
    seen_.insert({s.site, s.layer});
    switch (s.site) {
      case Site::embed_residual:
        return same("embed", s, row(s, plan_.embed_frac), oracle("embed", s));
      case Site::attention_norm:
        return same("norm.attn", s, shown(s, plan_.norm_reveal(), plan_.residual_frac), oracle("norm.attn", s));
      case Site::mlp_norm:
        return same("norm.mlp", s, shown(s, plan_.norm_reveal(), plan_.residual_frac), oracle("norm.mlp", s));
      case Site::final_norm:
        return same("norm.final", s, shown(s, plan_.norm_reveal(), plan_.residual_frac),
                    oracle_.at("norm.final", c_.layers, last()));
      case Site::qkv:
        return open_qkv(s);
      case Site::head_norm: {
        const std::size_t begin = s.row * c_.qk_norm_size(0);
        const Numbers qk = part(oracle("qkv", s), begin, c_.qk_norm_size(begin));
        return same("qkv of a head", s, magnitudes(shown(s, plan_.head_norm_reveal(s.layer), plan_.qkv_frac(s.layer))),
                    magnitudes(qk));
      }
      case Site::scores:
        return scores(s);
      case Site::o:
        return same("o", s, shown(s, plan_.o_reveal(s.layer), plan_.o_frac(s.layer)), oracle("o", s));
      case Site::down:
        return same("down", s, shown(s, plan_.down_reveal(s.layer), plan_.down_frac(s.layer)), oracle("down", s));
      case Site::post_attention:
        return same("o", s, magnitudes(shown(s, plan_.o_reveal(s.layer), plan_.o_frac(s.layer))),
                    magnitudes(oracle("o", s)));
      case Site::post_mlp:
        return same("down", s, magnitudes(shown(s, plan_.down_reveal(s.layer), plan_.down_frac(s.layer))),
                    magnitudes(oracle("down", s)));
      case Site::mlp:
      case Site::up:
        return gate_up(s);
      case Site::logits:
      case Site::head:
        return logits(s);
      default:
        ADD_FAILURE() << "the user saw site " << static_cast<int>(s.site);
    }
  }
  std::size_t places() const { return seen_.size(); }
  double worst() const { return worst_; }

 private:
  static bool by_slot(Site site) { return site != Site::final_norm && site != Site::logits; }
  std::size_t last() const { return oracle_.ids.size() - 1; }
  const Numbers& oracle(const char* kind, const Seen& s) const { return oracle_.at(kind, s.layer, s.index); }
  static Numbers row(const Seen& s, int frac) {
    Numbers v;
    for (const std::int64_t x : s.values) v.push_back(std::ldexp(static_cast<double>(x), -frac));
    return v;
  }
  static Numbers shown(const Seen& s, const Reveal& reveal, int frac) { return row(s, frac - reveal.drop); }

  // What the norm before divides by, which the user does with raw products.
  double deviation(const char* kind, std::size_t layer, std::size_t token) const {
    Numbers v = oracle_.at(kind, layer, token);
    if (c_.norm == NormKind::layer) {
      double mean = 0;
      for (const double x : v) mean += x / static_cast<double>(v.size());
      for (double& x : v) x -= mean;
    }
    return std::sqrt(rms(v) * rms(v) + c_.norm_eps);
  }
  // A raw product as the oracle has it: normed, and with the bias that in profile open is the user's.
  Numbers whole(Numbers v, bool raw, double deviation, const std::vector<float>& bias) const {
    for (double& x : v) x /= raw ? deviation : 1;
    for (std::size_t j = 0; plan_.open() && j < bias.size(); ++j) v[j] += double{bias[j]};
    return v;
  }

  void open_qkv(const Seen& s) {
    const Numbers got = whole(shown(s, plan_.qkv_reveal(s.layer), plan_.qkv_frac(s.layer)), plan_.raw_qkv(),
                              deviation("norm.attn", s.layer, s.index), weights_.layer(s.layer).qkv_bias);
    for (std::size_t h = 0; h < c_.heads + 2 * c_.kv_heads; ++h) {
      same("qkv of a head", s, part(got, h * c_.head_dim, c_.head_dim),
           part(oracle("qkv", s), h * c_.head_dim, c_.head_dim));
    }
  }

  void gate_up(const Seen& s) {
    const Numbers got = whole(shown(s, plan_.gate_up_reveal(s.layer), plan_.up_frac(s.layer)), plan_.raw_up(),
                              deviation("norm.mlp", s.layer, s.index), weights_.layer(s.layer).up_bias);
    const Numbers& want = oracle("gate_up", s);
    if (c_.gated) {
      same("gate", s, part(got, 0, c_.ff), part(want, 0, c_.ff));
      same("up", s, magnitudes(part(got, c_.ff, c_.ff)), magnitudes(part(want, c_.ff, c_.ff)));
    } else {
      same("up", s, got, want);
    }
  }
  // Of the keys that the query sees, from the greatest down: the others lie far below.
  void scores(const Seen& s) {
    Numbers want = oracle_.at("score", s.layer, s.index, s.row);
    if (c_.prefix) want.resize(std::max<std::size_t>(s.index + 1, last()));
    if (c_.windowed(s.layer) && want.size() > c_.window)
      want.erase(want.begin(), want.end() - static_cast<std::ptrdiff_t>(c_.window));
    const Ring ring = plan_.score_reveal(s.layer).sent();
    Numbers got;
    for (const std::int64_t x : s.values) {
      const auto word = static_cast<Word>(x) - (c_.score_cap == 0 ? static_cast<Word>(s.values[0]) : 0);
      got.push_back(std::ldexp(static_cast<double>(centre(word, ring)), -plan_.score_frac(s.layer)));
    }
    got = sorted(std::move(got));
    want = sorted(std::move(want));
    ASSERT_GE(got.size(), want.size());
    const Numbers below = part(got, 0, got.size() - want.size());
    got.erase(got.begin(), got.begin() + static_cast<std::ptrdiff_t>(below.size()));
    const double scale = rms(want) + 1;  // differences of scores may be small beside the scores
    if (c_.score_cap == 0) level(got), level(want);
    same("score", s, got, want, scale);
  }
  static void level(Numbers& v) {
    const double greatest = *std::max_element(v.begin(), v.end());
    for (double& x : v) x -= greatest;
  }
  void logits(const Seen& s) {
    const Numbers& want = oracle_.at("logits", c_.layers, last());
    Numbers got;
    for (const std::int64_t x : s.values) {
      const auto word = static_cast<Word>(x) - (plan_.open() || c_.logit_cap != 0 ? 0 : static_cast<Word>(s.values[0]));
      got.push_back(
          std::ldexp(static_cast<double>(centre(word, plan_.logit_reveal().sent())), -plan_.shown_logit_frac()));
    }
    got = whole(got, plan_.raw_head(), deviation("norm.final", c_.layers, last()), weights_.head_bias);
    if (c_.logit_cap != 0) {
      for (double& x : got) x = c_.logit_cap * std::tanh(x / c_.logit_cap);
    }
    Numbers expected = want;
    if (!plan_.open() && c_.logit_cap == 0) level(got), level(expected);
    same("logits", s, got, expected);
  }

  // The same numbers in any order, up to what rounding leaves: in units of the row's rms.
  void same(const char* what, const Seen& s, const Numbers& got, const Numbers& want, double scale = 0) {
    ASSERT_EQ(got.size(), want.size()) << what << " of layer " << s.layer;
    const Numbers a = sorted(got), b = sorted(want);
    if (scale == 0) scale = rms(want) + 0.02;
    for (std::size_t j = 0; j < a.size(); ++j) {
      const double error = std::fabs(a[j] - b[j]) / scale;
      worst_ = std::max(worst_, error);
      ASSERT_LT(error, tolerance_) << what << " of layer " << s.layer << " token " << s.index << ": " << a[j] << " for "
                                   << b[j];
    }
  }

  const Plan& plan_;
  const IntWeights& weights_;
  const Config& c_;
  const TinyPrompt& oracle_;
  std::set<std::pair<Site, std::size_t>> seen_;
  // Gemma's embeddings, times sqrt(width), are no integers of 12 bits as the other weights of the tiny models are.
  const double tolerance_ = c_.architecture.starts_with("gemma") ? 0.1 : 0.03;
  double worst_ = 0;
};

class Architectures : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, Architectures, testing::ValuesIn(cases()), [](const auto& of) {
  std::string name = of.param.model + "_" + of.param.variant.name();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(Architectures, answer_as_the_independent_forward_pass_does_and_cost_what_they_declare) {
  const Subject& s = subject(GetParam().model);
  const Variant& variant = GetParam().variant;
  const Config& c = s.weights.config;
  if (variant.fused && (c.up_bias || !c.pre_norm || c.norm != NormKind::rms || c.normed_residual)) {
    EXPECT_THROW(Plan::make(s.weights, s.ranges, 40, variant.profile, true), Error);
    return;
  }
  Plan plan = Plan::make(s.weights, s.ranges, 40, variant.profile, variant.fused, c.prefix ? 21 : 0);
  plan.retrieval = variant.retrieval;
  plan.checked = variant.checked;
  double worst = 0;
  for (const TinyPrompt& oracle : s.oracle.prompts) {
    Rig rig(s.weights, plan, executor());
    rig.most_dealt_together = 8;  // fewer than a prompt has slots
    SeenCheck check(plan, s.weights, oracle);
    SeenRows rows;
    rig.user().observe([&](const Seen& seen) {
      check(seen);
      add_to(rows, seen);
    });
    const std::size_t n = oracle.ids.size();
    std::size_t offline[2] = {0, 0};
    Traffic before;
    const auto costs = [&](const Cost& declared) {
      const Traffic t = rig.traffic() - before;
      EXPECT_EQ(t.sent.payload_bytes, declared.online.user_to_provider);
      EXPECT_EQ(t.received.payload_bytes, declared.online.provider_to_user);
      EXPECT_EQ(t.round_trips, declared.rounds);
      EXPECT_EQ(rig.offline(Stock::Source::helper).size() - offline[0], declared.offline.helper_to_provider);
      EXPECT_EQ(rig.offline(Stock::Source::user).size() - offline[1], declared.offline.user_to_provider);
      before = rig.traffic();
      offline[0] = rig.offline(Stock::Source::helper).size();
      offline[1] = rig.offline(Stock::Source::user).size();
    };
    rig.deal_for_pass(n, true);
    rig.user().prompt(oracle.ids, greedy);
    costs(pass_cost(plan, 0, n, true));
    EXPECT_GT(check.places(), 3 * c.layers);
    EXPECT_EQ(rows, declared_rows(plan));
    worst = std::max(worst, check.worst());
    rig.user().observe(nullptr);
    for (std::size_t step = 0; step + 1 < oracle.greedy.size(); ++step) {
      rig.deal_for_pass(1, false);
      EXPECT_EQ(rig.user().advance([](TokenId) { return true; }, greedy), oracle.greedy[step])
          << "step " << step << ", gap " << oracle.gaps[step];
      const Cost declared = pass_cost(plan, plan.prompt_rows(n) + step, 1, false);
      costs(declared);
      EXPECT_EQ(declared.rounds, rounds_of_a_layer(plan) * c.layers + (plan.open() ? 1 : 2));
    }
    EXPECT_EQ(rig.user().retrieve_last(), oracle.greedy.back());
  }
  fmt::print("{} {}: largest difference {:.4f} of a row's rms\n", GetParam().model, variant.name(), worst);
}

}  // namespace
}  // namespace permllm::test
