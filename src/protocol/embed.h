// Embed: masked one-hots -> the rows of the embedding table, as the residual and as the first norm's output.
// One round trip, which is the first norm's.                       docs/protocol.md 4.6
//
//   A one-hot <e> (ring 2^16) times the table is a Linear; its result is exact in units of the table and arrives under an
//   entry's or a pass's mask, from which a Remask moves it to its slot's. Then, for each slot:
//   step 1, 2          PermutedMap: the user sees the row's entries in a fresh order and answers twice: the row in the
//                      residual's format, and the row divided by its rms
#pragma once

#include "protocol/linear.h"
#include "protocol/norm.h"
#include "protocol/remask.h"

namespace permllm {

struct OneHotShape {
  Site site;
  std::size_t vocab = 0;
  Ring ring;
};

// --- A prompt's one-hots: user -> provider, e - r, one for each entry ---------------------------------------------------

constexpr Cost cost(const OneHotShape& s, Batch batch) {
  return {.rounds = 0, .online = {.user_to_provider = batch.count * s.vocab * s.ring.bytes()}, .offline = {}};
}

struct PromptOneHots {  // user -> provider
  static constexpr Tag tag = Tag::prompt_one_hots;
  Block e0;
  template <class Io>
  void visit(Io& io) {
    io.block("e0", e0);
  }
};

inline Mask one_hot_mask(const Coins& coins, const OneHotShape& s, Batch batch) {
  return mask_of(coins, {s.ring, 0}, s.vocab, batch, [&](std::uint32_t index) {
    return Address{Use::one_hot, s.site, 0, index};
  });
}

inline Masked prompt_one_hots(Provider& provider, const OneHotShape& s) {
  const std::size_t total = provider.batch.count * s.vocab;
  return {{s.ring, 0}, s.vocab, provider.user.receive(PromptOneHots{expect(s.ring, total)}).e0.words};
}

inline Mask prompt_one_hots(User& user, const OneHotShape& s, std::span<const std::uint32_t> tokens) {
  PERMLLM_ASSERT(tokens.size() == user.batch.count);
  Words e0;
  e0.reserve(tokens.size() * s.vocab);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    auto row = user.with_helper.spend({Use::one_hot, s.site, 0, user.batch.index(i)}, s.vocab, s.ring);
    // The same steps for every token: the place of the 1 decides no branch and no address.
    for (std::size_t k = 0; k < s.vocab; ++k) row[k] = Word{k == tokens[i]} - row[k];
    e0.insert(e0.end(), row.begin(), row.end());
  }
  user.provider.send(PromptOneHots{block(s.ring, std::move(e0))});
  return one_hot_mask(user.with_helper, s, user.batch);
}

inline Counted prompt_one_hots(Counter& counter, const OneHotShape& s) {
  counter.total += cost(s, counter.batch);
  return {{s.ring, 0}, s.vocab};
}

// --- Rows of a batch of slots -----------------------------------------------------------------------------------------

struct EmbedShape {
  MapShape map;  // one row of one group; answers: the residual, the first norm's output
  double eps = 0;
  bool centred = false;  // as in NormShape
  int frac = 0;          // of the table's integers
  double plain = 0;      // as in NormShape
};

// The row as the residual (x) and normed (h).
template <class Value>
struct Embedded {
  Value x, h;
};
template <class Value>
Embedded<Value> embedded(std::vector<Value> answers) {
  return {std::move(answers[0]), std::move(answers[1])};
}

constexpr Cost cost(const EmbedShape& s, Batch batch) { return cost(s.map, batch); }

// Learned positions: the provider adds the row of each token's position, which it knows, to its share. Empty: none.
inline void add_positions(Provider& provider, std::span<const float> positions, Masked& rows) {
  if (positions.empty()) return;
  for (std::size_t i = 0; i < rows.tokens(); ++i) {
    const std::size_t place = provider.timeline.position(provider.batch.index(i));
    const auto row = rows.token(i);
    for (std::size_t j = 0; j < row.size(); ++j)
      row[j] += encode(double{positions[place * row.size() + j]}, rows.format);
  }
}
template <class Party, class Value>
void add_positions(Party&, std::span<const float>, Value&) {}

inline Embedded<Mask> embed(Helper& helper, const EmbedShape& s, const Mask& rows) {
  return embedded(permuted_map(helper, s.map, rows));
}
inline Embedded<Mask> embed(UserDealer& user, const EmbedShape& s, const Mask&) {
  return embedded(permuted_map(user, s.map));
}

inline Embedded<Masked> embed(Provider& provider, const EmbedShape& s, const Masked& rows) {
  return embedded(permuted_map(provider, s.map, rows));
}

inline Embedded<Mask> embed(User& user, const EmbedShape& s, const Mask&) {
  return embedded(permuted_map(user, s.map, [&](std::size_t, std::size_t, auto row, auto& answers) {
    const double unit = power_of_two(-s.frac);
    const RowNorm of = s.plain != 0 ? RowNorm{0, s.plain} : row_norm(row, s.frac, s.eps, s.centred);
    clear::scale(row, 0, unit, s.map.answers[0].out, answers[0]);
    clear::scale(row, of.mean, unit * of.scale, s.map.answers[1].out, answers[1]);
  }));
}

inline Embedded<Counted> embed(Counter& counter, const EmbedShape& s, const Counted& rows) {
  counter.total += cost(s, counter.batch);
  return {{s.map.answers[0].out, rows.size}, {s.map.answers[1].out, rows.size}};
}

}  // namespace permllm
