// Attention: <q k v> -> <softmax(q.k scale) v>.                                            docs/protocol.md 4.4, 4.10
//
//   paper, three round trips (and two for each further block of queries)
//   round 1   Scores and the lift of v          (its first message goes with the answer to the norm)
//   round 2   PermutedMap(softmax): each row (token, head) shows its keys in a fresh order and at a hidden level
//   round 3   Values
//
//   fast, one round trip (and one for each further block of queries)
//   step 1    P -> U   with step 2 of Scores and the lift of v: its shares of the scores, at a hidden level a row
//   step 2    U -> P   w = p - t, and SecretCut of its share of p.v, p.L + rho, with m = r
//   offline   helper -> provider   x = t.alpha - rho
//   result    SecretCut of the provider's w.alpha + x; user  r
//   sum:      w.alpha + t.alpha - rho + p.L + rho = p.(alpha + L) = p.v
//   coins of what the provider receives: rho for x, t for w, those of SecretCut for the share of p.v (r for fix).
#pragma once

#include <algorithm>
#include <cmath>

#include "protocol/permuted_map.h"
#include "protocol/values.h"
#include "ring/clear.h"

namespace permllm {

struct AttentionShape {
  ValuesShape values;
  bool fast = false;
  MapShape softmax;  // paper: a row a head, columns = keys; level on; the answer in the ring of the mix
  double unit = 0;   // of the scores as shown, once scaled for the softmax
  double cap = 0;  // scores: cap tanh(score / cap), once scaled; 0: none. A cap is not shift-invariant: without a level
  std::int64_t most = k_any_magnitude;  // of the scores as shown, within their range
  int weight_frac = 0;                  // of the probabilities
  constexpr const HeadShape& head() const { return values.head; }
};

// One row of scores, at an unknown level or capped -> its probabilities.
template <class W>
void softmax_row(const AttentionShape& s, std::span<const std::int64_t> scores, std::span<W> words) {
  const Ring ring = std::is_same_v<W, Word> ? s.values.mixed : Ring{64};
  if constexpr (std::is_same_v<W, Word>) {
    if (s.cap == 0) return clear::softmax(scores, s.unit, s.head().shown.sent(), {ring, s.weight_frac}, words);
  }
  Words narrow(scores.size());
  if (s.cap == 0) {
    clear::softmax(scores, s.unit, s.head().shown.sent(), {ring, s.weight_frac}, narrow);
  } else {
    // No score that is real lies below; those of keys that are not seen do.
    const std::int64_t least = -(std::int64_t{1} << (s.head().dead_bits - 1 - s.head().shown.drop));
    std::vector<double> row(scores.size());
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = static_cast<double>(scores[j]) * s.unit;
    clear::cap(row, s.cap);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = scores[j] < least ? -1e300 : row[j];
    clear::softmax(row);
    for (std::size_t j = 0; j < row.size(); ++j) narrow[j] = encode(row[j], {ring, s.weight_frac});
  }
  std::copy(narrow.begin(), narrow.end(), words.begin());
}

// Scores of a row beyond their range. Where it has keys that are not seen, `unseen` of them, anywhere, those are no scores: they lie lower than any
// two are apart, and a few less are told of where they do not.
inline std::size_t scores_beyond(const AttentionShape& s, std::span<const std::int64_t> scores, std::size_t unseen) {
  if (s.most == k_any_magnitude) return 0;
  std::size_t count = 0;
  if (s.cap != 0) {
    count = count_beyond(scores, s.most);
  } else {
    const Ring ring = s.head().shown.sent();
    const auto difference = [&](std::int64_t x) {
      return centre(static_cast<Word>(x) - static_cast<Word>(scores[0]), ring);
    };
    std::int64_t greatest = 0;
    for (const std::int64_t x : scores) greatest = std::max(greatest, difference(x));
    for (const std::int64_t x : scores) count += greatest - difference(x) > 2 * s.most ? 1 : 0;
  }
  return count - std::min(count, unseen);
}
// Keys that the query of a slot meets and does not see; counted in the same time however many there are, where the provider does not know them.
inline std::size_t unseen_keys(const User& user, const HeadShape& s, std::uint32_t slot) {
  if (!s.hidden && s.sees_all(user.timeline, slot)) return 0;
  std::size_t count = 0;
  for (std::size_t j = 0; j < s.keys_at(slot); ++j) count += s.unseen(user.timeline, slot, j) & 1;
  return count;
}

// --- Paper ------------------------------------------------------------------------------------------------------------

template <class W>
void paper_attention(Helper& helper, const AttentionShape& s, const Mask& qkv) {
  scores_send(helper, s.head());
  values_lift(helper, s.values, qkv);
  scores(helper, s.head());
  const auto rp =
      std::move(permuted_map<W>(helper, s.softmax, score_masks(helper.with_user, s.head(), helper.batch))[0]);
  values(helper, s.values, rp);
}

template <class W>
Masked paper_attention(Provider& provider, const AttentionShape& s, const Masked& qkv,
                       std::span<const float> key_level) {
  const Masked q0 = scores_send(provider, s.head(), qkv, key_level);
  values_lift(provider, s.values, qkv);
  values_reshare<W>(provider, s.values);
  Masked out;
  for_each_query_block(provider, [&](std::size_t begin, std::size_t) {
    const Masked scores0 = masked_scores(provider, s.head(), q0, begin);
    const auto p0 = std::move(permuted_map<W>(provider, s.softmax, scores0)[0]);
    append(out, values(provider, s.values, p0));
  });
  return out;
}

template <class W>
Mask paper_attention(User& user, const AttentionShape& s, const Mask& qkv) {
  scores_send(user, s.head(), qkv);
  const ShownQueries eq = scores_receive(user, s.head());
  values_lift(user, s.values);
  values_reshare<W>(user, s.values);
  Mask r;
  for_each_query_block(user, [&](std::size_t begin, std::size_t count) {
    masked_scores(user, s.head(), eq, begin);
    std::vector<std::size_t> unseen(count);  // a token's, for all its heads
    for (std::size_t i = 0; i < count; ++i) unseen[i] = unseen_keys(user, s.head(), user.batch.index(i));
    const auto rp =
        std::move(permuted_map<W>(user, s.softmax, [&](std::size_t i, std::size_t, auto row, auto& answers) {
          user.count(scores_beyond(s, row, unseen[i]));
          softmax_row(s, row, answers[0]);
        })[0]);
    append(r, values(user, s.values, rp));
  });
  return r;
}

// --- Fast -------------------------------------------------------------------------------------------------------------

template <class W>
struct Probabilities {  // step 2, user -> provider: [token][head][key]
  static constexpr Tag tag = Tag::probabilities;
  BlockOf<W> w;
  template <class Io>
  void visit(Io& io) {
    io.block("w", w);
  }
};

constexpr Cost fast_cost(const ValuesShape& s, Batch batch) {
  return cost(s.mix_cut(), batch) +
         Cost{.rounds = 0,
              .online = {.user_to_provider = s.head.pairs(batch) * s.mixed.bytes()},
              .offline = {.helper_to_provider = batch.count * s.head.q_rows() * s.mixed.bytes()}};
}

template <class W>
void fast_attention(Helper& helper, const AttentionShape& s, const Mask& qkv) {
  scores_send(helper, s.head());
  values_lift(helper, s.values, qkv);
  scores(helper, s.head());
  burn(helper.with_user, helper.batch, [&](std::uint32_t slot) { return values_at(Use::value_share, s.values, slot); });
  std::vector<std::vector<W>> t(helper.batch.count), x(helper.batch.count);
  helper.executor.parallel(helper.batch.count, [&](std::size_t i) {
    const std::uint32_t slot = helper.batch.index(i);
    t[i] = helper.with_user.words<W>(values_at(Use::value_answer, s.values, slot),
                                     s.head().heads * s.head().keys_at(slot), s.values.mixed);
    x[i] = helper.with_user.words<W>(values_at(Use::value_share, s.values, slot), s.head().q_rows(), s.values.mixed);
    for (W& word : x[i]) word = W{0} - word;
  });
  const auto alpha = [&](std::uint32_t slot) { return lift_alpha(helper.with_provider, s.values, slot); };
  mix_derived(
      helper, s.head(), s.head().keys_at(helper.batch.index(helper.batch.count - 1)), alpha,
      [&](std::size_t i) { return t[i].data(); }, [&](std::size_t i) { return x[i].data(); });
  for (std::size_t i = 0; i < x.size(); ++i) helper.packs[i].words(x[i], s.values.mixed);
  send_mix<W>(helper, s.values);
}

template <class W>
Masked fast_attention(Provider& provider, const AttentionShape& s, const Masked& qkv,
                      std::span<const float> key_level) {
  const Masked q0 = scores_send(provider, s.head(), qkv, key_level);
  values_lift(provider, s.values, qkv);
  const std::size_t q = s.head().q_rows();
  const Words& alpha = provider.keys[s.head().layer].lift;
  Masked out;
  for_each_query_block(provider, [&](std::size_t begin, std::size_t count) {
    shown_scores(provider, s.head(), q0, begin);
    const std::size_t pairs = s.head().pairs(provider.batch);
    const auto w = provider.user.receive(Probabilities<W>{expect<W>(s.values.mixed, pairs)}).w.words;
    const auto weights = [&](std::size_t i) { return &w[s.head().pairs_before(provider.batch, i)]; };
    std::vector<std::vector<W>> shares(count);
    provider.executor.parallel(count, [&](std::size_t i) {
      shares[i] = provider.pack(i).helper.words<W>("t.alpha - rho", q, s.values.mixed);
      mix(s.head(), weights(i), s.head().keys_at(provider.batch.index(i)), provider.timeline.first(), alpha,
          shares[i].data());
    });
    mix_derived(
        provider, s.head(), provider.timeline.first(),
        [&](std::uint32_t slot) { return lift_alpha(provider.with_helper, s.values, slot); }, weights,
        [&](std::size_t i) { return shares[i].data(); });
    append(out, receive_mix(provider, s.values, std::move(shares)));
  });
  return out;
}

template <class W>
Mask fast_attention(User& user, const AttentionShape& s, const Mask& qkv) {
  scores_send(user, s.head(), qkv);
  const ShownQueries eq = scores_receive(user, s.head());
  values_lift(user, s.values);
  const std::size_t q = s.head().q_rows();
  Mask r;
  for_each_query_block(user, [&](std::size_t begin, std::size_t count) {
    const auto shown = shown_scores(user, s.head(), eq, begin);
    std::vector<W> p(shown.size()), w(shown.size());
    burn(user.with_helper, user.batch,
         [&](std::uint32_t slot) { return values_at(Use::value_answer, s.values, slot); });
    for_each_token(user, count, [&](std::size_t i) {
      const std::uint32_t slot = user.batch.index(i);
      const std::size_t n = s.head().keys_at(slot), at = s.head().pairs_before(user.batch, i),
                        unseen = unseen_keys(user, s.head(), slot);
      const auto t =
          user.with_helper.words<W>(values_at(Use::value_answer, s.values, slot), s.head().heads * n, s.values.mixed);
      for (std::size_t h = 0; h < s.head().heads; ++h) {
        const auto row = std::span(shown).subspan(at + h * n, n);
        if (user.observe)
          user.observe({Site::scores, s.head().layer, slot, h, row, Shown::score, {.level = s.head().level}});
        user.count(scores_beyond(s, row, unseen));
        softmax_row(s, row, std::span(p).subspan(at + h * n, n));
      }
      for (std::size_t j = 0; j < t.size(); ++j) w[at + j] = p[at + j] - t[j];
    });
    user.provider.send(Probabilities<W>{block(s.values.mixed, std::move(w))});
    append(r, send_mix<W>(user, s.values, [&](std::size_t i) {
             const std::uint32_t slot = user.batch.index(i);
             auto share = user.with_helper.words<W>(values_at(Use::value_share, s.values, slot), q, s.values.mixed);
             mix(s.head(), &p[s.head().pairs_before(user.batch, i)], s.head().keys_at(slot), user.timeline.first(),
                 user.keys[s.head().layer].lift, share.data());
             return share;
           }));
  });
  return r;
}

// --- Both -------------------------------------------------------------------------------------------------------------

constexpr Cost cost(const AttentionShape& s, Batch batch) {
  Cost total = scores_cost(s.head(), batch) + lift_cost(s.values, batch);
  if (s.fast) {
    total += shown_scores_cost(s.head(), batch) + fast_cost(s.values, batch);
    total.rounds += query_blocks(batch) - 1;
  } else {
    total += reshare_cost(s.values, batch) + masked_scores_cost(s.head(), batch) + cost(s.softmax, batch) +
             cost(s.values, batch);
    total.rounds += 2 * (query_blocks(batch) - 1);
  }
  return total;
}

// key_level: the provider's (scores_send); the others know nothing of it.
inline Mask attention(Helper& helper, const AttentionShape& s, const Mask& qkv, std::span<const float> = {}) {
  const bool wide = s.values.mixed.bits > 64;
  if (s.fast) {
    wide ? fast_attention<Wide>(helper, s, qkv) : fast_attention<Word>(helper, s, qkv);
  } else {
    wide ? paper_attention<Wide>(helper, s, qkv) : paper_attention<Word>(helper, s, qkv);
  }
  return mix_masks(helper.with_user, s.values, helper.batch);
}

// offline: the user has nothing to send; its share of the output is a fresh mask.
inline Mask attention(UserDealer& user, const AttentionShape& s, const Mask&, std::span<const float> = {}) {
  return mix_masks(user.with_helper, s.values, user.batch);
}

inline Masked attention(Provider& provider, const AttentionShape& s, const Masked& qkv,
                        std::span<const float> key_level = {}) {
  const bool wide = s.values.mixed.bits > 64;
  if (s.fast)
    return wide ? fast_attention<Wide>(provider, s, qkv, key_level) : fast_attention<Word>(provider, s, qkv, key_level);
  return wide ? paper_attention<Wide>(provider, s, qkv, key_level) : paper_attention<Word>(provider, s, qkv, key_level);
}

inline Mask attention(User& user, const AttentionShape& s, const Mask& qkv, std::span<const float> = {}) {
  const bool wide = s.values.mixed.bits > 64;
  if (s.fast) return wide ? fast_attention<Wide>(user, s, qkv) : fast_attention<Word>(user, s, qkv);
  return wide ? paper_attention<Wide>(user, s, qkv) : paper_attention<Word>(user, s, qkv);
}

inline Counted attention(Counter& counter, const AttentionShape& s, const Counted&, std::span<const float> = {}) {
  counter.total += cost(s, counter.batch);
  return {s.values.out, s.head().q_rows()};
}

// --- Skipped slots ----------------------------------------------------------------------------------------------------
// A slot that was begun and given up: both parties forget what its pass left in this layer's cache and put in its place
// a key of probability zero: k0 = 0 and f = 0 at the provider, L = 0 at the user (and see add_skipped).

inline void skip_slot(Provider& provider, const AttentionShape& shape, std::uint32_t slot) {
  const ValuesShape& s = shape.values;
  ProviderKeys& keys = provider.keys[s.head.layer];
  const std::size_t kv = s.head.kv_rows(), begin = (slot - provider.timeline.first()) * kv;
  const auto empty = [&](auto& words) {
    words.resize(begin);
    words.insert(words.end(), kv, 0);
  };
  empty(keys.key);
  if (!shape.fast) s.mixed.bits > 64 ? empty(keys.reshare.wide) : empty(keys.reshare.narrow);
  keys.lift.resize(begin);
  append(keys.lift, lift_alpha(provider.with_helper, s, slot));
}

inline void skip_slot(User& user, const AttentionShape& shape, std::uint32_t slot) {
  const ValuesShape& s = shape.values;
  UserKeys& keys = user.keys[s.head.layer];
  const std::size_t kv = s.head.kv_rows(), begin = (slot - user.timeline.first()) * kv;
  for (Words* words : {&keys.mask, &keys.shown, &keys.lift}) {
    words->resize(begin);
    words->insert(words->end(), kv, 0);
  }
}

}  // namespace permllm
