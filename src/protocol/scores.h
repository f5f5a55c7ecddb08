// Scores: <q>, <k> -> shares of q.k for every live pair (query, key not after it).              docs/protocol.md 4.4
//
//   The rotation depends on the position, which is known only when the slot is used, so P1's shares of the rotated q and k
//   are not known to the helper: the user replaces them by masks b that the helper knows.
//   step 1    U -> P   d = z1 - b  for q and k                 provider keeps z0 = z - b; sent with the answer to the norm
//   step 2    P -> U   e = z0 - a  for q and k                 a: known to provider and helper
//   offline:  helper -> provider   x = aq.bk + bq.ak - rho     for each pair; rho: known to user and helper
//   shares:   provider  q0.k0 + x         user  bq.bk + eq.bk + bq.ek + rho
//   sum:      (q0 + bq).(k0 + bk), because q0 = eq + aq and k0 = ek + ak
//   step 3    U -> P   the user's share less m, a mask that the helper knows: provider keeps q.k - m
//   Step 2 is sent once a token; keys accumulate. A key of a skipped slot takes no part: the user's share is a large
//   negative constant, the provider's is 0.
//   coins of what the provider receives: b for step 1, rho for x, m for step 3.
//   bound:    |q.k| < 2^(bits-1) / 2 in the ring of the cut shares.
#pragma once

#include <cmath>

#include "protocol/party.h"

namespace permllm {

// Shape of one attention layer: boxes scores, values and attention.
struct HeadShape {
  std::uint16_t layer = 0;
  std::size_t heads = 0, kv_heads = 0, head_dim = 0;
  double rope_base = 0;
  int rope_frac = 0;
  int qk_cut = 0;       // low bits cut from the rotated q and k
  Format qk;            // once cut
  int v_cut = 0;
  Format v;             // once cut
  // The score of a key whose slot is skipped, as a magnitude's power of two: far below any score, inside the ring that
  // scores are shown in.
  int dead_bits = 0;

