// What the provider receives in real sessions: the same sizes for every prompt of a length, and uniform words. The harness is
// seen to flag a session in which one mask is left out. And what the user sees there: what the table of leaks says of the plan.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

#include "support/leaks.h"
#include "support/links.h"
#include "support/model.h"
#include "support/rig.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

// Statistics that uniform words stay within, save once in millions: in standard deviations from what uniform words give.
struct Uniformity {
  double bytes, top_bit, low_bit, correlation;
  bool good() const { return bytes < 6 && top_bit < 6 && low_bit < 6 && correlation < 6; }
};
using AnyWords = std::vector<Wide>;
Uniformity uniformity(const AnyWords& words, Ring ring) {
  std::array<double, 256> count{};
  double total = 0, top = 0, low = 0, product = 0, squares = 0, before = 0;
  for (const Wide word : words) {
    for (int bit = 0; bit + 8 <= ring.bits; bit += 8, ++total) ++count[static_cast<std::size_t>((word >> bit) & 255)];
    top += static_cast<double>(static_cast<Word>(word >> (ring.bits - 1)) & 1);
    low += static_cast<double>(static_cast<Word>(word) & 1);
    const double centred = std::ldexp(static_cast<double>(word), 1 - ring.bits) - 1;
    product += centred * before;
    squares += centred * centred;
    before = centred;
  }
  double chi = 0;
  for (const double c : count) chi += (c - total / 256) * (c - total / 256) / (total / 256);
  const double n = static_cast<double>(words.size()), bit = std::sqrt(n) / 2;
  return {std::fabs(chi - 255) / std::sqrt(510.0), std::fabs(top - n / 2) / bit, std::fabs(low - n / 2) / bit,
          std::fabs(product / squares) * std::sqrt(n)};
}

// Messages of one kind, with the ring of their words.
struct Kind {
  std::string name;
  Ring ring;
  friend auto operator<=>(const Kind& a, const Kind& b) {
    return std::pair(a.name, a.ring.bits) <=> std::pair(b.name, b.ring.bits);
  }
};

// What the provider receives online in a pass over a prompt, message by message; the first carries no words.
std::vector<Kind> messages_of(const Plan& p) {
  if (p.open()) {
    std::vector<Kind> kinds{{"pass", {}}, {"handed rows", p.residual}};
    for (std::size_t l = 0; l < p.config.layers; ++l)
      kinds.insert(kinds.end(), {{"handed attention", p.o(l)}, {"handed activation", p.down(l)}});
    kinds.push_back({"last row", p.residual});
    return kinds;
  }
  std::vector<Kind> kinds{{"pass", {}}, {"one-hots", p.embed}, {"embedding rows", p.embed}, {"residual", p.residual}};
  for (std::size_t l = 0; l < p.config.layers; ++l) {
    kinds.push_back({"attention norm", p.qkv(l)});
    if (p.hides_positions) kinds.push_back({"places", attention_shape(p, l).head().turned().ring});
    kinds.push_back({"rotated q and k", attention_shape(p, l).head().rotated_cut().in()});
    if (p.profile == Profile::fast) {
      kinds.insert(kinds.end(), {{"probabilities", p.mixed(l)}, {"p.v", attention_shape(p, l).values.mix_cut().in()}});
    } else {
      kinds.insert(kinds.end(), {{"re-shared v", p.mixed(l)},
                                 {"scores", p.qk(l)},
                                 {"softmax", p.mixed(l)},
                                 {"p.v", attention_shape(p, l).values.mix_cut().in()}});
    }
    if (!p.fused) kinds.push_back({"mlp norm", p.up(l)});
    kinds.push_back({"mlp", p.down(l)});
  }
  kinds.insert(kinds.end(), {{"last row", p.residual}, {"final norm", p.head}, {"one-hot of the answer", p.embed}});
  return kinds;
}

struct Session {
  std::vector<Frame> online;
  Bytes from_helper, from_user;
};

