// PermutedMap: <y> -> <f(y)>. One round trip.                     docs/protocol.md 4.2; PermLLM, section 4.3, with exact masks
//
//   F:        provider holds y0, user holds m, y = y0 + m   ->   shares of f(y)
//   y is, for each token, `rows` rows of `groups` x `columns`: one permutation pi a row moves whole columns, so that the
//   values of a column stay together (gate and up). f maps a row to `columns` values, in the same order.
//   offline:  provider and helper derive pi, signs g, a level u; user and helper derive s1, t, r
//             helper -> provider   s0 = pi(g m) - s1,   w = g pi^-1(t) - r
//   step 1    P -> U   a = cut(pi(g y0) + u + s0)      user opens   a + cut(s1) = pi(g y) + u, less `drop` bits
//   step 2    U -> P   b = f(pi(g y)) - t              provider keeps   g pi^-1(b) + w;  user keeps r
//   sum:      g pi^-1(f(pi(g y)) - t) + (g pi^-1(t) - r) + r = g pi^-1(f(pi(g y))) = f(y)
//   free hardening, known to provider and helper alone: a random sign for the last group and the answer of each column
//   (f odd in it); one uniform word u added to a whole row (f shift-invariant).
//   f may have several answers (an embedding row is re-encoded as the residual and as its norm): step 2 and w for each.
//   coins of what the provider receives: s1 for s0, r for w, t for b.
//   bound:    |y| < 2^(bits-1); drop + keep <= bits, or a word is wrong now and then.
#pragma once

#include "protocol/party.h"

namespace permllm {

struct MapShape {
  Site site;
  std::uint16_t layer = 0;
  std::size_t rows = 1, groups = 1;
  std::size_t columns = 0;  // 0: one more than the index, a key for each slot so far
  Ring in;
  Reveal reveal;
  bool sign = false, level = false;
  struct Answer {
    Site site;
    Format out;
  };
  std::vector<Answer> answers;

