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
//   coins of what the provider receives: m for c1, rho for c2.
//   bound:    |W x| < 2^(bits-1), from the plan's calibrated ranges.
#pragma once

#include "protocol/party.h"

namespace permllm {

struct LinearShape {
  Site site;
  std::uint16_t layer = 0;
  std::size_t rows = 0, cols = 0;
  Format out;  // ring of the product, fraction bits of W x
};

inline constexpr Leak k_linear_leak[] = {
    {Role::user, "nothing"}, {Role::provider, "nothing"}, {Role::helper, "nothing"}};

constexpr Cost cost(const LinearShape& s, Batch batch) {
  const std::size_t words = batch.count * s.rows * s.out.ring.bytes();
  return {.rounds = 0, .online = {}, .offline = {.user_to_provider = words, .helper_to_provider = words}};
}

// A party without a matrix: the online user, and the cost counter.
struct NoMatrix {};

// m for the whole batch: known to user and helper.
inline Mask linear_mask(const Coins& coins, const LinearShape& s, Batch batch) {
  Mask m{s.out, s.rows, {}};
  m.words.reserve(batch.count * s.rows);
  for (std::size_t i = 0; i < batch.count; ++i) {
    const auto row = coins.words({Use::linear_mask, s.site, s.layer, batch.index(i)}, s.rows, s.out.ring);
    m.words.insert(m.words.end(), row.begin(), row.end());
  }
  return m;
}

// offline, helper -> provider: V r - rho
template <class Matrix>
Mask linear(Helper& helper, const LinearShape& s, const Matrix& v, const Mask& r) {
  Words y(helper.batch.count * s.rows);
  product(v, r.words, y, helper.executor);
  for (std::size_t i = 0; i < helper.batch.count; ++i) {
    const auto rho = helper.with_user.spend({Use::linear_rho, s.site, s.layer, helper.batch.index(i)}, s.rows,
                                                  s.out.ring);
    const std::span<Word> row = std::span(y).subspan(i * s.rows, s.rows);
    for (std::size_t j = 0; j < s.rows; ++j) row[j] -= rho[j];
    helper.packs[i].words(row, s.out.ring);
  }
  return linear_mask(helper.with_user, s, helper.batch);
}

// offline, user -> provider: U r + rho - m
template <class Matrix>
Mask linear(UserDealer& user, const LinearShape& s, const Matrix& u, const Mask& r) {
  Words y(user.batch.count * s.rows);
  product(u, r.words, y, user.executor);
  Mask m = linear_mask(user.with_helper, s, user.batch);
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const auto rho =
        user.with_helper.spend({Use::linear_rho, s.site, s.layer, user.batch.index(i)}, s.rows, s.out.ring);
    const std::span<Word> row = std::span(y).subspan(i * s.rows, s.rows);
    for (std::size_t j = 0; j < s.rows; ++j) row[j] += rho[j] - m.token(i)[j];
    user.packs[i].words(row, s.out.ring);
  }
  return m;
}

// online: no message
template <class Matrix>
Masked linear(Provider& provider, const LinearShape& s, const Matrix& w, const Masked& x0) {
  Masked y0{s.out, s.rows, Words(provider.batch.count * s.rows)};
  product(w, s.out.ring, x0.words, y0.words, provider.executor);
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const auto from_user = provider.packs[i].user.words("U r + rho - m", s.rows, s.out.ring);
    const auto from_helper = provider.packs[i].helper.words("V r - rho", s.rows, s.out.ring);
    const std::span<Word> row = y0.token(i);
    for (std::size_t j = 0; j < s.rows; ++j) row[j] += from_user[j] + from_helper[j];
  }
  return y0;
}

inline Mask linear(User& user, const LinearShape& s, NoMatrix, const Mask&) {
  return linear_mask(user.with_helper, s, user.batch);
}

inline Counted linear(Counter& counter, const LinearShape& s, NoMatrix, const Counted&) {
  counter.total += cost(s, counter.batch);
  return {s.out, s.rows};
}

}  // namespace permllm