Session run(const IntWeights& weights, const Plan& plan, const std::vector<TokenId>& ids, std::uint8_t seed,
            const LeakyCoins::LeftOut& left_out = nullptr) {
  Session session;
  Rig rig(
      weights, plan, executor(), seed,
      [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
        return std::make_unique<Recording>(std::move(link), session.online);
      },
      nullptr, left_out);
  rig.deal_for_pass(ids.size(), true);
  rig.user().prompt(ids, greedy);
  session.from_helper = rig.offline(Stock::Source::helper);
  session.from_user = rig.offline(Stock::Source::user);
  return session;
}
Session run(const std::vector<TokenId>& ids, std::uint8_t seed, const LeakyCoins::LeftOut& left_out = nullptr) {
  return run(smollm2().weights, smollm2().plan, ids, seed, left_out);
}

void read(std::map<Kind, AnyWords>& into, const Kind& kind, const std::uint8_t* from, std::size_t bytes) {
  AnyWords words(bytes / kind.ring.bytes());
  unpack(from, kind.ring, std::span<Wide>(words));
  // A word has no bit above its ring.
  Bytes again(bytes);
  pack(std::span<const Wide>(words), kind.ring, again.data());
  EXPECT_TRUE(std::equal(again.begin(), again.end(), from)) << kind.name;
  AnyWords& all = into[kind];
  all.insert(all.end(), words.begin(), words.end());
}

// All words that the provider received online, by kind of message.
std::map<Kind, AnyWords> online_words(const Session& session, const Plan& plan) {
  const auto kinds = messages_of(plan);
  EXPECT_EQ(session.online.size(), kinds.size());
  std::map<Kind, AnyWords> words;
  for (std::size_t i = 1; i < std::min(kinds.size(), session.online.size()); ++i) {
    read(words, kinds[i], session.online[i].payload.data(), session.online[i].payload.size());
  }
  return words;
}

// All words that the provider received from the user offline, by matrix.
std::map<Kind, AnyWords> offline_words(const Session& session, const Plan& plan, std::size_t tokens) {
  std::map<Kind, AnyWords> words;
  std::size_t at = 0;
  const auto take = [&](const char* name, const LinearShape& s) {
    const std::size_t bytes = s.rows * s.out.ring.bytes();
    ASSERT_LE(at + bytes, session.from_user.size());
    read(words, {name, s.out.ring}, session.from_user.data() + at, bytes);
    at += bytes;
  };
  if (plan.open()) {
    EXPECT_EQ(session.from_user.size(), 0u);
    return words;
  }
  for (std::size_t i = 0; i < tokens; ++i) take("prompt embedding", embed_linear_shape(plan, Site::prompt_embed));
  for (std::size_t l = 0; l < plan.config.layers; ++l) {
    for (std::size_t i = 0; i < tokens; ++i) {
      take("qkv", qkv_shape(plan, l));
      take("o", o_shape(plan, l));
      take("up", up_shape(plan, l));
      take("down", down_shape(plan, l));
    }
  }
  take("head", head_shape(plan));
  take("next embedding", embed_linear_shape(plan, Site::next_embed));
  EXPECT_EQ(at, session.from_user.size());
  return words;
}

// Names of the kinds that do not look uniform.
std::set<std::string> flagged(const std::map<Kind, AnyWords>& words) {
  std::set<std::string> names;
  for (const auto& [kind, all] : words) {
    if (!uniformity(all, kind.ring).good()) names.insert(kind.name);
  }
  return names;
}

std::vector<TokenId> five_tokens() {
  const auto cases = greedy_cases();
  return {cases[4].prompt_ids.begin(), cases[4].prompt_ids.begin() + 5};
}

class ViewsOf : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Variants, ViewsOf, testing::ValuesIn(k_variants),
                         [](const auto& variant) { return variant.param.name(); });

INSTANTIATE_TEST_SUITE_P(Choices, ViewsOf, testing::Values(k_hidden_variant, k_checked_variant),
                         [](const auto& variant) { return variant.param.name(); });

