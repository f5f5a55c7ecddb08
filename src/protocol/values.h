// Values: <v>, <p> -> shares of p.v. One round trip, after v was lifted.                        docs/protocol.md 4.4
//
//   Words of the ring of p and p.v have the type W: Wide where 64 bits do not hold it.
//   v is cut in secret first (SecretCut, no message), m: its user's share.
//   lift      P -> U   v0 - alpha, alpha uniform on [-2^(bits-2), 2^(bits-2)): the user holds the integer L = v - alpha,
//             the provider alpha; neither wraps, so this is a sharing of v in any ring. Sent with step 2 of Scores.
//   re-share  U -> P   f = L - c, once a token; c: known to user and helper. Sent with step 3 of Scores.
//   p arrives as p0 = p - rp from a PermutedMap, in the ring of the mix.
//   step 1    P -> U   e = p0 - a                              a: known to provider and helper
//   offline:  helper -> provider   x = a.c + rp.alpha - rho    rho: known to user and helper
//   shares:   provider  p0.alpha + a.f + x          user  (e + rp).L + rho
//   sum:      p0.alpha + a.(f + c) + rp.alpha + e.L + rp.L = (p0 + rp).alpha + (a + e + rp).L = p.(alpha + L) = p.v
//   step 2    U -> P   SecretCut of the user's share, with m = r, a mask that the helper knows
//   coins of what the provider receives: c for f, rho for x, those of SecretCut for step 2 (r for fix).
//   privacy of the model: L is v under alpha up to a statistical distance of |v| 2^(1 - bits + frac) a value. The user's
//   privacy does not depend on it.
//   bound:    |v| < 2^(bits-2); |p.v| fits what is left of the mix's ring after the cut.
#pragma once

#include "protocol/scores.h"
#include "ring/mix_wide.h"