  constexpr std::size_t columns_at(std::uint32_t index) const { return columns != 0 ? columns : std::size_t{index} + 1; }
  constexpr std::size_t shown_at(std::uint32_t index) const { return rows * groups * columns_at(index); }
  constexpr std::size_t answered_at(std::uint32_t index) const { return rows * columns_at(index); }
};

inline constexpr Leak k_permuted_map_leak[] = {
    {Role::user, "the values of each row, less `drop` bits, in an order drawn afresh for this use; with signs, the last "
                 "group up to a sign a column; with a level, differences within a row"},
    {Role::provider, "nothing"},
    {Role::helper, "nothing"}};

constexpr Cost cost(const MapShape& s, Batch batch) {
  Cost total{.rounds = 1, .online = {}, .offline = {}};
  for (std::size_t i = 0; i < batch.count; ++i) {
    const std::size_t shown = s.shown_at(batch.index(i)), answered = s.answered_at(batch.index(i));
    total.online.provider_to_user += shown * s.reveal.sent().bytes();
    total.offline.helper_to_provider += shown * s.in.bytes();
    for (const MapShape::Answer& answer : s.answers) {
      total.online.user_to_provider += answered * answer.out.ring.bytes();
      total.offline.helper_to_provider += answered * answer.out.ring.bytes();
    }
  }
  return total;
}

struct MapShown {  // step 1, provider -> user
  static constexpr Tag tag = Tag::map_shown;
  Block a;
  template <class Io>
  void visit(Io& io) {
    io.block("a", a);
  }
};
struct MapAnswer {  // step 2, user -> provider
  static constexpr Tag tag = Tag::map_answer;
  Block b;
  template <class Io>
  void visit(Io& io) {
    io.block("b", b);
  }
};

// How provider and helper disguise one row: pi, and g as words (1 or -1) by column before permuting.
struct RowOrder {
  Permutation pi;
  Words sign;  // empty: all 1
  Word sign_of(std::size_t column) const { return sign.empty() ? Word{1} : sign[column]; }
};
inline RowOrder row_order(const Coins& coins, const MapShape& s, std::uint32_t index, std::size_t row) {
  const auto part = static_cast<std::uint16_t>(row);
  const std::size_t n = s.columns_at(index);
  RowOrder order{coins.permutation({Use::map_order, s.site, s.layer, index, part}, n), {}};
  if (s.sign) {
    order.sign = coins.words({Use::map_sign, s.site, s.layer, index, part}, n, Ring{1});
    for (Word& g : order.sign) g = Word{1} - 2 * g;
  }
  return order;
}

// pi(g y) of one row [groups x columns], into `out`.
inline void permute_row(const RowOrder& order, std::size_t groups, std::span<const Word> y, std::span<Word> out) {
  const std::size_t n = order.pi.size();
  for (std::size_t group = 0; group < groups; ++group) {
    const Word* from = y.data() + group * n;
    Word* to = out.data() + group * n;
    if (group + 1 == groups && !order.sign.empty()) {
      for (std::size_t j = 0; j < n; ++j) to[j] = from[order.pi[j]] * order.sign[order.pi[j]];
    } else {
      for (std::size_t j = 0; j < n; ++j) to[j] = from[order.pi[j]];
    }
  }
}

// offline, helper -> provider: s0, then w of each answer, token by token. m: the user's share of y, [token][row][group][column].
// Returns the user's shares of the answers, in the same layout.
inline std::vector<Mask> permuted_map(Helper& helper, const MapShape& s, const Words& m) {
  std::vector<Mask> masks(s.answers.size());
  std::size_t at = 0;
  for (std::size_t i = 0; i < helper.batch.count; ++i) {
    const std::uint32_t index = helper.batch.index(i);
    const std::size_t n = s.columns_at(index), width = s.groups * n;
    std::vector<RowOrder> orders;
    for (std::size_t row = 0; row < s.rows; ++row) orders.push_back(row_order(helper.with_provider, s, index, row));

    const auto s1 = helper.with_user.spend({Use::map_shown, s.site, s.layer, index}, s.shown_at(index), s.in);
    Words s0(s1.size());
    for (std::size_t row = 0; row < s.rows; ++row) {
      permute_row(orders[row], s.groups, std::span(m).subspan(at + row * width, width),
                  std::span(s0).subspan(row * width, width));
    }
    for (std::size_t j = 0; j < s0.size(); ++j) s0[j] -= s1[j];
    helper.packs[i].words(s0, s.in);
    at += s0.size();

    for (std::size_t k = 0; k < s.answers.size(); ++k) {
      const auto& [site, out] = s.answers[k];
      const auto t = helper.with_user.words({Use::map_answer, site, s.layer, index}, s.answered_at(index), out.ring);
      const auto r = helper.with_user.spend({Use::map_mask, site, s.layer, index}, s.answered_at(index), out.ring);
      Words w(t.size());
      for (std::size_t row = 0; row < s.rows; ++row) {
        for (std::size_t j = 0; j < n; ++j) {
          const std::size_t column = orders[row].pi[j];
          w[row * n + column] = t[row * n + j] * orders[row].sign_of(column) - r[row * n + column];
        }
      }
      helper.packs[i].words(w, out.ring);
      masks[k].format = out;
      masks[k].size = s.answered_at(index);
      masks[k].words.insert(masks[k].words.end(), r.begin(), r.end());
    }
  }
  return masks;
}

// r of each answer, as the user derives it.
inline std::vector<Mask> map_masks(const Coins& coins, const MapShape& s, Batch batch) {
  std::vector<Mask> masks;
  for (const auto& [site, out] : s.answers) {
    Mask mask{out, 0, {}};
    for (std::size_t i = 0; i < batch.count; ++i) {
      const std::uint32_t index = batch.index(i);
      const auto r = coins.words({Use::map_mask, site, s.layer, index}, s.answered_at(index), out.ring);
      mask.size = r.size();
      mask.words.insert(mask.words.end(), r.begin(), r.end());
    }
    masks.push_back(std::move(mask));
  }
  return masks;
}

// offline: the user has nothing to send
inline std::vector<Mask> permuted_map(UserDealer& user, const MapShape& s) {
  return map_masks(user.with_helper, s, user.batch);
}

inline std::vector<Masked> permuted_map(Provider& provider, const MapShape& s, const Words& y0) {
  // step 1
  Words a;
  std::vector<RowOrder> orders;
  std::vector<std::vector<Words>> w(s.answers.size());
  std::size_t at = 0;
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const std::uint32_t index = provider.batch.index(i);
    const std::size_t width = s.groups * s.columns_at(index);
    const auto s0 = provider.packs[i].helper.words("pi(m) - s1", s.shown_at(index), s.in);
    for (std::size_t k = 0; k < s.answers.size(); ++k) {
      w[k].push_back(provider.packs[i].helper.words("pi^-1(t) - r", s.answered_at(index), s.answers[k].out.ring));
    }
    a.resize(at + s0.size());
    for (std::size_t row = 0; row < s.rows; ++row) {
      orders.push_back(row_order(provider.with_helper, s, index, row));
      const std::span<Word> shown = std::span(a).subspan(at, width);
      permute_row(orders.back(), s.groups, std::span(y0).subspan(at, width), shown);
      const Address level{Use::map_level, s.site, s.layer, index, static_cast<std::uint16_t>(row)};
      const Word u = s.level ? provider.with_helper.words(level, 1, s.in)[0] : 0;
      for (std::size_t j = 0; j < width; ++j) {
        shown[j] = cut(shown[j] + u + s0[row * width + j], s.reveal.drop);
      }
      at += width;
    }
  }
  provider.user.send(MapShown{block(s.reveal.sent(), std::move(a))});