TEST_P(ViewsOf, the_provider_receives_uniform_words_of_the_same_sizes_whatever_the_prompt_is) {
  const Plan plan = smollm2_plan(GetParam());
  const IntWeights& weights = smollm2().weights;
  const Session one = run(weights, plan, five_tokens(), 11), two = run(weights, plan, std::vector<TokenId>(5, 198), 21);
  ASSERT_EQ(one.online.size(), two.online.size());
  for (std::size_t i = 0; i < one.online.size(); ++i) {
    EXPECT_EQ(one.online[i].tag, two.online[i].tag);
    EXPECT_EQ(one.online[i].payload.size(), two.online[i].payload.size());
  }
  EXPECT_EQ(one.from_helper.size(), two.from_helper.size());
  EXPECT_EQ(one.from_user.size(), two.from_user.size());
  for (const Session* s : {&one, &two}) {
    EXPECT_EQ(flagged(online_words(*s, plan)), std::set<std::string>{});
    EXPECT_EQ(flagged(offline_words(*s, plan, 5)), std::set<std::string>{});
  }
}

// The own-coin rule in the real rings: each message that the provider receives has a coin of its own. Without that coin
// alone, with all others as they were, every word of the message differs, by a uniform word.
TEST_P(ViewsOf, every_word_is_covered_by_a_coin_of_its_own) {
  Plan plan = tiny_plan(GetParam().profile, GetParam().fused);
  plan.hides_positions = GetParam().hides_positions;
  plan.checked = GetParam().checked;
  const std::vector<TokenId> ids{5, 6, 7, 8};
  const auto words = [&](const LeakyCoins::LeftOut& left_out) {
    return online_words(run(tiny_weights(), plan, ids, 41, left_out), plan);
  };
  const auto whole = words(nullptr);
  const std::vector<std::pair<Use, std::set<std::string>>> coins{
      {Use::one_hot, {"one-hots"}},
      {Use::embed_row, {"embedding rows"}},
      {Use::turn_place, {"places"}},
      {Use::map_answer,
       {"residual", "attention norm", "softmax", "mlp norm", "mlp", "final norm", "one-hot of the answer"}},
      {Use::value_reshared, {"re-shared v"}},
      {Use::score_mask, {"scores"}},
      {Use::cut_sent, {"rotated q and k", "p.v"}},
      {Use::last_row, {"last row"}},
      {Use::value_answer, {"probabilities"}},
      {Use::handed, {"handed rows", "handed attention", "handed activation"}},
  };
  std::set<std::string> covered;
  for (const auto& [use, names] : coins) {
    covered.insert(names.begin(), names.end());
    const auto bare = words([use = use](Address a) { return a.use == use; });
    for (const auto& [kind, all] : whole) {
      if (!names.contains(kind.name)) continue;
      const AnyWords& other = bare.at(kind);
      // A uniform difference is this small once in 256 words; one that comes of a cut upstream is nearly always.
      const Wide small = Wide{1} << (kind.ring.bits - 9);
      std::size_t near = 0;
      for (std::size_t i = 0; i < all.size(); ++i)
        near += ((all[i] - other[i] + small) & kind.ring.mask<Wide>()) < 2 * small ? 1 : 0;
      EXPECT_LE(near, all.size() / 50 + 3) << kind.name;
    }
  }
  for (const auto& [kind, all] : whole) EXPECT_TRUE(covered.contains(kind.name)) << kind.name;
}

SeenRows rows_seen(const IntWeights& weights, const Plan& plan, const std::vector<TokenId>& ids) {
  SeenRows rows;
  Rig rig(weights, plan, executor());
  rig.user().observe([&](const Seen& seen) { add_to(rows, seen); });
  rig.deal_for_pass(ids.size(), true);
  rig.user().prompt(ids, greedy);
  if (!plan.open()) {
    rig.deal_for_pass(1, false);
    rig.user().advance([](TokenId) { return true; }, greedy);
  }
  return rows;
}

