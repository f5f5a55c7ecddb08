// Values: <v>, <p> -> shares of p.v. One round trip, after v was lifted.                        docs/protocol.md 4.4
//
//   lift      P -> U   v0 - alpha, alpha uniform on [-2^(bits-2), 2^(bits-2)): the user holds the integer L = v - alpha,
//             the provider alpha; neither wraps, so this is a sharing of v in any ring. Sent with step 2 of Scores.
//   re-share  U -> P   f = L - c, once a token; c: known to user and helper. Sent with step 3 of Scores.
//   p arrives as p0 = p - rp from a PermutedMap, in the ring of the mix.
//   step 1    P -> U   e = p0 - a                              a: known to provider and helper
//   offline:  helper -> provider   x = a.c + rp.alpha - rho    rho: known to user and helper
//   shares:   provider  p0.alpha + a.f + x          user  (e + rp).L + rho
//   sum:      p0.alpha + a.(f + c) + rp.alpha + e.L + rp.L = (p0 + rp).alpha + (a + e + rp).L = p.(alpha + L) = p.v
//   Both cut their shares; step 2  U -> P   the user's share less r, a mask that the helper knows.
//   coins of what the provider receives: c for f, rho for x, r for step 2.
//   privacy of the model: L is v under alpha up to a statistical distance of |v| 2^(1 - bits + frac) a value. The user's
//   privacy does not depend on it.
//   bound:    |v| < 2^(bits-2); |p.v| fits what is left of the mix's ring after the cut.
#pragma once

#include "protocol/scores.h"

namespace permllm {

struct ValuesShape {
  HeadShape head;
  Ring mixed;   // of p and p.v
  int cut = 0;  // low bits cut from p.v
  Format out;   // once cut
};

inline constexpr Leak k_values_leak[] = {
    {Role::user, "v up to a statistical distance of |v| 2^(1 - bits + frac) a value"}, {Role::provider, "nothing"},
    {Role::helper, "nothing"}};

constexpr Cost cost(const ValuesShape& s, Batch batch) {
  const std::size_t kv = s.head.kv_heads * s.head.head_dim, q = s.head.heads * s.head.head_dim;
  Cost total{.rounds = 1, .online = {}, .offline = {}};
  for (std::size_t i = 0; i < batch.count; ++i) {
    const std::size_t pairs = s.head.heads * (std::size_t{batch.index(i)} + 1);
    total.online.provider_to_user += kv * s.head.v.ring.bytes() + pairs * s.mixed.bytes();
    total.online.user_to_provider += kv * s.mixed.bytes() + q * s.out.ring.bytes();
    total.offline.helper_to_provider += q * s.mixed.bytes();
  }
  return total;
}

struct LiftedValues {  // lift, provider -> user
  static constexpr Tag tag = Tag::lifted_values;
  Block v;
  template <class Io>
  void visit(Io& io) {
    io.block("v", v);
  }
};
struct ResharedValues {  // re-share, user -> provider
  static constexpr Tag tag = Tag::reshared_values;
  Block f;
  template <class Io>
  void visit(Io& io) {
    io.block("f", f);
  }
};
struct MaskedWeights {  // step 1, provider -> user: [token][head][key]
  static constexpr Tag tag = Tag::masked_weights;
  Block e;
  template <class Io>
  void visit(Io& io) {
    io.block("e", e);
  }
};
struct MaskedMix {  // step 2, user -> provider
  static constexpr Tag tag = Tag::masked_mix;
  Block d;
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

// out[h] = sum over keys j of weights[h][j] values[j][kv_of(h)], modulo 2^64.
inline void mix(const HeadShape& s, const Word* weights, const Words& values, std::size_t n, Word* out) {
  for (std::size_t h = 0; h < s.heads; ++h) {
    const std::size_t kv = s.kv_of(h) * s.head_dim;
    for (std::size_t j = 0; j < n; ++j) {
      const Word weight = weights[h * n + j];
      const Word* value = &values[j * s.kv_rows() + kv];
      for (std::size_t d = 0; d < s.head_dim; ++d) out[h * s.head_dim + d] += weight * value[d];
    }
  }
}

// v of the batch, cut: the last part of a party's share of qkv.
template <Role R>
Words cut_values(const Share<R>& qkv, const HeadShape& s, std::size_t i) {
  const auto row = qkv.token(i).last(s.kv_rows());
  Words v(row.begin(), row.end());
  for (Word& word : v) word = cut(word, s.v_cut);
  return v;
}

// offline, helper -> provider: x. rp: the user's share of the probabilities, [token][head][key]. Returns r.
inline Mask values(Helper& helper, const ValuesShape& s, const Words& rp) {
  HelperKeys& keys = helper.keys[s.head.layer];
  Mask r{s.out, s.head.q_rows(), {}};
  std::size_t at = 0;
  for (std::size_t i = 0; i < helper.batch.count; ++i) {
    const std::uint32_t slot = helper.batch.index(i);
    const std::size_t n = std::size_t{slot} + 1, pairs = s.head.heads * n;
    append(keys.lift, lift_masks(helper.with_provider.words(values_at(Use::value_lift, s, slot), s.head.kv_rows(),
                                                                  lift_ring(s.head.v.ring)), s.head.v.ring));
    append(keys.reshare_mask,
           helper.with_user.words(values_at(Use::value_reshared, s, slot), s.head.kv_rows(), s.mixed));
    const auto a = helper.with_provider.words(values_at(Use::value_weights, s, slot), pairs, s.mixed);
    Words x = helper.with_user.spend(values_at(Use::value_share, s, slot), s.head.q_rows(), s.mixed);
    for (Word& word : x) word = Word{0} - word;
    mix(s.head, a.data(), keys.reshare_mask, n, x.data());
    mix(s.head, &rp[at], keys.lift, n, x.data());
    helper.packs[i].words(x, s.mixed);
    append(r.words, helper.with_user.words(values_at(Use::value_mask, s, slot), s.head.q_rows(), s.out.ring));
    at += pairs;
  }
  return r;
}

// lift: with step 2 of Scores.
inline void values_lift(Provider& provider, const ValuesShape& s, const Masked& qkv) {
  Words lifted;
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const Words alpha = lift_masks(
        provider.with_helper.spend(values_at(Use::value_lift, s, provider.batch.index(i)), s.head.kv_rows(),
                                         lift_ring(s.head.v.ring)), s.head.v.ring);
    const Words v0 = cut_values(qkv, s.head, i);
    for (std::size_t j = 0; j < v0.size(); ++j) lifted.push_back(v0[j] - alpha[j]);
    append(provider.keys[s.head.layer].lift, alpha);
  }
  provider.user.send(LiftedValues{block(s.head.v.ring, std::move(lifted))});
}

// re-share: with step 3 of Scores.
inline void values_reshared(Provider& provider, const ValuesShape& s) {
  const std::size_t total = provider.batch.count * s.head.kv_rows();
  append(provider.keys[s.head.layer].reshare,
         provider.user.receive(ResharedValues{expect(s.mixed, total)}).f.words);
}

// Steps 1 and 2. p0: [token][head][key].
inline Masked values(Provider& provider, const ValuesShape& s, const Words& p0) {
  const ProviderKeys& keys = provider.keys[s.head.layer];
  Masked out{s.out, s.head.q_rows(), {}};
  Words e;
  std::size_t at = 0;
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const std::uint32_t slot = provider.batch.index(i);
    const std::size_t n = std::size_t{slot} + 1, pairs = s.head.heads * n;
    const auto a = provider.with_helper.spend(values_at(Use::value_weights, s, slot), pairs, s.mixed);
    for (std::size_t j = 0; j < pairs; ++j) e.push_back(p0[at + j] - a[j]);
    Words share = provider.packs[i].helper.words("a.c + rp.alpha - rho", s.head.q_rows(), s.mixed);
    mix(s.head, &p0[at], keys.lift, n, share.data());
    mix(s.head, a.data(), keys.reshare, n, share.data());
    for (const Word word : share) out.words.push_back(cut(word, s.cut));
    at += pairs;
  }
  provider.user.send(MaskedWeights{block(s.mixed, std::move(e))});
  const auto d = provider.user.receive(MaskedMix{expect(s.out.ring, out.words.size())}).d.words;
  for (std::size_t j = 0; j < d.size(); ++j) out.words[j] += d[j];
  return out;
}

