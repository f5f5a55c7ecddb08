// Linear: <x> -> <W x>.                                          docs/protocol.md 4.1; PermLLM, section 4.2, with V at the helper
//
//   F:        provider holds x0 and W, user holds r, x = x0 + r   ->   shares of W x in the ring of the output
//   once:     provider draws U from a fresh seed for this version of the weights, sends V = W - U to the helper and U's seed
//             to the user
//   offline:  user and helper derive r, rho, m from their seed
//             user   -> provider   c1 = U r + rho - m
//             helper -> provider   c2 = V r - rho
//   online:   nothing is sent; provider keeps W x0 + c1 + c2, user keeps m
//   sum:      W x0 + (U r + rho - m) + (V r - rho) + m = W x0 + (U + V) r = W x
//   public weights (profile open): the helper holds W itself and sends c = W r - m, the user nothing.
//   coins of what the provider receives: m for c1, rho for c2; m for c.
//   bound:    |W x| < 2^(bits-1), from the plan's calibrated ranges.
#pragma once

#include <algorithm>

#include "protocol/roles.h"
#include "ring/elementwise.h"
#include "ring/matrix.h"

namespace permllm {

struct LinearShape {
  Site site;
  std::uint16_t layer = 0;
  std::size_t rows = 0, cols = 0;
  Format out;  // ring of the product, fraction bits of W x
  bool public_weights = false;
};

constexpr Cost cost(const LinearShape& s, Batch batch) {
  const std::size_t words = batch.count * s.rows * s.out.ring.bytes();
  return {.rounds = 0,
          .online = {},
          .offline = {.user_to_provider = s.public_weights ? 0 : words, .helper_to_provider = words}};
}

inline Address linear_at(Use use, const LinearShape& s, std::uint32_t index) { return {use, s.site, s.layer, index}; }

// m for the whole batch: known to user and helper.
inline Mask linear_mask(const Coins& coins, const LinearShape& s, Batch batch) {
  return mask_of(coins, s.out, s.rows, batch,
                 [&](std::uint32_t index) { return linear_at(Use::linear_mask, s, index); });
}

// offline, helper -> provider: V r - rho, or W r - m
template <class Matrix>
Mask linear(Helper& helper, const LinearShape& s, const Matrix& v, const Mask& r) {
  Words y(helper.batch.count * s.rows);
  product(v, s.out.ring, r.words, y, helper.executor);
  Mask m = linear_mask(helper.with_user, s, helper.batch);
  const Use use = s.public_weights ? Use::linear_mask : Use::linear_rho;
  burn(helper.with_user, helper.batch, [&](std::uint32_t index) { return linear_at(use, s, index); });
  helper.executor.parallel(helper.batch.count, [&](std::size_t i) {
    const auto hidden = helper.with_user.words(linear_at(use, s, helper.batch.index(i)), s.rows, s.out.ring);
    const std::span<Word> row = std::span(y).subspan(i * s.rows, s.rows);
    subtract(row, hidden);
    helper.packs[i].words(row, s.out.ring);
  });
  return m;
}

// offline, user -> provider: U r + rho - m
template <class Matrix>
Mask linear(UserDealer& user, const LinearShape& s, const Matrix& u, const Mask& r) {
  Mask m = linear_mask(user.with_helper, s, user.batch);
  if (s.public_weights) return m;
  Words y(user.batch.count * s.rows);
  product(u, r.words, y, user.executor);
  burn(user.with_helper, user.batch, [&](std::uint32_t index) { return linear_at(Use::linear_rho, s, index); });
  user.executor.parallel(user.batch.count, [&](std::size_t i) {
    const auto rho = user.with_helper.words(linear_at(Use::linear_rho, s, user.batch.index(i)), s.rows, s.out.ring);
    const std::span<Word> row = std::span(y).subspan(i * s.rows, s.rows);
    add(row, rho);
    subtract(row, m.token(i));
    user.packs[i].words(row, s.out.ring);
  });
  return m;
}

// online: no message
template <class Matrix>
Masked linear(Provider& provider, const LinearShape& s, const Matrix& w, const Masked& x0) {
  Masked y0{s.out, s.rows, Words(provider.batch.count * s.rows)};
  product(w, s.out.ring, x0.words, y0.words, provider.executor);
  provider.executor.parallel(provider.batch.count, [&](std::size_t i) {
    const std::span<Word> row = y0.token(i);
    if (!s.public_weights) add(row, provider.pack(i).user.words("U r + rho - m", s.rows, s.out.ring));
    add(row, provider.pack(i).helper.words(s.public_weights ? "W r - m" : "V r - rho", s.rows, s.out.ring));
  });
  return y0;
}

template <class Matrix>
Mask linear(User& user, const LinearShape& s, const Matrix&, const Mask&) {
  return linear_mask(user.with_helper, s, user.batch);
}

template <class Matrix>
Counted linear(Counter& counter, const LinearShape& s, const Matrix&, const Counted&) {
  counter.total += cost(s, counter.batch);
  return {s.out, s.rows};
}

// A product that was dealt and that nobody wants: its words are left unused.
inline void leave_out(Provider& provider, const LinearShape& s) {
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    if (!s.public_weights) provider.pack(i).user.words("U r + rho - m", s.rows, s.out.ring);
    provider.pack(i).helper.words(s.public_weights ? "W r - m" : "V r - rho", s.rows, s.out.ring);
  }
}
inline void leave_out(User&, const LinearShape&) {}
inline void leave_out(Counter& counter, const LinearShape& s) { counter.total += cost(s, counter.batch); }

// --- Constants --------------------------------------------------------------------------------------------------------
// A constant that the provider alone knows is added to its share: no message, nothing new to anyone. Empty: none.

inline void add_constant(Masked& x, std::span<const float> constant) {
  for (std::size_t j = 0; j < constant.size(); ++j) {
    const Word word = encode(double{constant[j]}, x.format);
    for (std::size_t i = 0; i < x.tokens(); ++i) x.token(i)[j] += word;
  }
}
inline void add_constant(Mask&, std::span<const float>) {}
inline void add_constant(Counted&, std::span<const float>) {}

}  // namespace permllm