// And nothing else, under no other plan. (Every architecture: architectures_test.cpp.)
TEST(Views, the_user_sees_what_the_table_says_of_the_plan) {
  for (const Variant& variant : k_variants) {
    const Plan plan = tiny_plan(variant.profile, variant.fused);
    const SeenRows rows = rows_seen(tiny_weights(), plan, {5, 6, 7, 8});
    EXPECT_EQ(rows, declared_rows(plan)) << variant;
    for (const Variant& other : k_variants) {
      EXPECT_EQ(rows == declared_rows(tiny_plan(other.profile, other.fused)), other.name() == variant.name())
          << variant << " as " << other;
    }
  }
}

// One token, asked again and again by users of fresh seeds: how much of what moves in the row behind attention the low bits explain that each
// user's own part had where v and p.v were cut. Of the row its sum is looked at, which no order changes.
double explained_by_own_bits(const Plan& plan, const LeakyCoins::LeftOut& left_out = nullptr) {
  constexpr std::size_t k_times = 250;
  const AttentionShape s = attention_shape(plan, 0);
  const SecretCutShape v = s.head().value_cut(), mixed = s.values.mix_cut();
  EXPECT_LE(s.values.mixed.bits, 64);
  std::vector<double> moved;
  std::vector<std::vector<double>> own(v.size + mixed.size);
  for (std::size_t n = 0; n < k_times; ++n) {
    Rig rig(tiny_weights(), plan, executor(), static_cast<std::uint8_t>(n), nullptr, nullptr, left_out);
    rig.user().observe([&](const Seen& seen) {
      if (seen.site != Site::mlp_norm || seen.layer != 0) return;
      double sum = 0;
      for (const std::int64_t x : seen.values) sum += static_cast<double>(x);
      moved.push_back(sum);
    });
    rig.deal_for_pass(1, true);
    rig.user().prompt(std::vector<TokenId>{5}, greedy);
    const Words of_v = rig.user_coins().words({Use::linear_mask, Site::qkv}, plan.config.qkv_rows(), plan.qkv(0)),
                of_mixed = cut_masks<Word>(rig.user_coins(), mixed, 0);
    for (std::size_t j = 0; j < own.size(); ++j) {
      const Word word = j < v.size ? of_v[of_v.size() - v.size + j] : of_mixed[j - v.size];
      const int bits = j < v.size ? v.secret : mixed.secret;  // half a unit more than they are they decide
      own[j].push_back(static_cast<double>((word + half_unit(bits)) & Ring{bits}.mask()));
    }
  }
  EXPECT_EQ(moved.size(), k_times);
  const auto centred = [](std::vector<double> all) {
    double sum = 0;
    for (const double x : all) sum += x;
    for (double& x : all) x -= sum / static_cast<double>(all.size());
    return all;
  };
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  // The bits are independent of one another, so what they explain adds up; less what chance does.
  const std::vector<double> y = centred(moved);
  double explained = -static_cast<double>(own.size()) / k_times;
  for (const auto& bits : own) {
    const std::vector<double> x = centred(bits);
    explained += dot(x, y) * dot(x, y) / dot(x, x) / dot(y, y);
  }
  return explained;
}
TEST(Views, what_moves_as_a_prompt_is_repeated_is_not_explained_by_the_users_own_bits) {
  for (const Variant& variant : k_variants) {
    if (variant.profile == Profile::open) continue;
    const Plan plan = tiny_plan(variant.profile, variant.fused);
    EXPECT_NEAR(explained_by_own_bits(plan), 0, 0.1) << variant;
    // As where each party shifts its own part.
    EXPECT_GT(explained_by_own_bits(plan, [](Address a) { return a.use == Use::cut_coin; }), 0.4) << variant;
  }
}

// Every message that a forgotten mask lays bare is flagged, and no other. (What hides a share that is uniform by itself, as
// b and m of the scores do, shows in no statistics of one session.)
TEST(Views, a_session_without_a_mask_is_flagged) {
  const Plan& plan = smollm2().plan;
  const auto words = [&](Use use) {
    return flagged(online_words(run(five_tokens(), 31, [use](Address a) { return a.use == use; }), plan));
  };
  const Plan open = smollm2_plan({Profile::open, false}), fast = smollm2_plan({Profile::fast, true});
  const auto words_of = [&](const Plan& other, Use use) {
    return flagged(online_words(
        run(smollm2().weights, other, five_tokens(), 31, [use](Address a) { return a.use == use; }), other));
  };
  EXPECT_EQ(words_of(open, Use::handed),
            (std::set<std::string>{"handed rows", "handed attention", "handed activation"}));
  EXPECT_EQ(words_of(fast, Use::value_answer), (std::set<std::string>{"probabilities"}));
  EXPECT_EQ(words(Use::one_hot), (std::set<std::string>{"one-hots"}));
  EXPECT_EQ(words(Use::map_answer), (std::set<std::string>{"residual", "attention norm", "softmax", "mlp norm", "mlp",
                                                           "final norm", "one-hot of the answer"}));
}

