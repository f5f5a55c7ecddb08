// Exhaustive check of Turn in tiny rings: what provider and user see of it, over all coins.
#include "protocol/turn.h"

#include <gtest/gtest.h>

#include "support/protocol_check.h"

namespace permllm::test {
namespace {

// One head of a single pair. Input: the pair, then cos and sin, which the user alone knows.
auto turn_box(int bits) {
  return [bits](Enumeration& e, const Words& input) {
    const TurnShape s{Site::scores, 0, 2, 2, Ring{bits}};
    const Words y{input[0], input[1]}, c{input[2], input[3]}, m = e.mask(2, s.ring);
    e.run.offline([&](Helper& h) { turn(h, s); });
    const Words y0 = e.provider_share(y, m, s.ring);
    Masked z0;
    Mask z1;
    e.run.online(
        [&](Provider& p) {
          z0 = turn(p, s, Masked{{s.ring, 0}, 2, y0});
        },
        [&](User& u) {
          z1 = turn(u, s, Mask{{s.ring, 0}, 2, m}, [&](std::size_t) { return c; });
        });
    EXPECT_EQ((z0.words[0] + z1.words[0]) & s.ring.mask(), (y[0] * c[0] - y[1] * c[1]) & s.ring.mask());
    EXPECT_EQ((z0.words[1] + z1.words[1]) & s.ring.mask(), (y[0] * c[1] + y[1] * c[0]) & s.ring.mask());
    EXPECT_EQ(e.run.measured(), cost(s, {0, 1}));
  };
}
Histogram user_view(const Words& input, const Rewrite& provider = nullptr) {
  return enumerate([&](Enumeration& e) { turn_box(1)(e, input); }, {0, 1}, nullptr, provider).user;
}

TEST(Turn, shows_the_provider_nothing_of_the_angle_or_of_what_turns) {
  // Its share, a, d and x of two words each.
  EXPECT_TRUE(provider_learns_nothing(turn_box(1), {{0, 0, 0, 0}, {1, 0, 1, 0}, {1, 1, 0, 1}, {0, 1, 1, 1}}, 1 << 8));
  EXPECT_TRUE(provider_learns_nothing(turn_box(2), {{0, 0, 0, 0}, {1, 3, 2, 1}}, 1 << 16));
}
TEST(Turn, without_a_mask_fails) {
  for (const Use use : {Use::turn_place, Use::turn_share})
    EXPECT_FALSE(provider_learns_nothing(turn_box(1), {{0, 0, 0, 0}, {1, 0, 1, 1}}, 1 << 8, without(use)));
}
TEST(Turn, shows_the_user_nothing_of_what_turns) {
  for (const Words& c : std::vector<Words>{{1, 0}, {1, 1}}) {
    EXPECT_EQ(user_view({0, 0, c[0], c[1]}), user_view({1, 1, c[0], c[1]}));
    EXPECT_NE(user_view({0, 0, c[0], c[1]}, without(Use::turn_sent)),
              user_view({1, 1, c[0], c[1]}, without(Use::turn_sent)));
  }
}
// The pairs of several heads turn by the same angles, each slot by its own.
TEST(Turn, turns_each_pair_of_every_head_by_its_angle) {
  Words heads{1, 2, 3, 4, 5, 6, 7, 8};
  turn(Words{0, 2, 1, 3}, heads);  // cos 0 and 2, sin 1 and 3
  const auto minus = [](Word x) { return Word{0} - x; };
  EXPECT_EQ(heads, (Words{minus(2), 1, minus(6), 17, minus(6), 5, minus(10), 37}));
}

}  // namespace
}  // namespace permllm::test
