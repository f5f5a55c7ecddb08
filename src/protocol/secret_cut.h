// SecretCut: <x> -> <floor(x / 2^t)>, or one unit more.                                       docs/protocol.md 4.12
//
//   F:        provider holds x0, user holds x1, x = x0 + x1   ->   shares of x without its low t bits
//   Where each shifts its own part (2.4), the low bits of x1 decide the rounding, and the user knows them. Here a coin does that the user never has.
//   Each shifts `open` bits away by itself; `secret` are left, t = open + secret:
//   step 1    U -> P   d = (x1 >> open) - r               where the helper knows x1: no message, r = x1, d = 0, open = 0
//   offline:  helper -> provider   fix = cut(r - delta, secret) - m      delta: uniform on `secret` bits, known to provider and helper
//   result    provider cut((x0 >> open) + d + delta, secret) + fix      user m, which the helper knows
//   sum:      floor((x - D) / 2^t) + 1, D = low(x1, open) + 2^open low(r - delta + 2^(secret - 1), secret) < 2^t
//   (q and k have their open bits cut with half a unit, protocol/scores.h: 2^open less in D, 2^-secret of a unit in the mean.)
//   D is uniform, whatever the user knows, up to its own low(x1, open): less than 2^-secret of a unit of what comes out.
//   coins of what the provider receives: r for d, m for fix.
//   bound:    as that of a cut: x fits the ring of what comes out, t bits more.
#pragma once

#include <algorithm>

#include "protocol/roles.h"

namespace permllm {

struct SecretCutShape {
  Site site;
  std::uint16_t layer = 0;
  std::size_t size = 0;  // words of a token
  int open = 0, secret = 0;
  Ring out;                                                      // once cut
  bool sent = true;                                              // step 1 is a message
  constexpr Ring in() const { return Ring{out.bits + secret}; }  // of what `open` bits were cut from
};

// Bits that are cut in secret at least, where so many are cut: of a word that is sent. More where its last byte has room.
inline constexpr int k_secret_bits = 16;
constexpr SecretCutShape sent_cut(Site site, std::uint16_t layer, std::size_t size, int cut, Ring out) {
  const int secret = std::min(cut, static_cast<int>(8 * Ring{out.bits + k_secret_bits}.bytes()) - out.bits);
  return {site, layer, size, cut - secret, secret, out};
}
// Of words of which the helper knows the user's part: all bits in secret.
constexpr SecretCutShape known_cut(Site site, std::uint16_t layer, std::size_t size, int cut, Ring out) {
  return {site, layer, size, 0, cut, out, false};
}

constexpr Cost cost(const SecretCutShape& s, Batch batch) {
  const std::size_t words = batch.count * s.size;
  return {.rounds = 0,
          .online = {.user_to_provider = s.sent ? words * s.in().bytes() : 0},
          .offline = {.helper_to_provider = words * s.out.bytes()}};
}

inline Address cut_at(Use use, const SecretCutShape& s, std::uint32_t slot) { return {use, s.site, s.layer, slot}; }

// r of a slot: known to user and helper.
template <class W>
std::vector<W> cut_masks(const Coins& coins, const SecretCutShape& s, std::uint32_t slot) {
  return coins.words<W>(cut_at(Use::cut_sent, s, slot), s.size, s.in());
}
// delta of a slot: known to provider and helper.
inline Words cut_coins(const Coins& coins, const SecretCutShape& s, std::uint32_t slot) {
  return coins.words(cut_at(Use::cut_coin, s, slot), s.size, Ring{s.secret});
}
// What each cuts of p.v by itself: the floor, since the rest is rounded.
inline Word cut_openly(Word x, const SecretCutShape& s) {
  return static_cast<Word>(static_cast<std::int64_t>(x) >> s.open);
}
inline Wide cut_openly(Wide x, const SecretCutShape& s) {
  return static_cast<Wide>(static_cast<__int128>(x) >> s.open);
}

// offline, helper -> provider: fix of the i-th slot. r: [size], as cut_masks, or the user's part; m: [size], whose coins the caller burns.
template <class W>
void secret_cut(Helper& helper, const SecretCutShape& s, std::size_t i, std::span<const W> r, std::span<const Word> m) {
  const Words delta = cut_coins(helper.with_provider, s, helper.batch.index(i));
  Words fix(s.size);
  for (std::size_t j = 0; j < s.size; ++j) fix[j] = cut(static_cast<W>(r[j] - delta[j]), s.secret) - m[j];
  helper.packs[i].words(fix, s.out);
}

// Its share of the i-th slot. x: [size], (x0 >> open) + d.
template <class W>
Words secret_cut(Provider& provider, const SecretCutShape& s, std::size_t i, std::span<const W> x) {
  const Words delta = cut_coins(provider.with_helper, s, provider.batch.index(i));
  Words share = provider.pack(i).helper.words("cut(r - delta) - m", s.size, s.out);
  for (std::size_t j = 0; j < s.size; ++j) share[j] += cut(static_cast<W>(x[j] + delta[j]), s.secret);
  return share;
}

// Step 1: d of the i-th slot, in place of x1 >> open. The caller burns r ahead.
template <class W>
void secret_cut(const User& user, const SecretCutShape& s, std::size_t i, std::span<W> x) {
  const auto r = cut_masks<W>(user.with_helper, s, user.batch.index(i));
  for (std::size_t j = 0; j < s.size; ++j) x[j] -= r[j];
}

}  // namespace permllm