TEST(Views, a_mask_used_twice_is_flagged) {
  // Two prompts under the same coins: the difference of what the provider receives is bare.
  const Plan& plan = smollm2().plan;
  auto one = online_words(run(five_tokens(), 31), plan),
       two = online_words(run(std::vector<TokenId>(5, 198), 31), plan);
  for (auto& [kind, all] : one) {
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = (all[i] - two[kind][i]) & kind.ring.mask<Wide>();
  }
  const auto names = flagged(one);
  for (const char* name : {"one-hots", "residual", "attention norm", "softmax", "mlp norm", "mlp", "final norm"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

// All payloads of a message in one row of bytes.
std::map<std::uint16_t, Bytes> by_tag(const std::vector<Frame>& frames) {
  std::map<std::uint16_t, Bytes> all;
  for (const Frame& f : frames) all[f.tag].insert(all[f.tag].end(), f.payload.begin(), f.payload.end());
  return all;
}

// What crosses on the wire under fixed seeds, as one hash a direction and message. A change of the wire is a change of
// tests/data/wire.baseline in the same commit.
std::string wire_of(const Variant& variant) {
  Executor own(1);
  Plan plan = tiny_plan(variant.profile, variant.fused);
  plan.hides_positions = variant.hides_positions;
  plan.checked = variant.checked;
  std::vector<Frame> to_provider, to_user;
  Rig rig(
      tiny_weights(), plan, own, 1,
      [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
        return std::make_unique<Recording>(std::move(link), to_provider);
      },
      [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
        return std::make_unique<Recording>(std::move(link), to_user);
      });
  rig.deal_for_request(3, plan.hides_positions ? 5 : 3, plan.hides_positions);
  rig.user().prompt(std::vector<TokenId>{5, 6, 7}, [](auto) { return std::size_t{11}; });
  rig.user().advance([](TokenId) { return true; }, [](auto) { return std::size_t{12}; });
  rig.user().retrieve_last();
  if (plan.hides_positions) {
    rig.user().advance(
        std::vector<TokenId>{8}, [](TokenId) { return true; }, [](auto) { return std::size_t{13}; });
  }
  std::string text;
  const auto add = [&](const std::string& name, const Bytes& bytes) {
    text += fmt::format("{}: {} {} {:.16}\n", variant.name(), name, bytes.size(), hash_hex("wire baseline", bytes));
  };
  add("helper>provider offline", rig.offline(Stock::Source::helper));
  add("user>provider offline", rig.offline(Stock::Source::user));
  for (const auto& [tag, bytes] : by_tag(to_provider))
    add(fmt::format("user>provider {}", name_of(static_cast<Tag>(tag))), bytes);
  for (const auto& [tag, bytes] : by_tag(to_user))
    add(fmt::format("provider>user {}", name_of(static_cast<Tag>(tag))), bytes);
  return text;
}

TEST(Views, the_wire_is_what_the_baseline_says) {
  std::string text;
  for (const Variant& variant : k_variants) text += wire_of(variant);
  text += wire_of(k_hidden_variant) + wire_of(k_checked_variant);
  const std::string path = std::string(PERMLLM_TEST_DATA) + "/wire.baseline";
  if (std::getenv("PERMLLM_WRITE_BASELINE") != nullptr) std::ofstream(path) << text;
  std::ifstream in(path);
  const std::string baseline((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  EXPECT_EQ(text, baseline);
}

}  // namespace
}  // namespace permllm::test
