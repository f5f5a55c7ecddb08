// Exhaustive check of views in tiny rings: over all coins, the provider's view (what it holds, draws and receives) is
// uniform whatever the user's values are; the user's depends on them through what the table (plan/leak.h) says of the box and nothing
// else. Each check is seen to fail when a mask is taken away.
#include "plan/leak.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "protocol/attention.h"
#include "protocol/embed.h"
#include "protocol/mlp.h"
#include "protocol/open.h"
#include "protocol/sample.h"
#include "ring/gain.h"
#include "support/protocol_check.h"

namespace permllm::test {
namespace {

template <class Box>
Histogram user_view(const Box& box, const Words& input, const Rewrite& provider = nullptr,
                    const Rewrite& user = nullptr) {
  return enumerate([&](Enumeration& e) { box(e, input); }, {0, 1}, user, provider).user;
}
// Only what is shown: the masks of the answer do not enter the user's view, so they need not be enumerated.
std::optional<Address> shown_only(Address a) {
  return a.use == Use::map_shown || a.use == Use::last_row ? std::optional(a) : std::nullopt;
}

// --- Linear -----------------------------------------------------------------------------------------------------------

constexpr Ring k_two{2};

// W = V + U with one row and two columns; U is no coin of the box (its secrecy is the model owner's).
void linear_box(Enumeration& e, const Words& x) {
  const LinearShape s{Site::qkv, 0, 1, 2, {k_two, 0}};
  const TinyMatrix u{1, 2, {3, 1}}, v{1, 2, {2, 2}}, w{1, 2, {1, 3}};
  const Words r = e.mask(2, k_two);
  e.run.offline(
      [&](Helper& h) {
        linear(h, s, v, Mask{{k_two, 0}, 2, r});
      },
      [&](UserDealer& d) {
        linear(d, s, u, Mask{{k_two, 0}, 2, r});
      });
  const Words x0 = e.provider_share(x, r, k_two);
  Masked y0;
  Mask m;
  e.run.online(
      [&](Provider& p) {
        y0 = linear(p, s, w, Masked{{k_two, 0}, 2, x0});
      },
      [&](User& user) {
        m = linear(user, s, NoMatrix{}, Mask{{k_two, 0}, 2, r});
      });
  EXPECT_EQ((y0.words[0] + m.words[0]) & 3, (x[0] + 3 * x[1]) & 3);
}

TEST(Leak, linear_shows_the_provider_nothing) {
  EXPECT_TRUE(provider_learns_nothing(linear_box, {{0, 0}, {1, 2}, {3, 3}}, 4 * 4 * 4 * 4));  // x0 and two words
}
TEST(Leak, linear_without_rho_shows_the_provider_the_mask) {
  EXPECT_FALSE(provider_learns_nothing(linear_box, {{0, 0}, {1, 2}}, 256, without(Use::linear_rho)));
}
TEST(Leak, linear_without_its_output_mask_fails) {
  EXPECT_FALSE(provider_learns_nothing(linear_box, {{0, 0}, {1, 2}}, 256, without(Use::linear_mask)));
}

// Public weights: the helper holds W.
void public_linear_box(Enumeration& e, const Words& x) {
  const LinearShape s{Site::qkv, 0, 1, 2, {k_two, 0}, true};
  const TinyMatrix w{1, 2, {1, 3}};
  const Words r = e.mask(2, k_two);
  e.run.offline([&](Helper& h) { linear(h, s, w, Mask{{k_two, 0}, 2, r}); });
  const Words x0 = e.provider_share(x, r, k_two);
  Masked y0;
  Mask m;
  e.run.online(
      [&](Provider& p) {
        y0 = linear(p, s, w, Masked{{k_two, 0}, 2, x0});
      },
      [&](User& user) {
        m = linear(user, s, NoMatrix{}, Mask{{k_two, 0}, 2, r});
      });
  EXPECT_EQ((y0.words[0] + m.words[0]) & 3, (x[0] + 3 * x[1]) & 3);
}
TEST(Leak, linear_with_public_weights_shows_the_provider_nothing) {
  EXPECT_TRUE(provider_learns_nothing(public_linear_box, {{0, 0}, {1, 2}, {3, 3}}, 4 * 4 * 4));
  EXPECT_FALSE(provider_learns_nothing(public_linear_box, {{0, 0}, {1, 2}}, 64, without(Use::linear_mask)));
}

// Gains: a diagonal matrix.
void gain_box(Enumeration& e, const Words& x) {
  const LinearShape s{Site::qk_gain, 0, 2, 2, {k_two, 0}};
  const Gain u{{3, 1}, 0}, v{{2, 2}, 0}, g{{1, 3}, 0};
  const Words r = e.mask(2, k_two);
  e.run.offline(
      [&](Helper& h) {
        linear(h, s, v, Mask{{k_two, 0}, 2, r});
      },
      [&](UserDealer& d) {
        linear(d, s, u, Mask{{k_two, 0}, 2, r});
      });
  const Words x0 = e.provider_share(x, r, k_two);
  Masked y0;
  Mask m;
  e.run.online(
      [&](Provider& p) {
        y0 = linear(p, s, g, Masked{{k_two, 0}, 2, x0});
      },
      [&](User& user) {
        m = linear(user, s, g, Mask{{k_two, 0}, 2, r});
      });
  for (std::size_t j = 0; j < 2; ++j) EXPECT_EQ((y0.words[j] + m.words[j]) & 3, (g.words[j] * x[j]) & 3);
}
TEST(Leak, a_gain_shows_the_provider_nothing) {
  EXPECT_TRUE(provider_learns_nothing(gain_box, {{0, 0}, {1, 2}, {3, 3}}, 4096));  // x0 and four words
  for (const Use use : {Use::linear_rho, Use::linear_mask})
    EXPECT_FALSE(provider_learns_nothing(gain_box, {{0, 0}, {1, 2}}, 4096, without(use)));
}

// --- PermutedMap ------------------------------------------------------------------------------------------------------

// One row of `groups` x 2 in the ring 2^bits, shown whole, answered by x^2 + 1 (first group) times the last group.
auto map_box(std::size_t groups, int bits, bool sign, bool level, std::size_t answers = 1) {
  return [=](Enumeration& e, const Words& y) {
    MapShape s{.site = Site::mlp,
               .layer = 0,
               .rows = 1,
               .groups = groups,
               .columns = 2,
               .in = Ring{bits},
               .reveal = {0, bits},
               .sign = sign,
               .level = level,
               .answers = {{Site::mlp, {Ring{bits}, 0}}}};
    if (answers == 2) s.answers.push_back({Site::mlp_norm, {Ring{bits}, 0}});
    const Words m = e.mask(y.size(), Ring{bits});
    e.run.offline([&](Helper& h) { permuted_map(h, s, Mask{{s.in, 0}, m.size(), m}); });
    const Words y0 = e.provider_share(y, m, Ring{bits});
    std::vector<Masked> b;
    std::vector<Mask> r;
    e.run.online(
        [&](Provider& p) {
          b = permuted_map(p, s, Masked{{s.in, 0}, y0.size(), y0});
        },
        [&](User& u) {
          r = permuted_map(u, s, [&](std::size_t, std::size_t, auto row, auto& out) {
            for (std::size_t k = 0; k < out.size(); ++k) {
              for (std::size_t j = 0; j < 2; ++j)
                out[k][j] = static_cast<Word>(row[j] * row[j] + 1) * static_cast<Word>(groups == 2 ? row[2 + j] : 1);
            }
          });
        });
    for (std::size_t k = 0; k < answers; ++k) {
      for (std::size_t j = 0; j < 2 && !level; ++j) {
        const Word value = (y[j] * y[j] + 1) * (groups == 2 ? y[2 + j] : 1);
        EXPECT_EQ((b[k].words[j] + r[k].words[j]) & Ring{bits}.mask(), value & Ring{bits}.mask());
      }
    }
  };
}

TEST(Leak, permuted_map_shows_the_provider_nothing) {
  // pi (2) times the provider's share, s0, w and b: eight words of two bits.
  EXPECT_TRUE(provider_learns_nothing(map_box(1, 2, false, false), {{0, 0}, {1, 2}, {3, 1}}, 2 * 65536));
}
TEST(Leak, permuted_map_with_signs_shows_the_provider_nothing) {
  // pi, two signs; share and s0 of four bits each, w and b of two.
  EXPECT_TRUE(provider_learns_nothing(map_box(2, 1, true, false), {{0, 0, 0, 0}, {1, 0, 1, 1}}, 2 * 4 * 4096));
}
TEST(Leak, permuted_map_with_two_answers_shows_the_provider_nothing) {
  EXPECT_TRUE(provider_learns_nothing(map_box(1, 1, false, false, 2), {{0, 0}, {1, 0}, {1, 1}}, 2 * 4096));
}
// Rows of their own orders and signs, as the norm of heads has them: two, the last with `fewer` columns, answered by themselves.
auto rows_box(std::size_t columns, std::size_t fewer, Ring ring, bool sign) {
  return [=](Enumeration& e, const Words& y) {
    const MapShape s{.site = Site::head_norm,
                     .layer = 0,
                     .rows = 2,
                     .columns = columns,
                     .fewer = fewer,
                     .in = ring,
                     .reveal = {0, ring.bits},
                     .sign = sign,
                     .answers = {{Site::head_norm, {ring, 0}}}};
    const Words m = e.mask(y.size(), ring);
    e.run.offline([&](Helper& h) { permuted_map(h, s, Mask{{ring, 0}, m.size(), m}); });
    const Words y0 = e.provider_share(y, m, ring);
    std::vector<Masked> b;
    std::vector<Mask> r;
    e.run.online(
        [&](Provider& p) {
          b = permuted_map(p, s, Masked{{ring, 0}, y0.size(), y0});
        },
        [&](User& u) {
          r = permuted_map(u, s, [&](std::size_t, std::size_t, auto row, auto& out) {
            for (std::size_t j = 0; j < row.size(); ++j) out[0][j] = static_cast<Word>(row[j]);
          });
        });
    for (std::size_t j = 0; j < y.size(); ++j) EXPECT_EQ((b[0].words[j] + r[0].words[j]) & ring.mask(), y[j]);
  };
}
TEST(Leak, permuted_map_of_several_rows_shows_the_provider_nothing) {
  const auto box = rows_box(1, 0, k_two, true);
  EXPECT_TRUE(provider_learns_nothing(box, {{0, 0}, {1, 2}, {3, 1}},
                                      4 * 65536));  // two signs; share, s0, w and b of four bits
  EXPECT_FALSE(provider_learns_nothing(box, {{0, 0}, {1, 2}}, 4 * 65536, without(Use::map_answer)));
}
TEST(Leak, permuted_map_hides_the_signs_of_each_row) {
  const auto box = rows_box(1, 0, k_two, true);
  EXPECT_EQ(user_view(box, {1, 2}, nullptr, shown_only), user_view(box, {3, 2}, nullptr, shown_only));
  EXPECT_NE(user_view(box, {1, 2}, without(Use::map_sign), shown_only),
            user_view(box, {3, 2}, without(Use::map_sign), shown_only));
}
// As the norms of all queries, and of fewer keys, have them: rows of two columns and of one.
TEST(Leak, permuted_map_with_a_shorter_last_row_shows_the_provider_nothing_and_the_user_no_order) {
  const auto bits = rows_box(2, 1, Ring{1}, false);
  EXPECT_TRUE(provider_learns_nothing(bits, {{0, 0, 0}, {1, 0, 1}, {0, 1, 1}},
                                      2 * 4096));  // pi; share, s0, w and b of three bits
  for (const Use use : {Use::map_shown, Use::map_answer, Use::map_mask})
    EXPECT_FALSE(provider_learns_nothing(bits, {{0, 0, 0}, {1, 0, 1}}, 2 * 4096, without(use)));
  const auto view = [](const Words& y) { return user_view(rows_box(2, 1, k_two, false), y, nullptr, shown_only); };
  EXPECT_EQ(view({1, 2, 3}), view({2, 1, 3}));
  EXPECT_NE(view({1, 2, 3}), view({1, 3, 2}));
}
TEST(Leak, permuted_map_without_a_mask_fails) {
  const auto box = map_box(1, 2, false, false);
  for (const Use use : {Use::map_shown, Use::map_answer, Use::map_mask}) {
    EXPECT_FALSE(provider_learns_nothing(box, {{0, 0}, {1, 2}}, 2 * 65536, without(use))) << static_cast<int>(use);
  }
}
TEST(Leak, two_answers_under_one_mask_fail) {
  const Rewrite same = [](Address a) {
    if (a.use == Use::map_answer) a.site = Site::mlp;
    return std::optional(a);
  };
  EXPECT_FALSE(provider_learns_nothing(map_box(1, 1, false, false, 2), {{0, 0}, {1, 0}}, 2 * 4096, same));
}

TEST(Leak, permuted_map_shows_the_user_values_without_their_order) {
  const auto box = map_box(1, 2, false, false);
  EXPECT_EQ(user_view(box, {1, 2}), user_view(box, {2, 1}));
  EXPECT_NE(user_view(box, {1, 2}), user_view(box, {1, 1}));
}
TEST(Leak, a_fixed_order_shows_the_user_who_is_who) {
  const auto box = map_box(1, 2, false, false);
  EXPECT_NE(user_view(box, {1, 2}, without(Use::map_order)), user_view(box, {2, 1}, without(Use::map_order)));
}
TEST(Leak, signs_hide_the_sign_of_the_last_group) {
  const auto box = map_box(2, 2, true, false);
  EXPECT_EQ(user_view(box, {1, 2, 1, 0}, nullptr, shown_only), user_view(box, {1, 2, 3, 0}, nullptr, shown_only));
  EXPECT_NE(user_view(box, {1, 2, 1, 0}, without(Use::map_sign), shown_only),
            user_view(box, {1, 2, 3, 0}, without(Use::map_sign), shown_only));
}
TEST(Leak, a_level_hides_all_but_differences) {
  const auto box = map_box(1, 2, false, true);
  EXPECT_EQ(user_view(box, {0, 1}, nullptr, shown_only), user_view(box, {2, 3}, nullptr, shown_only));
  EXPECT_NE(user_view(box, {0, 1}, nullptr, shown_only), user_view(box, {0, 2}, nullptr, shown_only));
  EXPECT_NE(user_view(box, {0, 1}, without(Use::map_level), shown_only),
            user_view(box, {2, 3}, without(Use::map_level), shown_only));
}

// --- Remask, one-hots -------------------------------------------------------------------------------------------------

void remask_box(Enumeration& e, const Words& y) {
  const RemaskShape s{Use::embed_row, Site::embed_residual, 2, {k_two, 0}};
  const Words m = e.mask(2, k_two);
  const Words y0 = e.provider_share(y, m, k_two);
  Masked moved;
  Mask r;
  e.run.online(
      [&](Provider& p) {
        moved = remask(p, s, Masked{{k_two, 0}, 2, y0});
      },
      [&](User& u) {
        r = remask(u, s, Mask{{k_two, 0}, 2, m});
      });
  for (std::size_t j = 0; j < 2; ++j) EXPECT_EQ((moved.words[j] + r.words[j]) & 3, y[j]);
}
TEST(Leak, remask_shows_the_provider_nothing) {
  EXPECT_TRUE(provider_learns_nothing(remask_box, {{0, 0}, {1, 3}}, 256));
  EXPECT_FALSE(provider_learns_nothing(remask_box, {{0, 0}, {1, 3}}, 256, without(Use::embed_row)));
}

void one_hot_box(Enumeration& e, const Words& token) {
  const OneHotShape s{Site::prompt_one_hot, 3, k_two};
  const std::uint32_t id = static_cast<std::uint32_t>(token[0]);
  e.run.online([&](Provider& p) { prompt_one_hots(p, s); }, [&](User& u) { prompt_one_hots(u, s, {&id, 1}); });
}
TEST(Leak, a_prompts_one_hots_show_the_provider_nothing) {
  EXPECT_TRUE(provider_learns_nothing(one_hot_box, {{0}, {1}, {2}}, 64));
  EXPECT_FALSE(provider_learns_nothing(one_hot_box, {{0}, {1}}, 64, without(Use::one_hot)));
}

// --- Public weights: hand ---------------------------------------------------------------------------------------------

void hand_box(Enumeration& e, const Words& v) {
  const HandShape s{Site::hand_row, 0, 2, {k_two, 0}};
  Masked x0;
  Mask r;
  e.run.online([&](Provider& p) { x0 = hand(p, s, {}); }, [&](User& u) { r = hand(u, s, v); });
  for (std::size_t j = 0; j < 2; ++j) EXPECT_EQ((x0.words[j] + r.words[j]) & 3, v[j]);
}
TEST(Leak, a_handed_value_shows_the_provider_nothing) {
  EXPECT_TRUE(provider_learns_nothing(hand_box, {{0, 0}, {1, 2}, {3, 3}}, 16));
  EXPECT_FALSE(provider_learns_nothing(hand_box, {{0, 0}, {1, 2}}, 16, without(Use::handed)));
}

// --- A map that only shows ------------------------------------------------------------------------------------------------

// One bit is cut, so the user's own low bits are part of its view.
void scales_box(Enumeration& e, const Words& x) {
  const NormShape s{{.site = Site::mlp_norm, .layer = 0, .columns = 2, .in = Ring{3}, .reveal = {1, 2}, .answers = {}},
                    1.0};
  const Words r = e.mask(2, Ring{3});
  e.run.offline([&](Helper& h) { row_scales(h, s, Mask{{Ring{3}, 1}, 2, r}); });
  const Words x0 = e.provider_share(x, r, Ring{3});
  RowScales seen;
  e.run.online(
      [&](Provider& p) {
        row_scales(p, s, Masked{{Ring{3}, 1}, 2, x0});
      },
      [&](User& u) {
        seen = row_scales(u, s, Mask{{Ring{3}, 1}, 2, r});
      });
  EXPECT_EQ(seen.size(), 1u);
}
TEST(Leak, a_row_that_is_only_shown_shows_the_provider_nothing) {
  // pi (2), the provider's share and s0 of six bits each.
  EXPECT_TRUE(provider_learns_nothing(scales_box, {{0, 0}, {1, 2}, {7, 3}}, 2 * 4096));
  EXPECT_FALSE(provider_learns_nothing(scales_box, {{0, 0}, {1, 2}}, 2 * 4096, without(Use::map_shown)));
}
TEST(Leak, a_row_that_is_only_shown_shows_the_user_no_order) {
  EXPECT_EQ(user_view(scales_box, {1, 6}), user_view(scales_box, {6, 1}));
  EXPECT_NE(user_view(scales_box, {1, 6}), user_view(scales_box, {1, 1}));
  EXPECT_NE(user_view(scales_box, {1, 6}, without(Use::map_order)),
            user_view(scales_box, {6, 1}, without(Use::map_order)));
}

// --- Scores and values ------------------------------------------------------------------------------------------------

// One head of one entry, which does not turn, and one key; q and k in the ring 2^bits once `cut` bits are cut, v in 2^2 as it is.
HeadShape tiny_head(int bits, int cut = 0) { return one_entry_head(cut, Ring{bits}, 0, k_two); }

// input: q and k, once `cut` bits are cut of one bit.
auto scores_box(int cut) {
  return [=](Enumeration& e, const Words& qk) {
    const HeadShape s = tiny_head(1, cut);
    const Ring whole{1 + cut};
    const Words r = e.mask(2, whole);
    e.run.offline([&](Helper& h) {
      scores_send(h, s);
      scores(h, s);
    });
    const Words x0 = e.provider_share(qk, r, whole);
    Masked shares;
    Mask m;
    e.run.online(
        [&](Provider& p) {
          const Masked q0 = scores_send(p, s, Masked{{whole, 0}, 3, {x0[0], x0[1], 0}});
          shares = masked_scores(p, s, q0, 0);
        },
        [&](User& u) {
          scores_send(u, s, Mask{{whole, 0}, 3, {r[0], r[1], 0}});
          const ShownQueries eq = scores_receive(u, s);
          masked_scores(u, s, eq, 0);
          m = score_masks(u.with_helper, s, u.batch);
        });
    if (cut == 0) {
      EXPECT_EQ((shares.words[0] + m.words[0]) & 1, qk[0] * qk[1] & 1);
    }
  };
}

TEST(Leak, scores_show_the_provider_nothing) {
  // a (2 bits), its share of q and k (2), x, step 1 (2), fix (2), step 3: 10 bits. Of a cut one bit more of its share and of step 1, and delta.
  EXPECT_TRUE(provider_learns_nothing(scores_box(0), {{0, 0}, {1, 0}, {1, 1}}, 1 << 10));
  EXPECT_TRUE(provider_learns_nothing(scores_box(1), {{0, 0}, {1, 3}, {2, 3}}, 1 << 16));
}
TEST(Leak, scores_without_a_mask_fail) {
  for (const Use use : {Use::score_rotated, Use::score_share, Use::score_mask, Use::cut_sent}) {
    EXPECT_FALSE(provider_learns_nothing(scores_box(0), {{0, 0}, {1, 1}}, 1 << 10, without(use)));
  }
}
TEST(Leak, scores_show_the_user_nothing) {
  EXPECT_EQ(user_view(scores_box(0), {0, 0}), user_view(scores_box(0), {1, 1}));
  EXPECT_EQ(user_view(scores_box(1), {0, 2}), user_view(scores_box(1), {3, 1}));
  EXPECT_NE(user_view(scores_box(0), {0, 0}, without(Use::score_sent)),
            user_view(scores_box(0), {1, 1}, without(Use::score_sent)));
}

// Values of one key, p.v in the ring 2^1 once `cut` bits are cut; input: v, p.
auto values_box(int cut) {
  return [=](Enumeration& e, const Words& input) {
    const ValuesShape s{.head = tiny_head(1), .mixed = Ring{1 + cut}, .cut = cut, .out = {Ring{1}, 0}};
    const Words r = e.mask(1, k_two, 1), rp = e.mask(1, s.mixed, 2);
    e.run.offline([&](Helper& h) {
      values_lift(h, s, Mask{{k_two, 0}, 3, {0, 0, r[0]}});
      values(h, s, Mask{{s.mixed, 0}, 1, rp});
    });
    const Words v0 = e.provider_share({input[0]}, r, k_two), p0 = e.provider_share({input[1]}, rp, s.mixed);
    Masked out;
    Mask m;
    e.run.online(
        [&](Provider& p) {
          values_lift(p, s, Masked{{k_two, 0}, 3, {0, 0, v0[0]}});
          values_reshare<Word>(p, s);
          out = values(p, s, Masked{{s.mixed, 0}, 1, p0});
        },
        [&](User& u) {
          values_lift(u, s);
          values_reshare<Word>(u, s);
          m = values(u, s, Mask{{s.mixed, 0}, 1, rp});
        });
    // The lift needs |v| below a quarter of its ring; here only 0 is, so only that is compared.
    if (input[0] == 0 && cut == 0) {
      EXPECT_EQ((out.words[0] + m.words[0]) & 1, 0u);
    }
  };
}

TEST(Leak, values_show_the_provider_nothing) {
  // alpha and a (a bit each); its shares of v (2) and p; fix of v (2); x, f, step 2, fix of p.v: 11 bits. Of a cut one more of a, p, x, f and
  // step 2, and delta.
  EXPECT_TRUE(provider_learns_nothing(values_box(0), {{0, 0}, {1, 1}, {3, 1}}, 1 << 11));
  EXPECT_TRUE(provider_learns_nothing(values_box(1), {{0, 1}, {3, 2}}, 1 << 17));
}
TEST(Leak, values_without_a_mask_fail) {
  for (const Use use : {Use::value_reshared, Use::value_share, Use::value_mask, Use::cut_sent, Use::cut_mask}) {
    EXPECT_FALSE(provider_learns_nothing(values_box(0), {{0, 0}, {1, 1}}, 1 << 11, without(use)));
  }
}

// Fast attention over one key: q, k in the ring 2^1, v in 2^2, p in 2^1; the provider's own coins are fixed (zeros). Input: q, k, v.
void fast_box(Enumeration& e, const Words& qkv) {
  AttentionShape s;
  s.values = {.head = tiny_head(1), .mixed = Ring{1}, .cut = 0, .out = {Ring{1}, 0}};
  s.fast = true;
  const auto joined = [](Words a, const Words& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  const Words r_qk = e.mask(2, Ring{1}, 1), r_v = e.mask(1, k_two, 2), r = joined(r_qk, r_v);
  e.run.offline([&](Helper& h) { attention(h, s, Mask{{k_two, 0}, 3, r}); });
  const Words x0 = joined(e.provider_share({qkv[0], qkv[1]}, r_qk, Ring{1}), e.provider_share({qkv[2]}, r_v, k_two));
  e.run.online(
      [&](Provider& p) {
        attention(p, s, Masked{{k_two, 0}, 3, x0});
      },
      [&](User& u) {
        attention(u, s, Mask{{k_two, 0}, 3, r});
      });
}
TEST(Leak, fast_attention_shows_the_provider_nothing) {
  // Its share of q, k (2 bits), v (2); fix of q, k (2) and of v (2); step 1 (2), x of the scores; x of the values, w, the user's share of p.v, its fix.
  const Rewrite fixed = [](Address) { return std::nullopt; };
  EXPECT_TRUE(provider_learns_nothing(fast_box, {{0, 0, 0}, {1, 1, 1}}, 1 << 15, nullptr, fixed));
  for (const Use use : {Use::score_rotated, Use::score_share, Use::value_share, Use::value_answer, Use::value_mask,
                        Use::cut_sent, Use::cut_mask}) {
    EXPECT_FALSE(provider_learns_nothing(fast_box, {{0, 0, 0}}, 1 << 15, without(use), fixed)) << static_cast<int>(use);
  }
}

// --- What the user sees of rows, against the table ---------------------------------------------------------------------
// Over all coins of provider and helper, and with its own coins all zero, which hide nothing from it: the user's views of two rows are
// the same exactly where the disguise that the table has makes one row of the other.

using Told = std::set<std::pair<Shown, Disguise>>;

// The least of the rows [groups x columns] that a disguise makes of one.
Words least_alike(const Words& row, std::size_t groups, Ring ring, const Disguise& disguise) {
  const std::size_t columns = row.size() / groups;
  Words least;
  Permutation pi(columns);
  std::iota(pi.begin(), pi.end(), 0u);
  do {
    for (std::size_t signs = 0; signs < (disguise.sign ? std::size_t{1} << columns : 1); ++signs) {
      for (Word level = 0; level <= (disguise.level ? ring.mask() : 0); ++level) {
        Words other(row.size());
        for (std::size_t j = 0; j < row.size(); ++j) {
          const Word x = row[j / columns * columns + pi[j % columns]];
          other[j] = ((j / columns + 1 == groups && ((signs >> j % columns) & 1) != 0 ? Word{0} - x : x) + level) &
                     ring.mask();
        }
        if (least.empty() || other < least) least = other;
      }
    }
  } while (disguise.order && std::next_permutation(pi.begin(), pi.end()));
  return least;
}

// Every row of n words of a ring.
std::vector<Words> all_rows(std::size_t n, Ring ring) {
  std::vector<Words> rows{{}};
  for (std::size_t j = 0; j < n; ++j) {
    std::vector<Words> longer;
    for (const Words& row : rows) {
      for (Word x = 0; x <= ring.mask(); ++x) longer.push_back(row), longer.back().push_back(x);
    }
    rows = std::move(longer);
  }
  return rows;
}

// A box that opens a row to the user, in which all inputs are run: what it told the observer goes into `told`.
struct ShowingBox {
  std::function<void(Enumeration&, const Words& input, Told& told)> run;
  std::vector<Words> inputs;
  std::function<Words(const Words&)> row;  // that an input makes
  std::size_t groups = 1;
  Ring ring = k_two;
  Batch batch = {0, 1};
  Rewrite provider = nullptr;
};

// What a box shows beside, or short of, its entry of the table; empty: it shows that.
std::string fault_of(const ShowingBox& box, Shown shown, const Disguise& disguise) {
  const Rewrite zero = [](Address) { return std::nullopt; };
  Told told;
  std::map<Words, Histogram> views;
  std::set<Histogram> different;
  for (const Words& input : box.inputs) {
    const Histogram view =
        enumerate([&](Enumeration& e) { box.run(e, input, told); }, box.batch, zero, box.provider).user;
    const auto [entry, fresh] = views.emplace(least_alike(box.row(input), box.groups, box.ring, disguise), view);
    if (!fresh && entry->second != view) return "it tells rows apart that the table calls alike";
    different.insert(view);
  }
  if (different.size() != views.size()) return "it hides what the table says that it shows";
  return told == Told{{shown, disguise}} ? "" : "it tells the observer something else";
}

template <class Body>
void observed(User& user, Told& told, Body body) {
  user.observe = [&](const Seen& seen) { told.insert({seen.shown, seen.disguise}); };
  body();
}

// A map of 3 columns, or of pairs of 2, in the box that the table names. more(provider, user): a further step, for the negative control.
using More = std::pair<std::function<void(Provider&, const Words&)>, std::function<void(User&)>>;
ShowingBox map_of(const std::string& box, Shown shown, const Disguise& disguise, std::size_t groups,
                  const More& more = {}) {
  const std::size_t columns = groups == 1 ? 3 : 2, n = groups * columns;
  MapShape s{.site = Site::mlp,
             .layer = 0,
             .groups = groups,
             .columns = columns,
             .in = k_two,
             .reveal = {0, 2},
             .sign = disguise.sign,
             .level = disguise.level,
             .shown = shown,
             .answers = {{Site::mlp, {k_two, 0}}}};
  if (box == "embed") s.answers.push_back({Site::embed_norm, {k_two, 0}});
  AttentionShape attention;
  attention.values.mixed = k_two;
  attention.values.head.shown = {0, 2};
  attention.unit = 1;
  const auto step = [=](auto& party, const auto& x) {
    using Party = std::decay_t<decltype(party)>;
    if (box == "embed") {
      embed(party, EmbedShape{s, 1.0}, x);
    } else if (box == "norm") {
      norm(party, NormShape{s, 1.0}, x);
    } else if (box == "mlp") {
      mlp(party, MlpShape{s, groups == 1}, x, RowScales{});
    } else if (box == "sample") {
      sample(party, SampleShape{s}, x, [](auto) { return std::size_t{0}; });
    } else if constexpr (std::is_same_v<Party, User>) {
      ASSERT_EQ(box, "attention");
      permuted_map(party, s,
                   [&](std::size_t, std::size_t, auto row, auto& answers) { softmax_row(attention, row, answers[0]); });
    } else {
      permuted_map(party, s, x);
    }
  };
  const auto run = [=](Enumeration& e, const Words& y, Told& told) {
    const Words m = e.mask(n, k_two), y0 = e.provider_share(y, m, k_two);
    e.run.offline([&](Helper& h) { step(h, Mask{{k_two, 0}, n, m}); });
    e.run.online(
        [&](Provider& p) {
          step(p, Masked{{k_two, 0}, n, y0});
          if (more.first) more.first(p, y0);
        },
        [&](User& u) {
          observed(u, told, [&] { step(u, Mask{{k_two, 0}, n, m}); });
          u.observe = nullptr;
          if (more.second) more.second(u);
        });
  };
  return {run, all_rows(n, k_two), [](const Words& y) { return y; }, groups};
}

// Fast attention of one head of two entries over two keys, in the ring 2^1: input q, k, and the key before. v is 0, as it is: its lift is no row.
ShowingBox fast_scores(const Disguise& disguise) {
  constexpr Ring k_one{1};
  AttentionShape s;
  s.values = {.head = {.layer = 0,
                       .heads = 1,
                       .kv_heads = 1,
                       .head_dim = 2,
                       .rope = {0},
                       .rope_frac = 0,
                       .qk_cut = 0,
                       .qk = {k_one, 0},
                       .v_cut = 0,
                       .v = {k_two, 0},
                       .dead_bits = 1,
                       .shown = {0, 1},
                       .level = disguise.level},
              .mixed = k_one,
              .cut = 0,
              .out = {k_one, 0}};
  s.fast = true;
  s.unit = 1;
  const auto run = [=](Enumeration& e, const Words& in, Told& told) {
    const Words x{in[0], in[1], in[2], in[3], 0, 0}, r = e.mask(6, k_one), x0 = e.provider_share(x, r, k_one);
    e.run.provider_keys()[0] = {{in[4], in[5]}, {0, 0}, {}};
    e.run.user_keys()[0] = {{0, 0}, {0, 0}, {0, 0}};
    e.run.offline([&](Helper& h) { attention(h, s, Mask{{k_two, 0}, 6, r}); });
    e.run.online(
        [&](Provider& p) {
          attention(p, s, Masked{{k_two, 0}, 6, x0});
        },
        [&](User& u) { observed(u, told, [&] {
                         attention(u, s, Mask{{k_two, 0}, 6, r});
                       }); });
  };
  const auto row = [](const Words& in) {
    return Words{(in[0] * in[4] + in[1] * in[5]) & 1, (in[0] * in[2] + in[1] * in[3]) & 1};
  };
  return {run, all_rows(6, k_one), row, 1, k_one, {1, 1}, without(Use::value_lift)};
}

ShowingBox shown_row(Shown shown) {
  ShowShape s{Site::qkv, Site::qkv, 0, {k_two, 0}, {k_two, 0}, 0, 2, {0, 2}, {0, 2}};
  s.y_shown = shown;
  const auto run = [=](Enumeration& e, const Words& y, Told& told) {
    const Words m = e.mask(2, k_two), y0 = e.provider_share(y, m, k_two);
    e.run.online(
        [&](Provider& p) {
          show(p, s, Masked{}, Masked{{k_two, 0}, 2, y0});
        },
        [&](User& u) { observed(u, told, [&] {
                         show(u, s, Mask{}, Mask{{k_two, 0}, 2, m});
                       }); });
  };
  return {run, all_rows(2, k_two), [](const Words& y) { return y; }};
}

ShowingBox box_of(const Leak& leak) {
  const std::string box = leak.box;
  if (box == "open") return shown_row(leak.shown);
  if (box == "attention" && !leak.disguise->order) return fast_scores(*leak.disguise);
  return map_of(box, leak.shown, *leak.disguise, box == "mlp" && leak.disguise->sign ? 2 : 1);
}

TEST(Leak, each_box_shows_the_user_what_its_entry_of_the_table_says) {
  std::size_t rows = 0;
  for (const Leak& leak : all_leaks()) {
    if (!leak.disguise) continue;
    EXPECT_EQ(fault_of(box_of(leak), leak.shown, *leak.disguise), "") << leak.box << ": " << leak.sees;
    ++rows;
  }
  EXPECT_GT(rows, 15u);
}

TEST(Leak, a_box_that_shows_more_than_its_entry_is_found) {
  const Disguise order{.order = true};
  // One entry of the row besides, in its place, of which the observer is told nothing.
  ShowShape s{Site::qkv, Site::qkv, 0, {k_two, 0}, {k_two, 0}, 0, 1, {0, 2}, {0, 2}};
  const More more{[=](Provider& p, const Words& y0) {
                    show(p, s, Masked{}, Masked{{k_two, 0}, 1, {y0[0]}});
                  },
                  [=](User& u) {
                    show(u, s, Mask{}, Mask{{k_two, 0}, 1, {0}});
                  }};
  EXPECT_EQ(fault_of(map_of("norm", Shown::residual_row, order, 1), Shown::residual_row, order), "");
  EXPECT_EQ(fault_of(map_of("norm", Shown::residual_row, order, 1, more), Shown::residual_row, order),
            "it tells rows apart that the table calls alike");
  // A table that promises a sign or a level which the box does not hide, or hides what it calls shown; a shape that names something else.
  const auto fault = [](const Disguise& of_box, const Disguise& of_table, Shown shown = Shown::logit) {
    return fault_of(map_of("sample", shown, of_box, 1), Shown::logit, of_table);
  };
  EXPECT_EQ(fault({.order = true}, {.order = true, .sign = true}), "it tells rows apart that the table calls alike");
  EXPECT_EQ(fault({.order = true}, {.order = true, .level = true}), "it tells rows apart that the table calls alike");
  EXPECT_EQ(fault({.order = true, .level = true}, {.order = true}), "it hides what the table says that it shows");
  EXPECT_EQ(fault({.order = true}, {.order = true}, Shown::undeclared), "it tells the observer something else");
  // An order that is not drawn.
  ShowingBox fixed = map_of("norm", Shown::residual_row, order, 1);
  fixed.provider = without(Use::map_order);
  EXPECT_EQ(fault_of(fixed, Shown::residual_row, order), "it tells rows apart that the table calls alike");
  // Scores in order whose level is not drawn.
  ShowingBox bare = fast_scores({.level = true});
  bare.provider = [](Address a) {
    return a.use == Use::value_lift || a.use == Use::map_level ? std::nullopt : std::optional(a);
  };
  EXPECT_EQ(fault_of(bare, Shown::score, {.level = true}), "it tells rows apart that the table calls alike");
}

// The boxes that the table does not name.
TEST(Leak, boxes_without_an_entry_show_the_user_nothing) {
  const auto nothing = [](const auto& box, const std::vector<Words>& inputs) {
    std::set<Histogram> views;
    for (const Words& input : inputs) views.insert(user_view(box, input));
    return views.size() == 1;
  };
  EXPECT_TRUE(nothing(linear_box, {{0, 0}, {1, 2}, {3, 3}}));
  EXPECT_TRUE(nothing(public_linear_box, {{0, 0}, {1, 2}, {3, 3}}));
  EXPECT_TRUE(nothing(gain_box, {{0, 0}, {1, 2}}));
  EXPECT_TRUE(nothing(remask_box, {{0, 0}, {1, 3}}));
  EXPECT_TRUE(nothing(hand_box, {{0, 0}, {1, 2}}));
  EXPECT_TRUE(nothing(one_hot_box, {{0}, {1}}));
  EXPECT_FALSE(nothing(map_box(1, 2, false, false), {{0, 1}, {1, 1}}));
}

// Retrieve, linear: ids of a vocabulary of three, in the ring 2^2.
TEST(Leak, retrieve_shows_the_user_the_id_alone) {
  std::set<Histogram> views;
  for (Word id = 0; id < 3; ++id) {
    views.insert(user_view(
        [&](Enumeration& e, const Words& one_hot) {
          const Words m = e.mask(3, k_two), e0 = e.provider_share(one_hot, m, k_two);
          e.run.online(
              [&](Provider& p) {
                retrieve(p, Masked{{k_two, 0}, 3, e0});
              },
              [&](User& u) {
                EXPECT_EQ(retrieve(u, Mask{{k_two, 0}, 3, m})[0], id);
              });
        },
        {Word{id == 0}, Word{id == 1}, Word{id == 2}}));
  }
  EXPECT_EQ(views.size(), 3u);
}

// The lift is statistical, on the model owner's side only: over all alpha, the user's integer for v and for v + d differ in
// |d| of the 2^(bits-1) values.
TEST(Leak, the_lift_of_v_hides_it_up_to_its_bound) {
  constexpr int k_bits = 10;
  const auto integers = [](std::int64_t v) {
    std::map<std::int64_t, int> count;
    for (Word coin = 0; coin < Word{1} << (k_bits - 1); ++coin) {
      const Word alpha = lift_masks({coin}, Ring{k_bits})[0];
      ++count[centre(static_cast<Word>(v) - alpha, Ring{k_bits})];
    }
    return count;
  };
  const auto a = integers(0);
  for (const std::int64_t d : {1, 5, 40}) {
    const auto b = integers(d);
    int differing = 0;
    for (const auto& [value, count] : a) differing += b.contains(value) ? 0 : 1;
    EXPECT_EQ(differing, d);
  }
}

}  // namespace
}  // namespace permllm::test
