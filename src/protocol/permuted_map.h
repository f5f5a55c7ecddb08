// PermutedMap: <y> -> <f(y)>. One round trip.                     docs/protocol.md 4.2; PermLLM, section 4.3, with exact masks
//
//   F:        provider holds y0, user holds m, y = y0 + m   ->   shares of f(y)
//   y is, for each token, `rows` rows of `groups` x `columns`, the last with some fewer: one permutation pi a row moves whole columns, so that the
//   values of a column stay together (gate and up). f maps a row to a value a column, in the same order.
//   offline:  provider and helper derive pi, signs g, a level u; user and helper derive s1, t, r
//             helper -> provider   s0 = pi(g m) - s1,   w = g pi^-1(t) - r
//   step 1    P -> U   a = cut(pi(g y0) + u + s0)      user opens   a + cut(s1) = pi(g y) + u, less `drop` bits
//   step 2    U -> P   b = f(pi(g y)) - t              provider keeps   g pi^-1(b) + w;  user keeps r
//   sum:      g pi^-1(f(pi(g y)) - t) + (g pi^-1(t) - r) + r = g pi^-1(f(pi(g y))) = f(y)
//   free hardening, known to provider and helper alone: a random sign for the last group and the answer of each column
//   (f odd in it); one uniform word u added to a whole row (f shift-invariant).
//   f may have several answers (an embedding row is re-encoded as the residual and as its norm): step 2 and w for each.
//   f may have none: the user only looks, in the message of another map's step 1, without a round trip of its own.
//   W: the type of the answers' words (Wide where their ring needs it).
//   coins of what the provider receives: s1 for s0, r for w, t for b.
//   bound:    |y| < 2^(bits-1); drop + keep <= bits, or a word is wrong now and then.
#pragma once

#include <algorithm>

#include "protocol/range.h"
#include "protocol/roles.h"
#include "ring/elementwise.h"

namespace permllm {

struct MapShape {
  Site site;
  std::uint16_t layer = 0;
  std::size_t rows = 1, groups = 1;
  std::size_t columns = 0;  // 0: as many as keys_at says
  std::size_t prompt = 0;   // then: slots of a prompt that attends both ways
  std::size_t fewer = 0;    // columns that the last row has less than the others
  Ring in;
  Reveal reveal;
  bool sign = false, level = false;
  Shown shown = Shown::undeclared;      // what the rows are that the user sees
  std::int64_t most = k_any_magnitude;  // of what is shown, within its range
  struct Answer {
    Site site;
    Format out;
    std::int64_t most = k_any_magnitude;  // likewise, of its words
  };
  std::vector<Answer> answers;