namespace permllm {

struct ValuesShape {
  HeadShape head;
  Ring mixed;   // of p and p.v
  int cut = 0;  // low bits cut from p.v
  Format out;   // once cut
  constexpr SecretCutShape mix_cut() const { return sent_cut(Site::mixed, head.layer, head.q_rows(), cut, out.ring); }
};

// The lift: with step 2 of Scores.
constexpr Cost lift_cost(const ValuesShape& s, Batch batch) {
  return cost(s.head.value_cut(), batch) +
         Cost{.rounds = 0,
              .online = {.provider_to_user = batch.count * s.head.kv_rows() * s.head.v.ring.bytes()},
              .offline = {}};
}
constexpr Cost reshare_cost(const ValuesShape& s, Batch batch) {
  return {.rounds = 0, .online = {.user_to_provider = batch.count * s.head.kv_rows() * s.mixed.bytes()}, .offline = {}};
}
// Steps 1 and 2.
constexpr Cost cost(const ValuesShape& s, Batch batch) {
  return cost(s.mix_cut(), batch) +
         Cost{.rounds = 1,
              .online = {.provider_to_user = s.head.pairs(batch) * s.mixed.bytes()},
              .offline = {.helper_to_provider = batch.count * s.head.q_rows() * s.mixed.bytes()}};
}

struct LiftedValues {  // lift, provider -> user
  static constexpr Tag tag = Tag::lifted_values;
  Block v;
  template <class Io>
  void visit(Io& io) {
    io.block("v", v);
  }
};
template <class W>
struct ResharedValues {  // re-share, user -> provider
  static constexpr Tag tag = Tag::reshared_values;
  BlockOf<W> f;
  template <class Io>
  void visit(Io& io) {
    io.block("f", f);
  }
};
template <class W>
struct MaskedWeights {  // step 1, provider -> user: [token][head][key]
  static constexpr Tag tag = Tag::masked_weights;
  BlockOf<W> e;
  template <class Io>
  void visit(Io& io) {
    io.block("e", e);
  }
};
template <class W>
struct MaskedMix {  // step 2, user -> provider
  static constexpr Tag tag = Tag::masked_mix;
  BlockOf<W> d;
  template <class Io>
  void visit(Io& io) {
    io.block("d", d);
  }
};

inline Address values_at(Use use, const ValuesShape& s, std::uint32_t slot) {
  return {use, Site::scores, s.head.layer, slot};
}

// alpha of one slot: integers of bits - 1 bits, as words modulo 2^64.
inline Words lift_masks(Words alpha, Ring v) {
  for (Word& a : alpha) a -= Word{1} << (v.bits - 2);
  return alpha;
}
constexpr Ring lift_ring(Ring v) { return Ring{v.bits - 1}; }

// out[h] += sum over keys j of weights[h][j] values[j][kv_of(h)]; values are signed integers or words of the same ring, of slot `first`
// and after. weights: [head][n].
template <class W, class V>
void mix(const HeadShape& s, const W* weights, std::size_t n, std::size_t first, const std::vector<V>& values, W* out) {
  const std::size_t count = keys_met(s, n, first, values.size());
  for (std::size_t h = 0; count > 0 && h < s.heads; ++h) {
    mix_rows(weights + h * n + first, &values[s.kv_of(h) * s.head_dim], s.kv_rows(), count, s.head_dim,
             out + h * s.head_dim);
  }
}

// The same over the slots before `end`, of which there is no cache: weights(i) and out(i) of each token of the party's batch.
template <class Party, class Derive, class Weights, class Out>
void mix_derived(Party& party, const HeadShape& s, std::size_t end, Derive derive, Weights weights, Out out) {
  for_derived_keys(party.executor, s, end, derive, [&](std::size_t begin, const auto& values) {
    party.executor.parallel(party.batch.count, [&](std::size_t i) {
      mix(s, weights(i), s.keys_at(party.batch.index(i)), begin, values, out(i));
    });
  });
}

// v of a token, not cut yet: the last part of a party's share of qkv.
template <Role R>
std::span<const Word> value_row(const Share<R>& qkv, const HeadShape& s, std::size_t i) {
  return qkv.token(i).last(s.kv_rows());
}

// m of a slot: the user's share of v once cut.
inline Words value_masks(const Coins& coins, const HeadShape& s, std::uint32_t slot) {
  return coins.words(cut_at(Use::cut_mask, s.value_cut(), slot), s.kv_rows(), s.v.ring);
}

// alpha of a slot.
inline Words lift_alpha(const Coins& coins, const ValuesShape& s, std::uint32_t slot) {
  return lift_masks(coins.words(values_at(Use::value_lift, s, slot), s.head.kv_rows(), lift_ring(s.head.v.ring)),
                    s.head.v.ring);
}

// c of a slot.
template <class W>
std::vector<W> reshare_masks(const Coins& coins, const ValuesShape& s, std::uint32_t slot) {
  return coins.words<W>(values_at(Use::value_reshared, s, slot), s.head.kv_rows(), s.mixed);
}

// r: the user's share of the output.
inline Mask mix_masks(const Coins& coins, const ValuesShape& s, Batch batch) {
  return mask_of(coins, s.out, s.head.q_rows(), batch,
                 [&](std::uint32_t slot) { return values_at(Use::value_mask, s, slot); });
}

// Adds to `to`, which may be empty.
template <Role R>
void append(Share<R>& to, const Share<R>& from) {
  to.format = from.format;
  to.size = from.size;
  to.words.insert(to.words.end(), from.words.begin(), from.words.end());
}

// offline, helper -> provider: fix of v.
inline void values_lift(Helper& helper, const ValuesShape& s, const Mask& qkv) {
  const SecretCutShape cut = s.head.value_cut();
  burn(helper.with_user, helper.batch, [&](std::uint32_t slot) { return cut_at(Use::cut_mask, cut, slot); });
  helper.executor.parallel(helper.batch.count, [&](std::size_t i) {
    const Words m = value_masks(helper.with_user, s.head, helper.batch.index(i));
    secret_cut<Word>(helper, cut, i, value_row(qkv, s.head, i), m);
  });
}

// offline, helper -> provider: fix of p.v.
template <class W>
void send_mix(Helper& helper, const ValuesShape& s) {
  burn(helper.with_user, helper.batch, [&](std::uint32_t slot) { return values_at(Use::value_mask, s, slot); });
  const Mask r = mix_masks(helper.with_user, s, helper.batch);
  helper.executor.parallel(helper.batch.count, [&](std::size_t i) {
    const auto sent = cut_masks<W>(helper.with_user, s.mix_cut(), helper.batch.index(i));
    secret_cut<W>(helper, s.mix_cut(), i, sent, r.token(i));
  });
}

// offline, helper -> provider: x, and fix of p.v. rp: of the probabilities, [token][head][key].
template <class W>
void values(Helper& helper, const ValuesShape& s, const MaskOf<W>& rp) {
  burn(helper.with_user, helper.batch, [&](std::uint32_t slot) { return values_at(Use::value_share, s, slot); });
  std::vector<std::vector<W>> a(helper.batch.count), x(helper.batch.count);
  helper.executor.parallel(helper.batch.count, [&](std::size_t i) {
    const std::uint32_t slot = helper.batch.index(i);
    a[i] = helper.with_provider.words<W>(values_at(Use::value_weights, s, slot), s.head.heads * s.head.keys_at(slot),
                                         s.mixed);
    x[i] = helper.with_user.words<W>(values_at(Use::value_share, s, slot), s.head.q_rows(), s.mixed);
    for (W& word : x[i]) word = W{0} - word;
  });
  const auto c = [&](std::uint32_t slot) { return reshare_masks<W>(helper.with_user, s, slot); };
  const auto alpha = [&](std::uint32_t slot) { return lift_alpha(helper.with_provider, s, slot); };
  const std::size_t end = s.head.keys_at(helper.batch.index(helper.batch.count - 1));
  const auto out = [&](std::size_t i) { return x[i].data(); };
  mix_derived(
      helper, s.head, end, c, [&](std::size_t i) { return a[i].data(); }, out);
  mix_derived(
      helper, s.head, end, alpha, [&](std::size_t i) { return &rp.words[s.head.pairs_before(helper.batch, i)]; }, out);
  for (std::size_t i = 0; i < x.size(); ++i) helper.packs[i].words(x[i], s.mixed);
  send_mix<W>(helper, s);
}

// lift: with step 2 of Scores.
inline void values_lift(Provider& provider, const ValuesShape& s, const Masked& qkv) {
  Words lifted;
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    provider.with_helper.burn(values_at(Use::value_lift, s, provider.batch.index(i)));
    const Words alpha = lift_alpha(provider.with_helper, s, provider.batch.index(i));
    Words v0 = secret_cut<Word>(provider, s.head.value_cut(), i, value_row(qkv, s.head, i));
    subtract(v0, alpha);
    append(lifted, v0);
    append(provider.keys[s.head.layer].lift, alpha);
  }
  provider.user.send(LiftedValues{block(s.head.v.ring, std::move(lifted))});
}