  std::size_t q_rows() const { return heads * head_dim; }
  std::size_t kv_rows() const { return kv_heads * head_dim; }
  std::size_t kv_of(std::size_t head) const { return head / (heads / kv_heads); }
};

inline constexpr Leak k_scores_leak[] = {
    {Role::user, "nothing: q and k arrive under masks of the provider"}, {Role::provider, "nothing"}, {Role::helper, "nothing"}};

constexpr Cost scores_cost(const HeadShape& s, Batch batch) {
  const std::size_t word = s.qk.ring.bytes(), rows = s.heads * s.head_dim + s.kv_heads * s.head_dim;
  Cost total{.rounds = 1, .online = {}, .offline = {}};
  for (std::size_t i = 0; i < batch.count; ++i) {
    const std::size_t pairs = s.heads * (std::size_t{batch.index(i)} + 1);
    total.online.provider_to_user += rows * word;
    total.online.user_to_provider += rows * word + pairs * word;
    total.offline.helper_to_provider += pairs * word;
  }
  return total;
}

struct RotatedRemask {  // step 1, user -> provider: q then k, token by token
  static constexpr Tag tag = Tag::rotated_remask;
  Block d;
  template <class Io>
  void visit(Io& io) {
    io.block("d", d);
  }
};
struct MaskedQueryKey {  // step 2, provider -> user: q then k, token by token
  static constexpr Tag tag = Tag::masked_query_key;
  Block e;
  template <class Io>
  void visit(Io& io) {
    io.block("e", e);
  }
};
struct MaskedScores {  // step 3, user -> provider: [token][head][key]
  static constexpr Tag tag = Tag::masked_scores;
  Block d;
  template <class Io>
  void visit(Io& io) {
    io.block("d", d);
  }
};

// One party's shares of q and k of the batch, [token][q_rows] and [token][kv_rows].
struct QueryKey {
  Words q, k;
};

// Rotates adjacent pairs of each head by position * base^(-2 i / head_dim) (RoPE, arXiv 2104.09864), with cos and sin as
// integers that both parties compute alike, and cuts.
inline void rotate_and_cut(std::span<Word> heads, const HeadShape& s, std::size_t position) {
  const std::size_t pairs = s.head_dim / 2;
  for (std::size_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(s.rope_base, -2.0 * static_cast<double>(i) / static_cast<double>(s.head_dim));
    const Format rope{Ring{64}, s.rope_frac};
    const Word c = encode(std::cos(angle), rope), sn = encode(std::sin(angle), rope);
    for (std::size_t at = 2 * i; at < heads.size(); at += s.head_dim) {
      const Word a = heads[at], b = heads[at + 1];
      heads[at] = cut(a * c - b * sn, s.qk_cut);
      heads[at + 1] = cut(a * sn + b * c, s.qk_cut);
    }
  }
}

// Splits a party's share of qkv; q and k rotated and cut, v cut.
template <Role R>
QueryKey rotated(const Share<R>& qkv, const HeadShape& s, Batch batch, const Timeline& timeline) {
  QueryKey z;
  for (std::size_t i = 0; i < batch.count; ++i) {
    const auto row = qkv.token(i);
    const std::size_t position = timeline.position(batch.index(i));
    Words q(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(s.q_rows()));
    Words k(row.begin() + static_cast<std::ptrdiff_t>(s.q_rows()),
            row.begin() + static_cast<std::ptrdiff_t>(s.q_rows() + s.kv_rows()));
    rotate_and_cut(q, s, position);
    rotate_and_cut(k, s, position);
    z.q.insert(z.q.end(), q.begin(), q.end());
    z.k.insert(z.k.end(), k.begin(), k.end());
  }
  return z;
}

inline Address scores_at(Use use, const HeadShape& s, std::uint32_t slot, std::uint16_t part = 0) {
  return {use, Site::scores, s.layer, slot, part};
}

// Masks of one slot, q then k: b (user, helper) or a (provider, helper).
inline QueryKey query_key_masks(const Coins& coins, Use use, const HeadShape& s, std::uint32_t slot) {
  return {coins.words(scores_at(use, s, slot, 0), s.q_rows(), s.qk.ring),
          coins.words(scores_at(use, s, slot, 1), s.kv_rows(), s.qk.ring)};
}

inline void append(Words& to, std::span<const Word> from) { to.insert(to.end(), from.begin(), from.end()); }

// offline, helper -> provider: x. Returns m, the user's share of the scores that the provider will hold.
inline Words scores(Helper& helper, const HeadShape& s) {
  HelperKeys& keys = helper.keys[s.layer];
  Words m;
  for (std::size_t i = 0; i < helper.batch.count; ++i) {
    const std::uint32_t slot = helper.batch.index(i);
    const std::size_t n = std::size_t{slot} + 1;
    const QueryKey b = query_key_masks(helper.with_user, Use::score_rotated, s, slot);
    const QueryKey a = query_key_masks(helper.with_provider, Use::score_sent, s, slot);
    append(keys.mask, b.k);
    append(keys.sent, a.k);
    Words x = helper.with_user.spend(scores_at(Use::score_share, s, slot), s.heads * n, s.qk.ring);
    for (std::size_t h = 0; h < s.heads; ++h) {
      const std::size_t q = h * s.head_dim, kv = s.kv_of(h) * s.head_dim;
      for (std::size_t j = 0; j < n; ++j) {
        const std::size_t k = j * s.kv_rows() + kv;
        x[h * n + j] = dot(&a.q[q], &keys.mask[k], s.head_dim) + dot(&b.q[q], &keys.sent[k], s.head_dim) - x[h * n + j];
      }
    }
    helper.packs[i].words(x, s.qk.ring);
    append(m, helper.with_user.words(scores_at(Use::score_mask, s, slot), s.heads * n, s.qk.ring));
  }
  return m;
}

// Steps 1 and 2. Keys of the batch join the cache.
inline Words scores_send(Provider& provider, const HeadShape& s, const Masked& qkv) {
  ProviderKeys& keys = provider.keys[s.layer];
  QueryKey z = rotated(qkv, s, provider.batch, provider.timeline);
  const std::size_t rows = s.q_rows() + s.kv_rows();
  const auto d = provider.user.receive(RotatedRemask{expect(s.qk.ring, provider.batch.count * rows)}).d.words;
  Words e;
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const std::uint32_t slot = provider.batch.index(i);
    const QueryKey a{provider.with_helper.spend(scores_at(Use::score_sent, s, slot, 0), s.q_rows(), s.qk.ring),
                     provider.with_helper.words(scores_at(Use::score_sent, s, slot, 1), s.kv_rows(), s.qk.ring)};
    const std::span<Word> q = std::span(z.q).subspan(i * s.q_rows(), s.q_rows());
    const std::span<Word> k = std::span(z.k).subspan(i * s.kv_rows(), s.kv_rows());
    for (std::size_t j = 0; j < q.size(); ++j) q[j] += d[i * rows + j];
    for (std::size_t j = 0; j < k.size(); ++j) k[j] += d[i * rows + q.size() + j];
    for (std::size_t j = 0; j < q.size(); ++j) e.push_back(q[j] - a.q[j]);
    for (std::size_t j = 0; j < k.size(); ++j) e.push_back(k[j] - a.k[j]);
    append(keys.key, k);
    append(keys.sent, a.k);
  }
  provider.user.send(MaskedQueryKey{block(s.qk.ring, std::move(e))});
  return std::move(z.q);
}

