// Exhaustive check of cuts in tiny rings: whose low bits decide the rounding of what the user sees the outcome of.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "protocol/attention.h"
#include "support/protocol_check.h"

namespace permllm::test {
namespace {

// Over all coins, what comes out has one distribution whatever the user's own coins are.
bool outcome_is_independent(const Views& views) {
  for (const auto& [own, outcome] : views.learnt) {
    if (outcome != views.learnt.begin()->second) return false;
  }
  return views.learnt.size() > 1;
}

// How far apart the outcome's distributions are for two values of the user's coins, at most: statistical distance.
double dependence(const Views& views) {
  std::set<Histogram> different;
  for (const auto& [own, outcome] : views.learnt) different.insert(outcome);
  const auto total = [](const Histogram& h) {
    std::size_t sum = 0;
    for (const auto& [value, count] : h) sum += count;
    return static_cast<double>(sum);
  };
  double most = 0;
  for (const Histogram& a : different) {
    for (const Histogram& b : different) {
      double more = 0;  // what a has beyond b
      for (const auto& [value, count] : a) {
        const auto at = b.find(value);
        const double in_a = static_cast<double>(count) / total(a),
                     in_b = at == b.end() ? 0 : static_cast<double>(at->second) / total(b);
        more += std::max(0.0, in_a - in_b);
      }
      most = std::max(most, more);
    }
  }
  return most;
}

// --- The box ------------------------------------------------------------------------------------------------------------

// A cut of one word: the shares of what comes out.
struct Outcome {
  Word provider = 0, user = 0;
};

// What is cut has out.bits + cut bits. W: the words that are cut.
template <class W>
auto secret_box(const SecretCutShape& s) {
  return [s](Enumeration& e, const Words& x) {
    const Ring whole{s.out.bits + s.open + s.secret};
    const Words x1 = e.mask(1, whole), x0 = e.provider_share(x, x1, whole);
    const auto m = [&](const Coins& coins) { return coins.words(cut_at(Use::cut_mask, s, 0), 1, s.out); };
    e.run.offline([&](Helper& h) {
      const std::vector<W> known(x1.begin(), x1.end());
      const auto r = s.sent ? cut_masks<W>(h.with_user, s, 0) : known;
      secret_cut<W>(h, s, 0, r, m(h.with_user));
    });
    Outcome z;
    e.run.online(
        [&](Provider& p) {
          std::vector<W> y{cut_openly(static_cast<W>(x0[0]), s)};
          if (s.sent) y[0] += p.user.receive(MaskedMix<W>{expect<W>(s.in(), 1)}).d.words[0];
          z.provider = secret_cut<W>(p, s, 0, y)[0];
        },
        [&](User& u) {
          std::vector<W> d{cut_openly(static_cast<W>(x1[0]), s)};
          if (s.sent) {
            secret_cut<W>(u, s, 0, d);
            u.provider.send(MaskedMix<W>{block(s.in(), d)});
          }
          z.user = m(u.with_helper)[0];
        });
    e.user_learns.push_back(static_cast<std::uint8_t>((z.provider + z.user) & s.out.mask()));
  };
}

// Each shifts its own part, and the user's goes to the provider under r.
auto shifted_box(int cut_bits, Ring out) {
  return [=](Enumeration& e, const Words& x) {
    const Ring whole{out.bits + cut_bits};
    const Words x1 = e.mask(1, whole), x0 = e.provider_share(x, x1, whole);
    Outcome z;
    e.run.online(
        [&](Provider& p) {
          z.provider = cut(x0[0], cut_bits) + p.user.receive(MaskedMix<Word>{expect(out, 1)}).d.words[0];
        },
        [&](User& u) {
          z.user = u.with_helper.words({Use::value_mask, Site::scores}, 1, out)[0];
          u.provider.send(MaskedMix<Word>{block(out, Words{cut(x1[0], cut_bits) - z.user})});
        });
    e.user_learns.push_back(static_cast<std::uint8_t>((z.provider + z.user) & out.mask()));
  };
}

constexpr Ring k_two{2};
const SecretCutShape k_sent{Site::mixed, 0, 1, 0, 2, k_two}, k_half_open{Site::mixed, 0, 1, 2, 1, k_two},
    k_known = known_cut(Site::values, 0, 1, 2, k_two);

// Every word of a ring of so many bits.
std::vector<Words> all_words(int bits) {
  std::vector<Words> words;
  for (Word x = 0; x <= Ring{bits}.mask(); ++x) words.push_back({x});
  return words;
}
template <class Box>
Views views_of(const Box& box, const Words& x, const Rewrite& provider = nullptr, const Rewrite& user = nullptr) {
  return enumerate([&](Enumeration& e) { box(e, x); }, {0, 1}, user, provider);
}

TEST(SecretCut, is_the_floor_or_one_more_as_often_as_a_uniform_number_below_the_unit_says) {
  const auto check = [](const auto& box, int cut_bits) {
    for (const Words& x : all_words(2 + cut_bits)) {
      Histogram all;
      for (const auto& [own, outcome] : views_of(box, x).learnt) {
        for (const auto& [value, count] : outcome) all[value] += count;
      }
      std::size_t total = 0;
      for (const auto& [value, count] : all) total += count;
      const auto floor = static_cast<std::uint8_t>(x[0] >> cut_bits), more = static_cast<std::uint8_t>((floor + 1) & 3);
      EXPECT_EQ(all[{floor}] + all[{more}], total);
      EXPECT_EQ(all[{more}] << cut_bits, total * ((x[0] & Ring{cut_bits}.mask()) + 1)) << x[0];
    }
  };
  check(secret_box<Word>(k_sent), 2);
  check(secret_box<Wide>(k_sent), 2);
  check(secret_box<Word>(k_half_open), 3);
  check(secret_box<Wide>(k_half_open), 3);
  check(secret_box<Word>(k_known), 2);
  check(shifted_box(2, k_two), 2);
}

TEST(SecretCut, shows_the_provider_nothing) {
  // Its share of x (4 bits), delta (2), d (4), fix (2).
  EXPECT_TRUE(provider_learns_nothing(secret_box<Word>(k_sent), all_words(4), 1 << 12));
  EXPECT_TRUE(provider_learns_nothing(secret_box<Wide>(k_sent), all_words(4), 1 << 12));
  // Its share (5), delta (1), d (3), fix (2).
  EXPECT_TRUE(provider_learns_nothing(secret_box<Word>(k_half_open), all_words(5), 1 << 11));
  // Its share (4), delta (2), fix (2).
  EXPECT_TRUE(provider_learns_nothing(secret_box<Word>(k_known), all_words(4), 1 << 8));
}
TEST(SecretCut, without_a_mask_shows_the_provider_something) {
  for (const Use use : {Use::cut_sent, Use::cut_mask})
    EXPECT_FALSE(provider_learns_nothing(secret_box<Word>(k_sent), {{0}, {5}}, 1 << 12, without(use)));
  EXPECT_FALSE(provider_learns_nothing(secret_box<Word>(k_known), {{0}, {5}}, 1 << 8, without(Use::cut_mask)));
}

TEST(SecretCut, the_users_own_coins_do_not_decide_the_rounding) {
  for (const Words& x : all_words(4)) {
    EXPECT_TRUE(outcome_is_independent(views_of(secret_box<Word>(k_sent), x))) << x[0];
    EXPECT_TRUE(outcome_is_independent(views_of(secret_box<Wide>(k_sent), x))) << x[0];
    EXPECT_TRUE(outcome_is_independent(views_of(secret_box<Word>(k_known), x))) << x[0];
  }
}
// A value whose low bits are all ones is one more than its floor whatever decides.
TEST(SecretCut, a_part_that_each_shifts_is_rounded_by_the_users_own_coins) {
  for (const Words& x : all_words(4)) {
    const double whole = (x[0] & 3) == 3 ? 0 : 1;
    EXPECT_EQ(dependence(views_of(shifted_box(2, k_two), x)), whole) << x[0];
    // And so is this one where the coin that the user has not is left out.
    EXPECT_EQ(dependence(views_of(secret_box<Word>(k_sent), x, without(Use::cut_coin))), whole) << x[0];
    EXPECT_EQ(dependence(views_of(secret_box<Word>(k_known), x, without(Use::cut_coin))), whole) << x[0];
  }
}
// What the user cuts by itself moves the outcome by less than 2^-secret of a unit.
TEST(SecretCut, bits_that_each_cuts_by_itself_decide_as_little_as_the_rest_leaves) {
  for (const Words& x : all_words(5)) {
    EXPECT_LE(dependence(views_of(secret_box<Word>(k_half_open), x)), 0.5) << x[0];
    EXPECT_EQ(dependence(views_of(secret_box<Word>(k_half_open), x, without(Use::cut_coin))), (x[0] & 7) == 7 ? 0 : 1);
  }
  EXPECT_GT(dependence(views_of(secret_box<Word>(k_half_open), {0})), 0.25);
}

TEST(SecretCut, leaves_open_what_the_last_byte_has_no_room_for) {
  const auto shape = [](int cut, int out) { return sent_cut(Site::scores, 0, 1, cut, Ring{out}); };
  EXPECT_EQ(shape(24, 40).secret, 16);  // 7 bytes
  EXPECT_EQ(shape(24, 40).open, 8);
  EXPECT_EQ(shape(18, 41).secret, 18);  // 59 bits, 8 bytes
  EXPECT_EQ(shape(30, 41).secret, 23);  // 64 bits
  EXPECT_EQ(shape(7, 40).secret, 7);
  EXPECT_EQ(shape(7, 40).open, 0);
  EXPECT_EQ(shape(0, 40).secret, 0);
}

// --- In the rings of a model ----------------------------------------------------------------------------------------------

// Coins of which delta is left out: then the user's own low bits decide, as where each shifts its own part.
class Undecided : public AesCoins {
 public:
  using AesCoins::AesCoins;