// The lifted values join the user's cache.
inline void values_lift(User& user, const ValuesShape& s) {
  const std::size_t kv = s.head.kv_rows();
  const auto lifted = user.provider.receive(LiftedValues{expect(s.head.v.ring, user.batch.count * kv)}).v.words;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const Words m = value_masks(user.with_helper, s.head, user.batch.index(i));
    for (std::size_t j = 0; j < kv; ++j) {
      user.keys[s.head.layer].lift.push_back(static_cast<Word>(centre(lifted[i * kv + j] + m[j], s.head.v.ring)));
    }
  }
}

// re-share: with step 3 of Scores.
template <class W>
void values_reshare(Provider& provider, const ValuesShape& s) {
  const auto f =
      provider.user.receive(ResharedValues<W>{expect<W>(s.mixed, provider.batch.count * s.head.kv_rows())}).f.words;
  std::vector<W>& all = provider.keys[s.head.layer].reshare.of<W>();
  all.insert(all.end(), f.begin(), f.end());
}

template <class W>
void values_reshare(User& user, const ValuesShape& s) {
  const std::size_t kv = s.head.kv_rows();
  const Words& lift = user.keys[s.head.layer].lift;
  std::vector<W> f;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const std::uint32_t slot = user.batch.index(i);
    const auto c = user.with_helper.spend<W>(values_at(Use::value_reshared, s, slot), kv, s.mixed);
    for (std::size_t j = 0; j < kv; ++j) f.push_back(widen<W>(lift[(slot - user.timeline.first()) * kv + j]) - c[j]);
  }
  user.provider.send(ResharedValues<W>{block(s.mixed, std::move(f))});
}

// Step 2. shares: of each token, [q_rows] in the ring of the mix.
template <class W>
Masked receive_mix(Provider& provider, const ValuesShape& s, std::vector<std::vector<W>> shares) {
  const SecretCutShape cut = s.mix_cut();
  const std::size_t q = s.head.q_rows();
  const auto d = provider.user.receive(MaskedMix<W>{expect<W>(cut.in(), shares.size() * q)}).d.words;
  Masked out{s.out, q, Words(shares.size() * q)};
  provider.executor.parallel(shares.size(), [&](std::size_t i) {
    for (std::size_t j = 0; j < q; ++j) shares[i][j] = cut_openly(shares[i][j], cut) + d[i * q + j];
    const Words share = secret_cut<W>(provider, cut, i, shares[i]);
    std::copy(share.begin(), share.end(), out.token(i).begin());
  });
  return out;
}