  constexpr Disguise disguise() const { return {.order = true, .sign = sign, .level = level}; }
  constexpr std::size_t columns_at(std::uint32_t index) const {
    return columns != 0 ? columns : keys_at(index, prompt);
  }
  // Columns of the first i of a batch.
  constexpr std::size_t columns_before(Batch batch, std::size_t i) const {
    return columns != 0 ? columns * i : keys_before(batch, i, prompt);
  }
  // Of one row; it begins behind columns_at(index) a row before it.
  constexpr std::size_t columns_of(std::uint32_t index, std::size_t row) const {
    return columns_at(index) - (row + 1 == rows ? fewer : 0);
  }
  constexpr std::size_t shown_before(Batch batch, std::size_t i) const { return groups * answered_before(batch, i); }
  constexpr std::size_t answered_before(Batch batch, std::size_t i) const {
    return rows * columns_before(batch, i) - i * fewer;
  }
  constexpr std::size_t shown_at(std::uint32_t index) const { return groups * answered_at(index); }
  constexpr std::size_t answered_at(std::uint32_t index) const { return rows * columns_at(index) - fewer; }
};

constexpr Cost cost(const MapShape& s, Batch batch) {
  const std::size_t shown = s.shown_before(batch, batch.count), answered = s.answered_before(batch, batch.count);
  Cost total{.rounds = s.answers.empty() ? 0u : 1u,
             .online = {.provider_to_user = shown * s.reveal.sent().bytes()},
             .offline = {.helper_to_provider = shown * s.in.bytes()}};
  for (const MapShape::Answer& answer : s.answers) {
    total.online.user_to_provider += answered * answer.out.ring.bytes();
    total.offline.helper_to_provider += answered * answer.out.ring.bytes();
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
template <class W = Word>
struct MapAnswer {  // step 2, user -> provider
  static constexpr Tag tag = Tag::map_answer;
  BlockOf<W> b;
  template <class Io>
  void visit(Io& io) {
    io.block("b", b);
  }
};

// How provider and helper disguise one row: pi, and g as words (1 or -1) by column before permuting.
struct RowOrder {
  Permutation pi;
  Words sign;  // empty: all 1
};
inline RowOrder row_order(const Coins& coins, const MapShape& s, std::uint32_t index, std::size_t row) {
  const auto part = static_cast<std::uint16_t>(row);
  const std::size_t n = s.columns_of(index, row);
  RowOrder order{coins.permutation({Use::map_order, s.site, s.layer, index, part}, n), {}};
  if (s.sign) {
    order.sign = coins.words({Use::map_sign, s.site, s.layer, index, part}, n, Ring{1});
    for (Word& g : order.sign) g = Word{1} - 2 * g;
  }
  return order;
}

// cut(pi(g y) + level + shift) of one row [groups x columns], into `out`, which may be `shift`.
inline void disguise_row(const RowOrder& order, std::size_t groups, std::span<const Word> y,
                         std::span<const Word> shift, Word level, int drop, std::span<Word> out) {
  const std::size_t n = order.pi.size();
  for (std::size_t group = 0; group < groups; ++group) {
    const Word* sign = group + 1 == groups && !order.sign.empty() ? order.sign.data() : nullptr;
    permute_cut(y.subspan(group * n, n), shift.subspan(group * n, n), order.pi, sign, level, drop,
                out.subspan(group * n, n));
  }
}

// g pi^-1(b) + w of one row, into `out`.
inline void restore_row(const RowOrder& order, std::span<const Word> b, std::span<const Word> w, std::span<Word> out) {
  unpermute_add(b, order.pi, order.sign.empty() ? nullptr : order.sign.data(), w, out);
}
inline void restore_row(const RowOrder& order, std::span<const Wide> b, std::span<const Wide> w, std::span<Wide> out) {
  PERMLLM_ASSERT(order.sign.empty());
  for (std::size_t j = 0; j < order.pi.size(); ++j) out[order.pi[j]] = b[j] + w[order.pi[j]];
}

inline Address map_at(Use use, const MapShape& s, Site site, std::uint32_t index) {
  return {use, site, s.layer, index};
}

// One share of each answer, for the whole batch.
template <Role R, class W>
std::vector<Share<R, W>> answer_shares(const MapShape& s, Batch batch) {
  std::vector<Share<R, W>> shares;
  for (const auto& answer : s.answers) {
    shares.push_back(
        {answer.out, s.answered_at(batch.index(0)), std::vector<W>(s.answered_before(batch, batch.count))});
  }
  return shares;
}

// offline, helper -> provider: s0, then w of each answer, token by token. m: [token][row][group][column].
// Returns the user's shares of the answers, in the same layout.
template <class W = Word>
std::vector<MaskOf<W>> permuted_map(Helper& helper, const MapShape& s, const Mask& m) {
  auto masks = answer_shares<Role::user, W>(s, helper.batch);
  burn(helper.with_user, helper.batch, [&](std::uint32_t index) { return map_at(Use::map_shown, s, s.site, index); });
  for (const auto& answer : s.answers)
    burn(helper.with_user, helper.batch,
         [&](std::uint32_t index) { return map_at(Use::map_mask, s, answer.site, index); });
  helper.executor.parallel(helper.batch.count, [&](std::size_t i) {
    const std::uint32_t index = helper.batch.index(i);
    const std::size_t n = s.columns_at(index), width = s.groups * n, at = s.shown_before(helper.batch, i);
    std::vector<RowOrder> orders;
    for (std::size_t row = 0; row < s.rows; ++row) orders.push_back(row_order(helper.with_provider, s, index, row));

    Words s0 = helper.with_user.words(map_at(Use::map_shown, s, s.site, index), s.shown_at(index), s.in);
    for (Word& word : s0) word = Word{0} - word;
    for (std::size_t row = 0; row < s.rows; ++row) {
      const std::size_t size = s.groups * s.columns_of(index, row);
      const std::span<Word> shown = std::span(s0).subspan(row * width, size);
      disguise_row(orders[row], s.groups, std::span(m.words).subspan(at + row * width, size), shown, 0, 0, shown);
    }
    helper.packs[i].words(s0, s.in);

    for (std::size_t k = 0; k < s.answers.size(); ++k) {
      const Site site = s.answers[k].site;
      const Format& out = s.answers[k].out;
      const auto t = helper.with_user.words<W>(map_at(Use::map_answer, s, site, index), s.answered_at(index), out.ring);
      auto r = helper.with_user.words<W>(map_at(Use::map_mask, s, site, index), s.answered_at(index), out.ring);
      std::copy(r.begin(), r.end(),
                masks[k].words.begin() + static_cast<std::ptrdiff_t>(s.answered_before(helper.batch, i)));
      for (W& word : r) word = W{0} - word;
      std::vector<W> w(t.size());
      for (std::size_t row = 0; row < s.rows; ++row) {
        const std::size_t size = s.columns_of(index, row);
        restore_row(orders[row], std::span(t).subspan(row * n, size), std::span(r).subspan(row * n, size),
                    std::span(w).subspan(row * n, size));
      }
      helper.packs[i].words(w, out.ring);
    }
  });
  return masks;
}

// r of each answer, as the user derives it.
template <class W = Word>
std::vector<MaskOf<W>> map_masks(const Coins& coins, const MapShape& s, Batch batch) {
  auto masks = answer_shares<Role::user, W>(s, batch);
  for (std::size_t k = 0; k < s.answers.size(); ++k) {
    for (std::size_t i = 0; i < batch.count; ++i) {
      const std::uint32_t index = batch.index(i);
      coins.words(map_at(Use::map_mask, s, s.answers[k].site, index), s.answers[k].out.ring,
                  std::span(masks[k].words).subspan(s.answered_before(batch, i), s.answered_at(index)));
    }
  }
  return masks;
}

// offline: the user has nothing to send
template <class W = Word>
std::vector<MaskOf<W>> permuted_map(UserDealer& user, const MapShape& s) {
  return map_masks<W>(user.with_helper, s, user.batch);
}

template <class W = Word>
std::vector<MaskedOf<W>> permuted_map(Provider& provider, const MapShape& s, const Masked& y0) {
  const Batch batch = provider.batch;
  // step 1
  Words a(s.shown_before(batch, batch.count));
  auto results = answer_shares<Role::provider, W>(s, batch);  // w until the answers arrive
  std::vector<std::vector<RowOrder>> orders(batch.count);
  provider.executor.parallel(batch.count, [&](std::size_t i) {
    const std::uint32_t index = batch.index(i);
    const std::size_t width = s.groups * s.columns_at(index), at = s.shown_before(batch, i);
    const auto s0 = provider.pack(i).helper.words("pi(m) - s1", s.shown_at(index), s.in);
    for (std::size_t k = 0; k < s.answers.size(); ++k) {
      const auto w = provider.pack(i).helper.words<W>("pi^-1(t) - r", s.answered_at(index), s.answers[k].out.ring);
      std::copy(w.begin(), w.end(),
                results[k].words.begin() + static_cast<std::ptrdiff_t>(s.answered_before(batch, i)));
    }
    for (std::size_t row = 0; row < s.rows; ++row) {
      orders[i].push_back(row_order(provider.with_helper, s, index, row));
      const Address level{Use::map_level, s.site, s.layer, index, static_cast<std::uint16_t>(row)};
      const Word u = s.level ? provider.with_helper.words(level, 1, s.in)[0] : 0;
      const std::size_t size = s.groups * s.columns_of(index, row);
      disguise_row(orders[i].back(), s.groups, std::span(y0.words).subspan(at + row * width, size),
                   std::span(s0).subspan(row * width, size), u, s.reveal.drop,
                   std::span(a).subspan(at + row * width, size));
    }
  });
  provider.user.send(MapShown{block(s.reveal.sent(), std::move(a))});

  // step 2
  for (Share<Role::provider, W>& result : results) {
    const auto b = provider.user.receive(MapAnswer<W>{expect<W>(result.format.ring, result.words.size())}).b.words;
    provider.executor.parallel(batch.count, [&](std::size_t i) {
      const std::size_t n = s.columns_at(batch.index(i));
      std::vector<W> row_of_y(n);
      for (std::size_t row = 0; row < s.rows; ++row) {
        const std::size_t at = s.answered_before(batch, i) + row * n, size = s.columns_of(batch.index(i), row);
        const std::span<W> w = std::span(result.words).subspan(at, size), y = std::span(row_of_y).first(size);
        restore_row(orders[i][row], std::span(b).subspan(at, size), w, y);
        std::copy(y.begin(), y.end(), w.begin());
      }
    });
  }
  return results;
}

// f(token, row, shown, answers): shown is [groups x columns] in units of the reveal; answers[k] takes the words of the
// k-th answer, in the same order of columns. f must take the same steps whatever the values are; it is called from several
// threads at once.
template <class W = Word, class F>
std::vector<MaskOf<W>> permuted_map(User& user, const MapShape& s, F f) {
  const Batch batch = user.batch;
  // step 1
  const auto a = user.provider.receive(MapShown{expect(s.reveal.sent(), s.shown_before(batch, batch.count))}).a.words;
  std::vector<std::vector<W>> b;
  for (const auto& answer : s.answers) {
    b.emplace_back(s.answered_before(batch, batch.count));
    burn(user.with_helper, batch, [&](std::uint32_t index) { return map_at(Use::map_answer, s, answer.site, index); });
  }
  for_each_token(user, batch.count, [&](std::size_t i) {
    const std::uint32_t index = batch.index(i);
    const std::size_t n = s.columns_at(index), width = s.groups * n, at = s.shown_before(batch, i);
    const auto s1 = user.with_helper.words(map_at(Use::map_shown, s, s.site, index), s.shown_at(index), s.in);
    std::vector<std::int64_t> shown(width);
    std::vector<std::span<W>> answers(s.answers.size());
    for (std::size_t row = 0; row < s.rows; ++row) {
      const std::size_t columns = s.columns_of(index, row), size = s.groups * columns;
      shown.resize(size);
      open(std::span(a).subspan(at + row * width, size), std::span(s1).subspan(row * width, size), s.reveal.drop,
           s.reveal.sent(), shown);
      if (user.observe) user.observe({s.site, s.layer, index, row, shown, s.shown, s.disguise()});
      for (std::size_t k = 0; k < b.size(); ++k)
        answers[k] = std::span(b[k]).subspan(s.answered_before(batch, i) + row * n, columns);
      user.count(s.level ? count_beyond_at_a_level(shown, s.most, s.reveal.sent()) : count_beyond(shown, s.most));
      f(i, row, std::span<const std::int64_t>(shown), answers);
      for (std::size_t k = 0; k < b.size(); ++k)
        user.count(count_beyond(std::span<const W>(answers[k]), s.answers[k].out.ring, s.answers[k].most));
    }
    for (std::size_t k = 0; k < b.size(); ++k) {
      const Site site = s.answers[k].site;
      const Format& out = s.answers[k].out;
      const auto t = user.with_helper.words<W>(map_at(Use::map_answer, s, site, index), s.answered_at(index), out.ring);
      W* answer = &b[k][s.answered_before(batch, i)];
      for (std::size_t j = 0; j < t.size(); ++j) answer[j] -= t[j];
    }
  });
  // step 2
  for (std::size_t k = 0; k < b.size(); ++k) {
    user.provider.send(MapAnswer<W>{block(s.answers[k].out.ring, std::move(b[k]))});
  }
  user.provider.flush();  // the provider goes on while the user derives its next masks
  return map_masks<W>(user.with_helper, s, batch);
}

}  // namespace permllm