// After step 3: q.k - m, [token][head][key]. q0: what scores_send returned.
inline Words scores(Provider& provider, const HeadShape& s, const Words& q0) {
  const ProviderKeys& keys = provider.keys[s.layer];
  std::size_t pairs = 0;
  for (std::size_t i = 0; i < provider.batch.count; ++i) pairs += s.heads * (std::size_t{provider.batch.index(i)} + 1);
  Words shares = provider.user.receive(MaskedScores{expect(s.qk.ring, pairs)}).d.words;
  std::size_t at = 0;
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const std::size_t n = std::size_t{provider.batch.index(i)} + 1;
    const auto x = provider.packs[i].helper.words("aq.bk + bq.ak - rho", s.heads * n, s.qk.ring);
    for (std::size_t h = 0; h < s.heads; ++h) {
      const Word* q = &q0[i * s.q_rows() + h * s.head_dim];
      for (std::size_t j = 0; j < n; ++j, ++at) {
        if (!provider.timeline.live(j)) continue;
        shares[at] += dot(q, &keys.key[j * s.kv_rows() + s.kv_of(h) * s.head_dim], s.head_dim) + x[h * n + j];
      }
    }
  }
  return shares;
}

// Step 1: with the answer to the norm.
inline void scores_send(User& user, const HeadShape& s, const Mask& qkv) {
  const QueryKey z = rotated(qkv, s, user.batch, user.timeline);
  UserKeys& keys = user.keys[s.layer];
  Words d;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const std::uint32_t slot = user.batch.index(i);
    const auto bq = user.with_helper.spend(scores_at(Use::score_rotated, s, slot, 0), s.q_rows(), s.qk.ring);
    const auto bk = user.with_helper.words(scores_at(Use::score_rotated, s, slot, 1), s.kv_rows(), s.qk.ring);
    for (std::size_t j = 0; j < s.q_rows(); ++j) d.push_back(z.q[i * s.q_rows() + j] - bq[j]);
    for (std::size_t j = 0; j < s.kv_rows(); ++j) d.push_back(z.k[i * s.kv_rows() + j] - bk[j]);
    append(keys.mask, bk);
  }
  user.provider.send(RotatedRemask{block(s.qk.ring, std::move(d))});
}

// Step 2; returns eq, [token][q_rows].
inline Words scores_receive(User& user, const HeadShape& s) {
  const std::size_t rows = s.q_rows() + s.kv_rows();
  const auto e = user.provider.receive(MaskedQueryKey{expect(s.qk.ring, user.batch.count * rows)}).e.words;
  UserKeys& keys = user.keys[s.layer];
  Words eq;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    append(eq, std::span(e).subspan(i * rows, s.q_rows()));
    append(keys.shown, std::span(e).subspan(i * rows + s.q_rows(), s.kv_rows()));
  }
  return eq;
}

// Step 3.
inline void scores(User& user, const HeadShape& s, const Words& eq) {
  const UserKeys& keys = user.keys[s.layer];
  Words d;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const std::uint32_t slot = user.batch.index(i);
    const std::size_t n = std::size_t{slot} + 1;
    const auto bq = user.with_helper.words(scores_at(Use::score_rotated, s, slot, 0), s.q_rows(), s.qk.ring);
    Words opened = bq;  // eq + bq
    for (std::size_t j = 0; j < opened.size(); ++j) opened[j] += eq[i * s.q_rows() + j];
    Words share = user.with_helper.words(scores_at(Use::score_share, s, slot), s.heads * n, s.qk.ring);
    for (std::size_t h = 0; h < s.heads; ++h) {
      const std::size_t q = h * s.head_dim, kv = s.kv_of(h) * s.head_dim;
      for (std::size_t j = 0; j < n; ++j) {
        const std::size_t k = j * s.kv_rows() + kv;
        const Word live =
            dot(&opened[q], &keys.mask[k], s.head_dim) + dot(&bq[q], &keys.shown[k], s.head_dim) + share[h * n + j];
        share[h * n + j] = user.timeline.live(j) ? live : Word{0} - (Word{1} << s.dead_bits);
      }
    }
    const auto mask = user.with_helper.spend(scores_at(Use::score_mask, s, slot), s.heads * n, s.qk.ring);
    for (std::size_t j = 0; j < share.size(); ++j) share[j] -= mask[j];
    append(d, share);
  }
  user.provider.send(MaskedScores{block(s.qk.ring, std::move(d))});
}

}  // namespace permllm