  // step 2
  std::vector<Masked> results;
  for (std::size_t k = 0; k < s.answers.size(); ++k) {
    const Format out = s.answers[k].out;
    std::size_t total = 0;
    for (const Words& row : w[k]) total += row.size();
    const auto b = provider.user.receive(MapAnswer{expect(out.ring, total)}).b.words;
    Masked y{out, 0, Words(total)};
    at = 0;
    auto order = orders.begin();
    for (std::size_t i = 0; i < provider.batch.count; ++i) {
      const std::size_t n = s.columns_at(provider.batch.index(i));
      y.size = s.rows * n;
      for (std::size_t row = 0; row < s.rows; ++row, ++order, at += n) {
        for (std::size_t j = 0; j < n; ++j) {
          const std::size_t column = order->pi[j];
          y.words[at + column] = b[at + j] * order->sign_of(column) + w[k][i][row * n + column];
        }
      }
    }
    results.push_back(std::move(y));
  }
  return results;
}

// f(token, row, shown, answers): shown is [groups x columns] in units of the reveal; answers[k] takes the words of the
// k-th answer, in the same order of columns. f must take the same steps whatever the values are.
template <class F>
std::vector<Mask> permuted_map(User& user, const MapShape& s, F f) {
  // step 1
  std::size_t total = 0;
  for (std::size_t i = 0; i < user.batch.count; ++i) total += s.shown_at(user.batch.index(i));
  const auto a = user.provider.receive(MapShown{expect(s.reveal.sent(), total)}).a.words;
  std::vector<Words> b(s.answers.size());
  std::vector<std::int64_t> shown;
  std::size_t at = 0;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const std::uint32_t index = user.batch.index(i);
    const std::size_t n = s.columns_at(index), width = s.groups * n;
    const auto s1 = user.with_helper.words({Use::map_shown, s.site, s.layer, index}, s.shown_at(index), s.in);
    shown.resize(width);
    std::vector<Words> t;
    for (const auto& [site, out] : s.answers) {
      t.push_back(user.with_helper.spend({Use::map_answer, site, s.layer, index}, s.answered_at(index), out.ring));
    }
    for (std::size_t row = 0; row < s.rows; ++row) {
      for (std::size_t j = 0; j < width; ++j) {
        const Word opened = a[at + row * width + j] + cut(s1[row * width + j], s.reveal.drop);
        shown[j] = centre(opened, s.reveal.sent());
      }
      if (user.observe) user.observe({s.site, s.layer, index, row, shown});
      std::vector<std::span<Word>> answers;
      for (Words& words : b) {
        words.resize(words.size() + n);
        answers.push_back(std::span(words).last(n));
      }
      f(i, row, std::span<const std::int64_t>(shown), answers);
      for (std::size_t k = 0; k < answers.size(); ++k) {
        for (std::size_t j = 0; j < n; ++j) answers[k][j] -= t[k][row * n + j];
      }
    }
    at += s.rows * width;
  }
  // step 2
  for (std::size_t k = 0; k < s.answers.size(); ++k) {
    user.provider.send(MapAnswer{block(s.answers[k].out.ring, std::move(b[k]))});
  }
  return map_masks(user.with_helper, s, user.batch);
}

}  // namespace permllm