 protected:
  void fill(Address address, Ring ring, std::span<Word> out) const override {
    AesCoins::fill(address, ring, out);
    if (address.use == Use::cut_coin) std::fill(out.begin(), out.end(), Word{0});
  }
};

// The share of the variance of what a cut adds to x / 2^t that the low bits explain of what the user knows, of its own part or of r: the
// greater of two squared correlations over many words.
template <class W, class ProviderCoins>
double explained(const SecretCutShape& s) {
  const auto seed = [](std::uint8_t n) { return Seed{std::array<std::uint8_t, Seed::k_bytes>{n}}; };
  AesCoins user(seed(1)), helper_user(seed(1));
  ProviderCoins helper_provider(seed(2)), provider(seed(2));
  const int cut_bits = s.open + s.secret;
  const AesCoins any(seed(3));
  const auto x1 = any.words<W>({Use::last_row, Site::qkv}, s.size, Ring{s.out.bits + cut_bits});
  const Words x = any.words({Use::last_row, Site::o}, s.size, Ring{s.out.bits + cut_bits - 2});
  const Words m = helper_user.words(cut_at(Use::cut_mask, s, 0), s.size, s.out);
  Fibers fibers;
  BoxRun run(user, helper_user, helper_provider, provider, {0, 1}, fibers);
  run.offline([&](Helper& h) {
    const auto r = s.sent ? cut_masks<W>(h.with_user, s, 0) : x1;
    secret_cut<W>(h, s, 0, r, m);
  });
  Words z;
  run.online(
      [&](Provider& p) {
        std::vector<W> y(s.size), d(s.size);
        if (s.sent) d = p.user.receive(MaskedMix<W>{expect<W>(s.in(), s.size)}).d.words;
        for (std::size_t j = 0; j < s.size; ++j) y[j] = cut_openly(static_cast<W>(W{x[j]} - x1[j]), s) + d[j];
        z = secret_cut<W>(p, s, 0, y);
      },
      [&](User& u) {
        std::vector<W> d = x1;
        for (W& word : d) word = cut_openly(word, s);
        secret_cut<W>(u, s, 0, d);
        if (s.sent) u.provider.send(MaskedMix<W>{block(s.in(), d)});
      });
  const auto fraction = [](W word, int bits) {
    return static_cast<double>(static_cast<Word>(word) & Ring{bits}.mask()) * power_of_two(-bits);
  };
  std::vector<double> e, own, of_r;
  const auto r = cut_masks<W>(user, s, 0);
  for (std::size_t j = 0; j < s.size; ++j) {
    const auto floor = static_cast<std::int64_t>(x[j] >> cut_bits), more = centre(z[j] + m[j], s.out) - floor;
    EXPECT_TRUE(more == 0 || more == 1);
    e.push_back(static_cast<double>(more) - fraction(x[j], cut_bits));
    own.push_back(fraction(x1[j] + half_unit(cut_bits), cut_bits));
    of_r.push_back(fraction(r[j] + half_unit(s.secret), s.secret));
  }
  const auto covariance = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0, sum_a = 0, sum_b = 0;
    for (std::size_t j = 0; j < a.size(); ++j) sum += a[j] * b[j], sum_a += a[j], sum_b += b[j];
    const auto n = static_cast<double>(a.size());
    return sum / n - sum_a / n * sum_b / n;
  };
  const auto share = [&](const std::vector<double>& known) {
    return std::pow(covariance(e, known), 2) / covariance(e, e) / covariance(known, known);
  };
  return std::max(share(own), share(of_r));
}

TEST(SecretCut, in_the_rings_of_a_model_the_users_low_bits_explain_nothing) {
  constexpr std::size_t k_words = 100000;
  // Chance alone explains 1 / k_words.
  const auto check = []<class W>(W, const SecretCutShape& s) {
    EXPECT_LT((explained<W, AesCoins>(s)), 20.0 / k_words);
    EXPECT_NEAR((explained<W, Undecided>(s)), 0.5, 0.02);
  };
  check(Word{}, sent_cut(Site::scores, 0, k_words, 23, Ring{40}));
  check(Word{}, sent_cut(Site::mixed, 0, k_words, 18, Ring{41}));
  check(Wide{}, sent_cut(Site::mixed, 0, k_words, 18, Ring{56}));
  check(Word{}, known_cut(Site::values, 0, k_words, 22, Ring{40}));
}

// --- Where it is used -----------------------------------------------------------------------------------------------------

std::uint8_t byte_of(Word x, Ring ring) { return static_cast<std::uint8_t>(x & ring.mask()); }

// q and k of three bits, of which two are cut. Input: q, k.
void rotated_box(Enumeration& e, const Words& qk) {
  const HeadShape s = one_entry_head(2, Ring{1}, 0, Ring{3});
  const Words x1 = e.mask(2, Ring{3}), x0 = e.provider_share(qk, x1, Ring{3});
  Masked q0;
  e.run.offline([&](Helper& h) { scores_send(h, s); });
  e.run.online(
      [&](Provider& p) {
        q0 = scores_send(p, s, Masked{{Ring{3}, 0}, 3, {x0[0], x0[1], 0}});
      },
      [&](User& u) {
        scores_send(u, s, Mask{{Ring{3}, 0}, 3, {x1[0], x1[1], 0}});
        scores_receive(u, s);
        const Words b = query_masks(u.with_helper, Use::score_rotated, s, 0);
        e.user_learns.push_back(byte_of(q0.words[0] + b[0], Ring{1}));
        e.user_learns.push_back(byte_of(e.run.provider_keys()[0].key[0] + e.run.user_keys()[0].mask[0], Ring{1}));
      });
}
// v of four bits, of which two are cut; alpha is -1 or 0. Input: v.
void lifted_box(Enumeration& e, const Words& v) {
  const ValuesShape s{.head = one_entry_head(0, Ring{1}, 2, k_two), .mixed = Ring{1}, .cut = 0, .out = {Ring{1}, 0}};
  const Words x1 = e.mask(1, Ring{4}), x0 = e.provider_share(v, x1, Ring{4});
  e.run.offline([&](Helper& h) { values_lift(h, s, Mask{{Ring{4}, 0}, 3, {0, 0, x1[0]}}); });
  e.run.online(
      [&](Provider& p) {
        values_lift(p, s, Masked{{Ring{4}, 0}, 3, {0, 0, x0[0]}});
      },
      [&](User& u) { values_lift(u, s); });
  e.user_learns.push_back(byte_of(e.run.user_keys()[0].lift[0], Ring{8}));
}
// p.v of three bits, of which two are cut, with v lifted before: v - alpha is 1, alpha 0 or -1 (a ring of two bits). Input: p.
template <class W>
void mixed_box(Enumeration& e, const Words& p) {
  const ValuesShape s{.head = one_entry_head(0, Ring{1}, 0, k_two), .mixed = Ring{3}, .cut = 2, .out = {Ring{1}, 0}};
  const Words rp = e.mask(1, Ring{3}), p0 = e.provider_share(p, rp, Ring{3});
  const auto as_w = [](const Words& words) { return std::vector<W>(words.begin(), words.end()); };
  Masked out;
  Mask m;
  e.run.offline([&](Helper& h) { values<W>(h, s, MaskOf<W>{{s.mixed, 0}, 1, as_w(rp)}); });
  e.run.online(
      [&](Provider& provider) {
        provider.keys[0].lift = lift_alpha(provider.with_helper, s, 0);
        values_reshare<W>(provider, s);
        out = values(provider, s, MaskedOf<W>{{s.mixed, 0}, 1, as_w(p0)});
      },
      [&](User& user) {
        user.keys[0].lift = {1};
        values_reshare<W>(user, s);
        m = values(user, s, MaskOf<W>{{s.mixed, 0}, 1, as_w(rp)});
      });
  e.user_learns.push_back(byte_of(out.words[0] + m.words[0], Ring{1}));
}
// In profile fast; p is 1, of two bits before the point, which are cut. Input: v of four bits.
void fast_box(Enumeration& e, const Words& v) {
  AttentionShape s;
  s.values = {.head = one_entry_head(0, Ring{1}, 0, Ring{4}), .mixed = Ring{3}, .cut = 2, .out = {Ring{1}, 0}};
  s.fast = true;
  const Words x1{0, 0, 0}, x0{0, 0, v[0]};
  Masked out;
  Mask m;
  e.run.offline([&](Helper& h) { attention(h, s, Mask{{Ring{4}, 0}, 3, x1}); });
  e.run.online(
      [&](Provider& p) {
        out = attention(p, s, Masked{{Ring{4}, 0}, 3, x0});
      },
      [&](User& u) {
        m = attention(u, s, Mask{{Ring{4}, 0}, 3, x1});
      });
  e.user_learns.push_back(byte_of(out.words[0] + m.words[0], Ring{1}));
}
// Of the coins that decide something there; the others only hide shares.
Rewrite only(std::set<Use> uses) {
  return [=](Address a) { return uses.contains(a.use) ? std::optional(a) : std::nullopt; };
}
const Rewrite k_fast_users = only({Use::value_share, Use::value_mask, Use::cut_sent});

TEST(SecretCut, decides_the_rounding_of_q_k_v_and_of_what_they_come_to) {
  for (const Words& x : std::vector<Words>{{0, 0}, {3, 6}}) {
    EXPECT_TRUE(outcome_is_independent(views_of(rotated_box, x, without(Use::score_sent))));
    EXPECT_EQ(dependence(views_of(rotated_box, x,
                                  [](Address a) {
                                    return a.use == Use::score_sent || a.use == Use::cut_coin ? std::nullopt
                                                                                              : std::optional(a);
                                  })),
              1);
  }
  for (const Words& x : std::vector<Words>{{0}, {5}}) {
    EXPECT_TRUE(outcome_is_independent(views_of(lifted_box, x)));
    EXPECT_GT(dependence(views_of(lifted_box, x, without(Use::cut_coin))), 0.4);
    const auto mixed = [](const auto& box, const Words& p, bool coin) {
      const Rewrite provider = only(coin ? std::set<Use>{Use::cut_coin} : std::set<Use>{});
      return views_of(box, p, provider, without(Use::value_reshared));
    };
    EXPECT_TRUE(outcome_is_independent(mixed(mixed_box<Word>, x, true)));
    EXPECT_TRUE(outcome_is_independent(mixed(mixed_box<Wide>, x, true)));
    EXPECT_EQ(dependence(mixed(mixed_box<Word>, x, false)), 1);
    EXPECT_TRUE(outcome_is_independent(views_of(fast_box, x, only({Use::cut_coin}), k_fast_users)));
    EXPECT_EQ(dependence(views_of(fast_box, x, only({}), k_fast_users)), 1);
  }
}

}  // namespace
}  // namespace permllm::test