// lift and re-share.
inline void values_reshare(User& user, const ValuesShape& s, const Mask& qkv) {
  const std::size_t kv = s.head.kv_rows();
  const auto lifted = user.provider.receive(LiftedValues{expect(s.head.v.ring, user.batch.count * kv)}).v.words;
  Words f;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const Words v1 = cut_values(qkv, s.head, i);
    const auto c = user.with_helper.spend(values_at(Use::value_reshared, s, user.batch.index(i)), kv, s.mixed);
    for (std::size_t j = 0; j < kv; ++j) {
      const Word lift = static_cast<Word>(centre(lifted[i * kv + j] + v1[j], s.head.v.ring));
      user.keys[s.head.layer].lift.push_back(lift);
      f.push_back(lift - c[j]);
    }
  }
  user.provider.send(ResharedValues{block(s.mixed, std::move(f))});
}

// Steps 1 and 2. rp: the user's share of the probabilities.
inline Mask values(User& user, const ValuesShape& s, const Words& rp) {
  Words opened = user.provider.receive(MaskedWeights{expect(s.mixed, rp.size())}).e.words;
  for (std::size_t j = 0; j < rp.size(); ++j) opened[j] += rp[j];
  Mask r{s.out, s.head.q_rows(), {}};
  Words d;
  std::size_t at = 0;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const std::uint32_t slot = user.batch.index(i);
    const std::size_t n = std::size_t{slot} + 1;
    Words share = user.with_helper.words(values_at(Use::value_share, s, slot), s.head.q_rows(), s.mixed);
    mix(s.head, &opened[at], user.keys[s.head.layer].lift, n, share.data());
    const auto mask = user.with_helper.spend(values_at(Use::value_mask, s, slot), s.head.q_rows(), s.out.ring);
    for (std::size_t j = 0; j < share.size(); ++j) d.push_back(cut(share[j], s.cut) - mask[j]);
    append(r.words, mask);
    at += s.head.heads * n;
  }
  user.provider.send(MaskedMix{block(s.out.ring, std::move(d))});
  return r;
}

}  // namespace permllm
