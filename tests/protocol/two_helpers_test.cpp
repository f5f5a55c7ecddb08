// Two helpers, neither trusted alone (docs/protocol.md 8), in tiny rings. Every correlation but that of a secret cut is linear in the user's coins, so each
// helper runs the box that there is, with coins of its own, and the user's are the sum. Over all coins: what provider and one helper see together has
// one distribution whatever the user's values are. Each check is seen to fail where one coin of the other helper is missing.
#include <gtest/gtest.h>

#include <array>
#include <set>

#include "protocol/mlp.h"
#include "protocol/turn.h"
#include "support/protocol_check.h"

namespace permllm::test {
namespace {

// What the user derives from its seeds with both helpers.
class SumOfCoins : public Coins {
 public:
  SumOfCoins(const Coins& first, const Coins& second) : first_(first), second_(second) {}
  Permutation permutation(Address address, std::size_t n) const override { return first_.permutation(address, n); }

 protected:
  void fill(Address address, Ring ring, std::span<Word> out) const override {
    const Words other = second_.words(address, out.size(), ring);
    first_.words(address, ring, out);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = (out[i] + other[i]) & ring.mask();
  }
  void fill(Address, Ring, std::span<Wide>) const override { PERMLLM_ASSERT(false); }

 private:
  const Coins &first_, &second_;
};

using View = std::vector<std::uint8_t>;

// One box with two helpers: masks before it, what each helper deals, what provider and user do online.
struct TwoHelpers {
  std::array<EnumeratedCoins*, 2> helpers;
  Coins &user, &helper_provider, &provider;
  Fibers& fibers;
  Ring ring;
  std::array<Bytes, 2> dealt = {};
  Bytes from_user = {}, received = {};
  View holds = {};

