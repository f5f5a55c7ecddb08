// The two boxes of profile `open` (public weights), beside Linear.                             docs/protocol.md 4.9
//
//   Hand: a value of the user -> <v>
//     step 1    U -> P   d = v - r                               r: known to user and helper
//     coin of what the provider receives: r for d.
//   Show: <x>, <y> -> x, y at the user, in order. Needs weights that are public: x and y may tell everything about them.
//     step 1    P -> U   cut(x0), cut(y0)
//     The provider receives nothing.
//   bound:      both fit what is kept of them, from the plan's calibrated ranges.
#pragma once

#include "protocol/range.h"
#include "protocol/roles.h"
#include "ring/elementwise.h"

namespace permllm {

// --- Hand -------------------------------------------------------------------------------------------------------------

struct HandShape {
  Site site;
  std::uint16_t layer = 0;
  std::size_t size = 0;
  Format format;
  std::int64_t most = k_any_magnitude;  // of v's words, within its range
};

constexpr Cost cost(const HandShape& s, Batch batch) {
  return {.rounds = 0, .online = {.user_to_provider = batch.count * s.size * s.format.ring.bytes()}, .offline = {}};
}

struct Handed {  // step 1, user -> provider
  static constexpr Tag tag = Tag::handed;
  Block d;
  template <class Io>
  void visit(Io& io) {
    io.block("d", d);
  }
};

inline Address hand_at(const HandShape& s, std::uint32_t index) { return {Use::handed, s.site, s.layer, index}; }

inline Mask hand_masks(const Coins& coins, const HandShape& s, Batch batch) {
  return mask_of(coins, s.format, s.size, batch, [&](std::uint32_t index) { return hand_at(s, index); });
}

// v: encoded by the user; empty at the others.
inline Mask hand(Helper& helper, const HandShape& s, const Words&) {
  return hand_masks(helper.with_user, s, helper.batch);
}
inline Mask hand(UserDealer& user, const HandShape& s, const Words&) {
  return hand_masks(user.with_helper, s, user.batch);
}

inline Masked hand(Provider& provider, const HandShape& s, const Words&) {
  return {s.format, s.size,
          provider.user.receive(Handed{expect(s.format.ring, provider.batch.count * s.size)}).d.words};
}

inline Mask hand(User& user, const HandShape& s, const Words& v) {
  PERMLLM_ASSERT(v.size() == user.batch.count * s.size);
  user.count(count_beyond(v, s.format.ring, s.most));
  burn(user.with_helper, user.batch, [&](std::uint32_t index) { return hand_at(s, index); });
  Mask r = hand_masks(user.with_helper, s, user.batch);
  Words d = v;
  for (std::size_t j = 0; j < d.size(); ++j) d[j] -= r.words[j];
  user.provider.send(Handed{block(s.format.ring, std::move(d))});
  user.provider.flush();  // the provider goes on while the user derives its next masks
  return r;
}

inline Counted hand(Counter& counter, const HandShape& s, const Words&) {
  counter.total += cost(s, counter.batch);
  return {s.format, s.size};
}

// --- Show -------------------------------------------------------------------------------------------------------------

struct ShowShape {
  Site x_site, y_site;  // what they are, for the user's records
  std::uint16_t layer = 0;
  Format x, y;
  std::size_t x_size = 0, y_size = 0;
  Reveal x_reveal, y_reveal;
  Shown x_shown = Shown::undeclared, y_shown = Shown::undeclared;
  std::int64_t x_most = k_any_magnitude, y_most = k_any_magnitude;  // of what is shown, within its range
};

constexpr Cost cost(const ShowShape& s, Batch batch) {
  return {.rounds = 1,
          .online = {.provider_to_user =
                         batch.count * (s.x_size * s.x_reveal.sent().bytes() + s.y_size * s.y_reveal.sent().bytes())},
          .offline = {}};
}

struct ShownRows {  // step 1, provider -> user
  static constexpr Tag tag = Tag::shown_rows;
  Block x, y;
  template <class Io>
  void visit(Io& io) {
    io.block("x", x);
    io.block("y", y);
  }
};

// Rows in the clear, at the user: [token x size]. Empty at the others.
struct ClearRows {
  std::size_t size = 0;
  std::vector<double> values;
  std::vector<std::int64_t> integers;  // what was shown, in units of the reveal
  std::span<const double> row(std::size_t i) const { return std::span(values).subspan(i * size, size); }
};
struct ShownPair {
  ClearRows x, y;
};

inline ShownPair show(Helper&, const ShowShape&, const Mask&, const Mask&) { return {}; }
inline ShownPair show(UserDealer&, const ShowShape&, const Mask&, const Mask&) { return {}; }

inline ShownPair show(Provider& provider, const ShowShape& s, const Masked& x, const Masked& y) {
  const auto shown = [](const Masked& value, const Reveal& reveal) {
    Words words = value.words;
    for (Word& word : words) word = cut(word, reveal.drop);
    return block(reveal.sent(), std::move(words));
  };
  provider.user.send(ShownRows{shown(x, s.x_reveal), shown(y, s.y_reveal)});
  return {};
}

inline ShownPair show(User& user, const ShowShape& s, const Mask& x, const Mask& y) {
  const auto m = user.provider.receive(
      ShownRows{expect(s.x_reveal.sent(), x.words.size()), expect(s.y_reveal.sent(), y.words.size())});
  const auto opened = [&](Site site, Shown what, const Words& shown, const Mask& mask, const Reveal& reveal,
                          std::int64_t most) {
    ClearRows rows{mask.size, std::vector<double>(shown.size()), std::vector<std::int64_t>(shown.size())};
    std::vector<std::int64_t>& integers = rows.integers;
    const double unit = power_of_two(reveal.drop - mask.format.frac);
    open(shown, mask.words, reveal.drop, reveal.sent(), integers);
    std::transform(integers.begin(), integers.end(), rows.values.begin(),
                   [&](std::int64_t shown_as) { return static_cast<double>(shown_as) * unit; });
    user.count(count_beyond(integers, most));
    for (std::size_t i = 0; user.observe && mask.size != 0 && i < user.batch.count; ++i) {
      user.observe(
          {site, s.layer, user.batch.index(i), 0, std::span(integers).subspan(i * mask.size, mask.size), what, {}});
    }
    return rows;
  };
  ClearRows rows = opened(s.x_site, s.x_shown, m.x.words, x, s.x_reveal, s.x_most);
  return {std::move(rows), opened(s.y_site, s.y_shown, m.y.words, y, s.y_reveal, s.y_most)};
}

inline ShownPair show(Counter& counter, const ShowShape& s, const Counted&, const Counted&) {
  counter.total += cost(s, counter.batch);
  return {};
}

}  // namespace permllm