// Steps 1 and 2. p0: [token][head][key].
template <class W>
Masked values(Provider& provider, const ValuesShape& s, const MaskedOf<W>& p0) {
  ProviderKeys& keys = provider.keys[s.head.layer];
  const std::vector<W>& f = keys.reshare.of<W>();
  const std::size_t q = s.head.q_rows();
  std::vector<W> e = p0.words;
  std::vector<std::vector<W>> shares(provider.batch.count);
  burn(provider.with_helper, provider.batch,
       [&](std::uint32_t slot) { return values_at(Use::value_weights, s, slot); });
  provider.executor.parallel(provider.batch.count, [&](std::size_t i) {
    const std::uint32_t slot = provider.batch.index(i);
    const std::size_t n = s.head.keys_at(slot), pairs = s.head.heads * n, at = s.head.pairs_before(provider.batch, i);
    const auto a = provider.with_helper.words<W>(values_at(Use::value_weights, s, slot), pairs, s.mixed);
    for (std::size_t j = 0; j < pairs; ++j) e[at + j] -= a[j];
    shares[i] = provider.pack(i).helper.words<W>("a.c + rp.alpha - rho", q, s.mixed);
    mix(s.head, &p0.words[at], n, provider.timeline.first(), keys.lift, shares[i].data());
    mix(s.head, a.data(), n, provider.timeline.first(), f, shares[i].data());
  });
  mix_derived(
      provider, s.head, provider.timeline.first(),
      [&](std::uint32_t slot) { return lift_alpha(provider.with_helper, s, slot); },
      [&](std::size_t i) { return &p0.words[s.head.pairs_before(provider.batch, i)]; },
      [&](std::size_t i) { return shares[i].data(); });
  provider.user.send(MaskedWeights<W>{block(s.mixed, std::move(e))});
  return receive_mix(provider, s, std::move(shares));
}

// Step 2: the user's share of the mix. share(i) -> [q_rows] in the ring of the mix.
template <class W, class Shares>
Mask send_mix(User& user, const ValuesShape& s, const Shares& share) {
  const SecretCutShape cut = s.mix_cut();
  const std::size_t q = s.head.q_rows();
  burn(user.with_helper, user.batch, [&](std::uint32_t slot) { return cut_at(Use::cut_sent, cut, slot); });
  std::vector<W> d(user.batch.count * q);
  user.executor.parallel(user.batch.count, [&](std::size_t i) {
    const std::vector<W> words = share(i);
    const std::span<W> row = std::span(d).subspan(i * q, q);
    for (std::size_t j = 0; j < q; ++j) row[j] = cut_openly(words[j], cut);
    secret_cut<W>(user, cut, i, row);
  });
  user.provider.send(MaskedMix<W>{block(cut.in(), std::move(d))});
  return mix_masks(user.with_helper, s, user.batch);
}

// The key of a skipped slot has f = 0 at the provider and L = c at the user, so that p = 0 times it is 0. c may not fit the
// cache of L, which holds 0 there.
template <class W>
void add_skipped(User& user, const ValuesShape& s, const W* weights, std::size_t n, W* out) {
  for (std::size_t j = user.timeline.first(); j < n; ++j) {
    if (!user.timeline.skipped(j)) continue;
    const auto c = reshare_masks<W>(user.with_helper, s, static_cast<std::uint32_t>(j));
    for (std::size_t h = 0; h < s.head.heads; ++h) {
      for (std::size_t d = 0; d < s.head.head_dim; ++d) {
        out[h * s.head.head_dim + d] += weights[h * n + j] * c[s.head.kv_of(h) * s.head.head_dim + d];
      }
    }
  }
}

// Steps 1 and 2. rp: of the probabilities.
template <class W>
Mask values(User& user, const ValuesShape& s, const MaskOf<W>& rp) {
  auto opened = user.provider.receive(MaskedWeights<W>{expect<W>(s.mixed, rp.words.size())}).e.words;
  for (std::size_t j = 0; j < opened.size(); ++j) opened[j] += rp.words[j];
  const auto weights = [&](std::size_t i) { return &opened[s.head.pairs_before(user.batch, i)]; };
  std::vector<std::vector<W>> shares(user.batch.count);
  user.executor.parallel(shares.size(), [&](std::size_t i) {
    const std::uint32_t slot = user.batch.index(i);
    shares[i] = user.with_helper.words<W>(values_at(Use::value_share, s, slot), s.head.q_rows(), s.mixed);
    const std::size_t n = s.head.keys_at(slot);
    mix(s.head, weights(i), n, user.timeline.first(), user.keys[s.head.layer].lift, shares[i].data());
    add_skipped(user, s, weights(i), n, shares[i].data());
  });
  mix_derived(
      user, s.head, user.timeline.first(),
      [&](std::uint32_t slot) { return reshare_masks<W>(user.with_helper, s, slot); }, weights,
      [&](std::size_t i) { return shares[i].data(); });
  return send_mix<W>(user, s, [&](std::size_t i) { return std::move(shares[i]); });
}

}  // namespace permllm