  Words mask_of(const Coins& coins, std::size_t n) const {
    return coins.words({Use::last_row, Site::qkv, 0, 0}, n, ring);
  }
  Words share(const Words& value) {
    const Words mask = mask_of(user, value.size());
    Words share(value.size());
    for (std::size_t i = 0; i < value.size(); ++i) {
      share[i] = (value[i] - mask[i]) & ring.mask();
      holds.push_back(static_cast<std::uint8_t>(share[i]));
    }
    return share;
  }
  // deal: one helper's part, with its part of the mask of n words.
  void run(std::size_t n, const std::function<void(Helper&, const Words& mask)>& deal,
           const std::function<void(UserDealer&)>& prepare, const std::function<void(Provider&)>& provide,
           const std::function<void(User&)>& use) {
    const Batch batch{0, 1};
    Executor executor(1);
    Timeline timeline;
    timeline.append(true);
    for (std::size_t i = 0; i < 2; ++i) {
      Helper helper{*helpers[i], helper_provider, executor, batch, std::vector<Writer>(1)};
      deal(helper, mask_of(*helpers[i], n));
      dealt[i] = helper.packs[0].take();
    }
    UserDealer dealer{user, executor, batch, std::vector<Writer>(1)};
    if (prepare) prepare(dealer);
    from_user = dealer.packs[0].take();
    // Words of these rings are a byte each; what is above a ring does not count.
    Bytes sum = dealt[0];
    ASSERT_EQ(dealt[0].size(), dealt[1].size());
    for (std::size_t i = 0; i < sum.size(); ++i)
      sum[i] = static_cast<std::uint8_t>((sum[i] + dealt[1][i]) & ring.mask());
    std::vector<ProviderKeys> provider_keys(1);
    std::vector<UserKeys> user_keys(1);
    const auto helper_pack = std::make_shared<const Bytes>(sum), user_pack = std::make_shared<const Bytes>(from_user);
    fibers.clear();
    fibers.run(
        [&](Link& link) {
          Channel channel(link, 7, std::chrono::seconds(5));
          Provider p{channel, provider, executor, timeline, provider_keys, batch, {}, 0};
          p.packs.push_back({Reader("helpers", *helper_pack), Reader("user", *user_pack), helper_pack, user_pack});
          provide(p);
        },
        [&](Link& link) {
          Channel channel(link, 7, std::chrono::seconds(5));
          User u{channel, user, timeline, user_keys, executor, batch, nullptr, 0};
          use(u);
        });
    for (const Frame& frame : fibers.received(0))
      received.insert(received.end(), frame.payload.begin(), frame.payload.end());
  }
};
using Box = std::function<void(TwoHelpers&, const Words& input)>;

// Of provider and one helper together, and of one helper alone, over all coins. without: coins of the second helper that are left out.
struct Joint {
  Histogram with_first, with_second;
};
Joint enumerate(const Box& box, Ring ring, const Words& input, const Rewrite& without = nullptr) {
  Joint joint;
  Odometer odometer;
  Fibers fibers;
  do {
    PairCoins first{odometer}, second{odometer, without}, with_provider{odometer};
    EnumeratedCoins of_first(first), of_second(second), helper_provider(with_provider), provider(with_provider);
    SumOfCoins user(of_first, of_second);
    TwoHelpers run{{&of_first, &of_second}, user, helper_provider, provider, fibers, ring};
    box(run, input);
    const auto view = [&](const PairCoins& pair, const Bytes& of_other) {
      View all = pair.view();
      for (const View& more : {with_provider.view(), run.holds, of_other, run.from_user, run.received})
        all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    ++joint.with_first[view(first, run.dealt[1])];
    ++joint.with_second[view(second, run.dealt[0])];
  } while (odometer.next());
  return joint;
}
// Neither helper, together with the provider, can tell the inputs apart.
bool neither_learns(const Box& box, Ring ring, const std::vector<Words>& inputs, const Rewrite& without = nullptr) {
  const Joint want = enumerate(box, ring, inputs[0], without);
  bool good = true;
  for (std::size_t i = 1; i < inputs.size(); ++i) {
    const Joint joint = enumerate(box, ring, inputs[i], without);
    good = good && joint.with_first == want.with_first && joint.with_second == want.with_second;
  }
  return good;
}

void linear_box(TwoHelpers& t, const Words& x) {
  const LinearShape s{Site::qkv, 0, 1, 2, {t.ring, 0}};
  const TinyMatrix u{1, 2, {3, 1}}, v{1, 2, {2, 2}}, w{1, 2, {1, 3}};
  const Words x0 = t.share(x), r = t.mask_of(t.user, 2);
  Masked y0;
  Mask m;
  t.run(
      2,
      [&](Helper& h, const Words& part) {
        linear(h, s, v, Mask{{t.ring, 0}, 2, part});
      },
      [&](UserDealer& d) {
        linear(d, s, u, Mask{{t.ring, 0}, 2, r});
      },
      [&](Provider& p) {
        y0 = linear(p, s, w, Masked{{t.ring, 0}, 2, x0});
      },
      [&](User& user) {
        m = linear(user, s, NoMatrix{}, Mask{{t.ring, 0}, 2, r});
      });
  EXPECT_EQ((y0.words[0] + m.words[0]) & t.ring.mask(), (x[0] + 3 * x[1]) & t.ring.mask());
}

// One row of one group of two columns, answered by x^2 + 1.
void map_box(TwoHelpers& t, const Words& y) {
  const MapShape s{.site = Site::mlp,
                   .layer = 0,
                   .rows = 1,
                   .groups = 1,
                   .columns = 2,
                   .in = t.ring,
                   .reveal = {0, t.ring.bits},
                   .sign = false,
                   .level = false,
                   .answers = {{Site::mlp, {t.ring, 0}}}};
  const Words y0 = t.share(y);
  std::vector<Masked> b;
  std::vector<Mask> r;
  t.run(
      2,
      [&](Helper& h, const Words& part) {
        permuted_map(h, s, Mask{{s.in, 0}, 2, part});
      },
      nullptr,
      [&](Provider& p) {
        b = permuted_map(p, s, Masked{{s.in, 0}, 2, y0});
      },
      [&](User& u) {
        r = permuted_map(u, s, [&](std::size_t, std::size_t, auto row, auto& out) {
          for (std::size_t j = 0; j < 2; ++j) out[0][j] = static_cast<Word>(row[j] * row[j] + 1);
        });
      });
  for (std::size_t j = 0; j < 2; ++j)
    EXPECT_EQ((b[0].words[j] + r[0].words[j]) & t.ring.mask(), (y[j] * y[j] + 1) & t.ring.mask());
}

// A pair that turns; cos and sin are the user's secret, too.
void turn_box(TwoHelpers& t, const Words& input) {
  const TurnShape s{Site::scores, 0, 2, 2, t.ring};
  const Words y{input[0], input[1]}, c{input[2], input[3]}, y0 = t.share(y), m = t.mask_of(t.user, 2);
  Masked z0;
  Mask z1;
  t.run(
      2, [&](Helper& h, const Words&) { turn(h, s); }, nullptr,
      [&](Provider& p) {
        z0 = turn(p, s, Masked{{t.ring, 0}, 2, y0});
      },
      [&](User& u) {
        z1 = turn(u, s, Mask{{t.ring, 0}, 2, m}, [&](std::size_t) { return c; });
      });
  EXPECT_EQ((z0.words[0] + z1.words[0]) & t.ring.mask(), (y[0] * c[0] - y[1] * c[1]) & t.ring.mask());
  EXPECT_EQ((z0.words[1] + z1.words[1]) & t.ring.mask(), (y[0] * c[1] + y[1] * c[0]) & t.ring.mask());
}

constexpr Ring k_one{1}, k_two{2};

TEST(TwoHelpers, linear_tells_neither_with_the_provider) {
  const std::vector<Words> inputs{{0, 0}, {1, 2}, {3, 3}};
  EXPECT_TRUE(neither_learns(linear_box, k_two, inputs));
  for (const Use use : {Use::last_row, Use::linear_rho, Use::linear_mask})
    EXPECT_FALSE(neither_learns(linear_box, k_two, inputs, without(use))) << static_cast<int>(use);
}
TEST(TwoHelpers, a_permuted_map_tells_neither_with_the_provider) {
  const std::vector<Words> inputs{{0, 1}, {1, 1}};
  EXPECT_TRUE(neither_learns(map_box, k_one, inputs));
  for (const Use use : {Use::map_shown, Use::map_answer})
    EXPECT_FALSE(neither_learns(map_box, k_one, inputs, without(use))) << static_cast<int>(use);
}
TEST(TwoHelpers, a_turn_tells_neither_with_the_provider) {
  const std::vector<Words> inputs{{0, 0, 0, 0}, {1, 0, 1, 0}, {0, 1, 1, 1}};
  EXPECT_TRUE(neither_learns(turn_box, k_one, inputs));
  for (const Use use : {Use::last_row, Use::turn_place})
    EXPECT_FALSE(neither_learns(turn_box, k_one, inputs, without(use))) << static_cast<int>(use);
}

// A cut is not linear: no helper knows the user's r = r1 + r2. Each deals the cut of what it knows, r_i less a coin d_i of its own with the provider, who cuts
// x0 + (x1 - r1 - r2) + d1 + d2: three parts, so that the result is the floor or one or two less. Ring of 3 bits, cut by one.
TEST(TwoHelpers, a_cut_in_three_parts_is_within_two_units_and_the_user_decides_nothing_of_it) {
  constexpr Word k_words = 8;
  constexpr int k_cut = 1;
  const auto floor = [](Word v) { return (v & (k_words - 1)) >> k_cut; };
  const auto outcome = [&](Word x, Word x1, Word r1, Word r2, Word d1, Word d2) {
    const Word x0 = x - x1;
    return (floor(x0 + (x1 - r1 - r2) + d1 + d2) + floor(r1 - d1) + floor(r2 - d2)) % (k_words >> k_cut);
  };
  for (Word x = 0; x < k_words; ++x) {
    std::optional<Histogram> first;
    for (Word own = 0; own < k_words * k_words * k_words; ++own) {  // the user's x1, r1, r2
      Histogram outcomes;
      for (Word coins = 0; coins < k_words * k_words; ++coins) {
        const Word z = outcome(x, own % 8, own / 8 % 8, own / 64, coins % 8, coins / 8);
        EXPECT_LE((floor(x) - z) % (k_words >> k_cut), 2u);
        ++outcomes[{static_cast<std::uint8_t>(z)}];
      }
      if (!first) first = outcomes;
      EXPECT_EQ(outcomes, *first) << x;
    }
  }
  // With a coin of one helper alone the user's other r decides, in part.
  std::set<Histogram> different;
  for (Word own = 0; own < k_words * k_words; ++own) {
    Histogram outcomes;
    for (Word d1 = 0; d1 < k_words; ++d1)
      ++outcomes[{static_cast<std::uint8_t>(outcome(3, own % 8, 0, own / 8, d1, 0))}];
    different.insert(outcomes);
  }
  EXPECT_GT(different.size(), 1u);
}

}  // namespace
}  // namespace permllm::test
