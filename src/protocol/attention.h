// Attention, profile `paper`: <q k v> -> <softmax(q.k / sqrt(d)) v>. Three round trips.            docs/protocol.md 4.4
//
//   round 1   Scores and the lift of v          (its first message goes with the answer to the norm)
//   round 2   PermutedMap(softmax): each row (token, head) shows its keys in a fresh order and at a hidden level
//   round 3   Values
#pragma once

#include <algorithm>
#include <cmath>

#include "protocol/permuted_map.h"
#include "protocol/values.h"

namespace permllm {

struct AttentionShape {
  ValuesShape values;
  MapShape softmax;      // a row a head, columns = keys; level on; the answer in the ring of the mix
  int score_frac = 0;    // of the scores as shown
  int weight_frac = 0;   // of the probabilities
  const HeadShape& head() const { return values.head; }
};

inline constexpr Leak k_attention_leak[] = {
    {Role::user, "rows of attention scores, keys in a fresh order for each row, less a common level; v up to a statistical "
                 "distance (Values)"},
    {Role::provider, "nothing"},
    {Role::helper, "nothing"}};

constexpr Cost cost(const AttentionShape& s, Batch batch) {
  return scores_cost(s.values.head, batch) + cost(s.softmax, batch) + cost(s.values, batch);
}

// The answer of one row: exp of differences to the greatest, so that neither level nor size matters.
inline void softmax_row(std::span<const std::int64_t> scores, double scale, Format out, std::span<Word> words,
                        std::vector<double>& weights, Ring ring) {
  weights.resize(scores.size());
  // Differences wrap with the ring, because the level does: they are taken to the first element, then centred.
  double greatest = -1e300;
  for (std::size_t j = 0; j < scores.size(); ++j) {
    const Word difference = static_cast<Word>(scores[j]) - static_cast<Word>(scores[0]);
    weights[j] = static_cast<double>(centre(difference, ring)) * scale;
    greatest = std::max(greatest, weights[j]);
  }
  double sum = 0;
  for (double& w : weights) {
    w = std::exp(std::max(w - greatest, -700.0));
    sum += w;
  }
  for (std::size_t j = 0; j < scores.size(); ++j) words[j] = encode(weights[j] / sum, out);
}

inline Mask attention(Helper& helper, const AttentionShape& s, const Mask&) {
  const Words m = scores(helper, s.head());
  const Mask rp = std::move(permuted_map(helper, s.softmax, m)[0]);
  return values(helper, s.values, rp.words);
}

// offline: the user has nothing to send; its share of the output is a fresh mask.
inline Mask attention(UserDealer& user, const AttentionShape& s, const Mask&) {
  Mask r{s.values.out, s.head().q_rows(), {}};
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const Address at = values_at(Use::value_mask, s.values, user.batch.index(i));
    append(r.words, user.with_helper.words(at, r.size, s.values.out.ring));
  }
  return r;
}

inline Masked attention(Provider& provider, const AttentionShape& s, const Masked& qkv) {
  const Words q0 = scores_send(provider, s.head(), qkv);
  values_lift(provider, s.values, qkv);
  values_reshared(provider, s.values);
  const Words scores0 = scores(provider, s.head(), q0);
  const Masked p0 = std::move(permuted_map(provider, s.softmax, scores0)[0]);
  return values(provider, s.values, p0.words);
}

inline Mask attention(User& user, const AttentionShape& s, const Mask& qkv) {
  scores_send(user, s.head(), qkv);
  const Words eq = scores_receive(user, s.head());
  values_reshare(user, s.values, qkv);
  scores(user, s.head(), eq);
  const double scale = std::ldexp(1.0, -s.score_frac) / std::sqrt(static_cast<double>(s.head().head_dim));
  const Format out{s.softmax.answers[0].out.ring, s.weight_frac};
  std::vector<double> weights;
  const Mask rp = std::move(permuted_map(user, s.softmax, [&](std::size_t, std::size_t, auto row, auto& answers) {
    softmax_row(row, scale, out, answers[0], weights, s.softmax.reveal.sent());
  })[0]);
  return values(user, s.values, rp.words);
}

inline Counted attention(Counter& counter, const AttentionShape& s, const Counted&) {
  counter.total += cost(s, counter.batch);
  return {s.values.out, s.head().heads * s.head().head_dim};
}

// --- Skipped slots ----------------------------------------------------------------------------------------------------
// A slot that was begun and given up: both parties forget what its pass left in this layer's cache and put in its place
// a key of probability zero: k0 = 0 and f = 0 at the provider, L = c at the user, so that p = 0 times v stays 0.

inline void skip_slot(Provider& provider, const ValuesShape& s, std::uint32_t slot) {
  ProviderKeys& keys = provider.keys[s.head.layer];
  const std::size_t kv = s.head.kv_rows(), begin = slot * kv;
  for (Words* words : {&keys.key, &keys.sent, &keys.reshare}) {
    words->resize(begin);
    words->resize(begin + kv, 0);
  }
  keys.lift.resize(begin);
  append(keys.lift, lift_masks(provider.with_helper.words(values_at(Use::value_lift, s, slot), kv,
                                                                lift_ring(s.head.v.ring)), s.head.v.ring));
}

inline void skip_slot(User& user, const ValuesShape& s, std::uint32_t slot) {
  UserKeys& keys = user.keys[s.head.layer];
  const std::size_t kv = s.head.kv_rows(), begin = slot * kv;
  for (Words* words : {&keys.mask, &keys.shown}) {
    words->resize(begin);
    words->resize(begin + kv, 0);
  }
  keys.lift.resize(begin);
  append(keys.lift, user.with_helper.words(values_at(Use::value_reshared, s, slot), kv, s.mixed));
}

}  // namespace permllm
