// Values beyond the range that the plan was made for: the user tells of them, wherever it sees them, and nothing on the wire does.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "model/chat_format.h"
#include "model/load.h"
#include "model/reference.h"
#include "page/declared.h"
#include "plan/calibrate.h"
#include "provider/offer.h"
#include "support/gguf_writer.h"
#include "support/model.h"
#include "support/rig.h"
#include "support/tiny_models.h"

namespace permllm::test {
namespace {

const std::vector<TokenId> k_quiet{40, 70, 41, 99, 72, 40}, k_wild{40, 70, k_growing, 99, 72, 40};

struct Model {
  IntWeights weights;
  Ranges ranges;  // without the token that grows
};
Model growing(float growth) {
  Model model{load_int_weights(ModelFile(Gguf::parse(tiny_llama({.growth = growth}).finish())), executor()), {}};
  model.ranges = calibrate(model.weights, k_quiet, executor());
  return model;
}
TokenId best_of(const IntWeights& weights, const std::vector<TokenId>& ids) {
  ReferenceCache cache;
  const auto logits = reference_forward(weights, ids, cache, executor());
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

class Beyond : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Variants, Beyond, testing::ValuesIn(k_variants),
                         [](const auto& variant) { return variant.param.name(); });

TEST_P(Beyond, the_range_is_told_of_in_prompt_and_answer_and_changes_no_message) {
  const Model model = growing(1000);
  const Plan plan = Plan::make(model.weights, model.ranges, 32, GetParam().profile, GetParam().fused);
  const auto go_on = [](TokenId) { return true; };
  for (const auto& ids : {k_quiet, k_wild}) {
    Rig rig(model.weights, plan, executor());
    rig.deal_for_request(ids.size(), 4);
    rig.user().prompt(ids, greedy);
    const Cost declared = pass_cost(plan, 0, ids.size(), true);
    EXPECT_EQ(rig.traffic().sent.payload_bytes, declared.online.user_to_provider);
    EXPECT_EQ(rig.traffic().received.payload_bytes, declared.online.provider_to_user);
    EXPECT_EQ(rig.traffic().round_trips, declared.rounds);
    if (ids == k_wild) {
      EXPECT_GT(rig.user().beyond(), 0u);
      continue;
    }
    EXPECT_EQ(rig.user().beyond(), 0u);
    EXPECT_EQ(rig.user().retrieve_last(), best_of(model.weights, ids));
    // A model that says it in its answer: the choice is the sampler's.
    rig.user().advance(go_on, greedy);
    EXPECT_EQ(rig.user().beyond(), 0u);
  }
  Rig rig(model.weights, plan, executor());
  rig.deal_for_request(k_quiet.size(), 8);
  if (!plan.open()) rig.deal(Part::Kind::entry, 4);
  rig.user().prompt(k_quiet, greedy);
  rig.user().advance(go_on, greedy);
  EXPECT_EQ(rig.user().beyond(), 0u);
  const std::size_t before = rig.user().length();
  rig.user().prompt({{k_growing}}, greedy);
  EXPECT_GT(rig.user().beyond(), 0u);
  // What is forgotten is doubted no more.
  rig.user().rewind(before);
  EXPECT_EQ(rig.user().beyond(), 0u);
  rig.user().prompt({{41}}, greedy);
  EXPECT_EQ(rig.user().beyond(), 0u);
}

// Six times its range lies within the rings, whose margin is eight: the answer is still right, and the user has told.
TEST_P(Beyond, the_range_is_told_of_before_anything_wraps) {
  const auto range = static_cast<float>(growing(1).ranges.residual);
  const Model model = growing(6 * range);
  ASSERT_NEAR(model.ranges.residual, double{range}, 0.01 * double{range});
  const Plan plan = Plan::make(model.weights, model.ranges, 32, GetParam().profile, GetParam().fused);
  Rig rig(model.weights, plan, executor());
  rig.deal_for_request(k_wild.size(), 4);
  rig.user().prompt(k_wild, greedy);
  EXPECT_GT(rig.user().beyond(), 0u);
  EXPECT_EQ(rig.user().retrieve_last(), best_of(model.weights, k_wild));
}

// --- Every box of every architecture ----------------------------------------------------------------------------------

struct Range {
  const char* name;
  double LayerRanges::*of_layer;
};
constexpr Range k_ranges[] = {{"qk", &LayerRanges::qk},           {"v", &LayerRanges::v},
                              {"score", &LayerRanges::score},     {"o", &LayerRanges::o},
                              {"down", &LayerRanges::down},       {"activation", &LayerRanges::activation},
                              {"gate_up", &LayerRanges::gate_up}, {"gate_up_raw", &LayerRanges::gate_up_raw},
                              {"qkv_raw", &LayerRanges::qkv_raw}};

// Of which ranges the user sees values.
bool seen(const Plan& p, const std::string& range) {
  const bool post = p.config.post_norm;
  if (range == "qk") return p.open() ? false : p.config.qk_norm;  // open: q and k, or v, whichever is greater
  if (range == "v") return p.open();
  if (range == "score") return !p.open();
  if (range == "o" || range == "down") return post;
  if (range == "gate_up") return !p.raw_up();
  if (range == "gate_up_raw") return p.raw_up();
  if (range == "qkv_raw") return p.raw_qkv();
  return true;
}

// Where a range is 32 times smaller than what there is, as with a calibration that saw none of it, the user tells; where it is right, it does not.
TEST(BeyondEveryRange, is_told_of_in_every_architecture) {
  for (const std::string& name : tiny_model_names()) {
    const TinyModel tiny = tiny_model(name);
    const IntWeights weights = load_int_weights(ModelFile::open(tiny.path), executor());
    const std::vector<TokenId>& ids = tiny.prompts.back().ids;
    const Ranges right = calibrate(weights, ids, executor());
    const Config& c = weights.config;
    for (const Variant& variant : k_variants) {
      if (variant.fused && (c.up_bias || !c.pre_norm || c.norm != NormKind::rms || c.normed_residual)) continue;
      const auto beyond = [&](const Ranges& ranges) {
        const Plan plan = Plan::make(weights, ranges, 40, variant.profile, variant.fused, c.prefix ? 21 : 0);
        Rig rig(weights, plan, executor());
        rig.deal_for_pass(ids.size(), true);
        rig.user().prompt(ids, greedy);
        return rig.user().beyond();
      };
      const Plan plan = Plan::make(weights, right, 40, variant.profile, variant.fused, c.prefix ? 21 : 0);
      EXPECT_EQ(beyond(right), 0u) << name << " " << variant;
      for (const Range& range : k_ranges) {
        if (!seen(plan, range.name)) continue;
        Ranges small = right;
        for (LayerRanges& layer : small.layers) layer.*range.of_layer /= 32;
        EXPECT_GT(beyond(small), 0u) << name << " " << variant << ": " << range.name;
      }
      Ranges small = right;
      (plan.raw_head() ? small.logit_raw : small.logit) /= 32;
      EXPECT_GT(beyond(small), 0u) << name << " " << variant << ": logits";
      small = right;
      small.residual /= 32;
      const bool kept_by_the_user = plan.open() && c.post_norm;
      if (!kept_by_the_user || !c.pre_norm) {
        EXPECT_GT(beyond(small), 0u) << name << " " << variant << ": residual";
      }
    }
  }
}

// --- Real models ------------------------------------------------------------------------------------------------------

// None of it is in the calibration's texts.
constexpr const char* k_prompts[] = {
    "What should I pack for three days of walking in the hills?",
    "Write a Python class that keeps the ten most recent log lines.",
    "fn main() { let v: Vec<u32> = (1..=10).filter(|n| n % 3 == 0).collect(); println!(\"{:?}\", v); }",
    "const total = items.map(({price, count}) => price * count).reduce((a, b) => a + b, 0);",
    "SELECT city, AVG(height) FROM trees WHERE planted < '1950-01-01' GROUP BY city ORDER BY 2 DESC;",
    "{\"station\": \"N-12\", \"readings\": [1013.2, 1009.87, null, -4e-3], \"ok\": true}",
    "\\int_0^1 \\frac{x^2}{\\sqrt{1-x^4}}\\,dx = \\sum_{k=0}^{\\infty} a_k",
    "<table><tr><td class=\"n\">41</td><td>pine &amp; oak</td></tr></table>",
    "name;age;height\nRuta;31;1.68\nBoaz;44;1.81\nIde;7;1.22\n",
    "#include <vector>\ntemplate <class T> T last(const std::vector<T>& v) { return v.back(); }",
    "为什么秋天的树叶会变红？请用两句话说明。",
    "古池のほとりに、蛙が一匹すわっていました。つづきを書いてください。",
    "가을에 나뭇잎이 왜 붉게 변하는지 설명해 주세요.",
    "لماذا يتغير لون أوراق الأشجار في الخريف؟",
    "למה העלים משנים את צבעם בסתיו?",
    "पतझड़ में पत्तों का रंग क्यों बदलता है?",
    "ทำไมใบไม้จึงเปลี่ยนสีในฤดูใบไม้ร่วง",
    "Почему осенью листья становятся красными?",
    "Γιατί τα φύλλα κοκκινίζουν το φθινόπωρο;",
    "Sonbaharda yapraklar neden kızarır? İğde, çınar, şimşir.",
    "Vì sao lá cây đổi màu vào mùa thu?",
    "Чаму восенню лісце робіцца чырвоным, ці ведаеш ты?",
    "🍂🍁🌳🐿️ 👩🏽‍🌾 ➡️ ❄️ ??",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "no no no no no no no no no no no no no no no no no no no no",
    "31415926535897932384626433832795028841971693993751058209",
    "\n\n\n\n        \t\t\n   x\n\n\n",
    "WHO LEFT THE GATE OPEN??? THE SHEEP ARE ON THE ROAD!!!",
    "0xDEADBEEF 7f 45 4c 46 02 01 01 00 ff ff ff ff",
    "aGVsbG8gdGhlcmUsIGdlbnRsZSByZWFkZXI= https://example.org/a/b?c=d&e=%20#f",
    "......,,,,,;;;;;:::::-----_____=====+++++*****(((((",
    "Σ ∀x∈ℝ: ⌊x⌋ ≤ x < ⌊x⌋+1 ⇒ ½·¾ ≠ ⅞ °C ™ ©",
};

struct RealModel {
  const char* name;
  const char* path;
  bool large;
};
std::ostream& operator<<(std::ostream& out, const RealModel& m) { return out << m.name; }
class RealRanges : public testing::TestWithParam<RealModel> {};
INSTANTIATE_TEST_SUITE_P(All, RealRanges,
                         testing::Values(RealModel{"smollm2_135m", PERMLLM_TEST_MODEL, false},
                                         RealModel{"gemma3_270m", PERMLLM_GEMMA, false},
                                         RealModel{"qwen25_coder_05b", PERMLLM_QWEN_05B, true},
                                         RealModel{"qwen25_coder_15b", PERMLLM_QWEN_15B, true}),
                         [](const auto& p) { return p.param.name; });

// What prompts in other scripts and kinds of text reach, over what the calibration found: below the bound at which users are told.
TEST_P(RealRanges, hold_prompts_that_the_calibration_knows_nothing_of) {
  if (GetParam().large && std::getenv("PERMLLM_LARGE") == nullptr) GTEST_SKIP() << "make test-large asks it";
  const OfferedModel model =
      offer_model(GetParam().path, {.context = 256, .profile = Profile::open, .fused = {}}, executor());
  const Tokenizer tokenizer(model.vocabulary);
  const ChatFormat chat = ChatFormat::chosen("", model.vocabulary), raw = ChatFormat::named("none");
  const Ranges& have = model.plan.ranges;
  std::map<std::string, std::pair<double, std::string>> worst;  // by kind: the greatest ratio, and where
  std::vector<double> of_layer(have.layers.size());
  for (std::size_t i = 0; i < std::size(k_prompts); ++i) {
    const auto note = [&](const std::string& kind, double seen, double range, std::size_t layer) {
      if (range == 0) {
        EXPECT_EQ(seen, 0) << kind;
        return;
      }
      if (layer < of_layer.size()) of_layer[layer] = std::max(of_layer[layer], seen / range);
      if (seen / range > worst[kind].first) worst[kind] = {seen / range, fmt::format("layer {}, prompt {}", layer, i)};
    };
    std::vector<TokenId> ids = (i % 2 == 0 ? chat : raw).encode(tokenizer, {{"user", k_prompts[i]}});
    ids.resize(std::min<std::size_t>(ids.size(), 96));
    const Ranges seen = calibrate(model.weights, ids, executor());
    note("residual", seen.residual, have.residual, SIZE_MAX);
    note("logits", seen.logit, have.logit, SIZE_MAX);
    note("raw logits", seen.logit_raw, have.logit_raw, SIZE_MAX);
    for (std::size_t l = 0; l < have.layers.size(); ++l) {
      for (const Range& range : k_ranges)
        note(range.name, seen.layers[l].*range.of_layer, have.layers[l].*range.of_layer, l);
    }
  }
  for (const auto& [kind, of] : worst) {
    fmt::print("{} {}: up to {:.2f} times the range ({})\n", GetParam().name, kind, of.first, of.second);
    EXPECT_LT(of.first, k_told_margin) << kind;
  }
  fmt::print("{} by layer: {:.2f}\n", GetParam().name, fmt::join(of_layer, " "));
}

}  // namespace
}  // namespace permllm::test
