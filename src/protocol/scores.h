// Scores: <q>, <k> -> shares of q.k for every pair (query, key that it meets).                   docs/protocol.md 4.4, 4.10
//
//   The rotation depends on the position, which is known only when the slot is used, so the user's shares of the rotated q and k
//   are not known to the helper: the user's part goes to the provider, and masks b that the helper knows take its place.
//   step 1    U -> P   SecretCut of q and k, with m = b        provider keeps z0 = z - b; sent with the answer to the norm
//   step 2    P -> U   e = z0 - a  for q and k                 a: known to provider and helper
//   offline:  helper -> provider   x = aq.bk + bq.ak - rho     for each pair; rho: known to user and helper
//   shares:   provider  q0.k0 + x         user  bq.bk + eq.bk + bq.ek + rho
//   sum:      (q0 + bq).(k0 + bk), because q0 = eq + aq and k0 = ek + ak
//   Where the provider is not to know positions (HeadShape::hidden) a Turn takes the place of both rotations, a round trip more, before step 1.
//   paper, step 3       U -> P   the user's share less m, a mask that the helper knows: provider keeps q.k - m
//   fast, with step 2   P -> U   cut(its share + u), one level u a row: the user opens its scores, keys in order
//   The provider takes a constant, of its own choice, from its share of every rotated key: a row of scores moves as a whole, which no softmax
//   sees, and is small where a model's bias of k made it large.
//   Step 2 is sent once a token; keys accumulate. A key that a query does not see (of a skipped slot, or beyond the window of
//   a layer that has one) takes no part: the user's share is a large negative constant, the provider's is positive noise of
//   half its size at most, one word a row, which leaves the level that uncertain. One that the provider does not know of (hidden) has its score
//   as any other, and the user adds the constant to its share.
//   Long batches meet the pairs in blocks of queries, so that memory grows with the keys, not with their square.
//   coins of what the provider receives: those of SecretCut for step 1 (b for fix), rho for x, m for step 3.
//   bound:    |q.k| < 2^(bits-1) / 2 in the ring of the cut shares.
#pragma once

#include <algorithm>
#include <cmath>

#include "protocol/secret_cut.h"
#include "protocol/turn.h"
#include "ring/elementwise.h"

namespace permllm {

// Shape of one attention layer: boxes scores, values and attention.
struct HeadShape {
  std::uint16_t layer = 0;
  std::size_t heads = 0, kv_heads = 0, head_dim = 0;
  std::vector<double> rope;  // radians a position, of each adjacent pair of a head
  bool two_places = false;   // the second half of the pairs turns with the place in the answer (Config: rotary_2d)
  std::size_t prompt = 0;    // slots of a prompt that attends both ways; 0: queries see earlier keys alone
  std::size_t window = 0;    // positions whose keys a query sees, its own included; 0: all before
  bool hidden = false;       // the provider knows neither positions nor which keys of its slots are dead
  int rope_frac = 0;
  int qk_cut = 0;  // low bits cut from the rotated q and k
  Format qk;       // once cut
  int v_cut = 0;
  Format v;  // once cut
  // The score of a key that a query does not see is between -2^dead_bits and half of that: far below any score, inside the ring
  // that scores are shown in.
  int dead_bits = 0;
  Reveal shown;       // of the scores
  bool level = true;  // fast: they are shown at a hidden level

  constexpr std::size_t q_rows() const { return heads * head_dim; }
  constexpr std::size_t kv_rows() const { return kv_heads * head_dim; }
  constexpr std::size_t kv_of(std::size_t head) const { return head / (heads / kv_heads); }
  // Of a slot's q, then k, once rotated; of its v.
  constexpr SecretCutShape rotated_cut() const {
    return sent_cut(Site::scores, layer, q_rows() + kv_rows(), qk_cut, qk.ring);
  }
  constexpr TurnShape turned() const { return {Site::scores, layer, q_rows() + kv_rows(), head_dim, Ring{64}}; }
  constexpr SecretCutShape value_cut() const { return known_cut(Site::values, layer, kv_rows(), v_cut, v.ring); }
  constexpr std::size_t keys_at(std::uint32_t slot) const { return permllm::keys_at(slot, prompt); }
  // Pairs (head, key) of the first i queries of a batch.
  constexpr std::size_t pairs_before(Batch batch, std::size_t i) const { return heads * keys_before(batch, i, prompt); }
  constexpr std::size_t pairs(Batch batch) const { return pairs_before(batch, batch.count); }

  // All ones where the query of one slot does not see the key of another that it meets, else 0. No branch on which it is: where positions are
  // hidden the user alone knows, and the provider may time its answers.
  Word unseen(const Timeline& timeline, std::size_t query, std::size_t key) const {
    const Word dead = Word{timeline.live(key)} - 1;
    if (window == 0) return dead;
    return dead | (Word{0} - Word{timeline.position(query) - timeline.position(key) >= window});
  }
  bool sees(const Timeline& timeline, std::size_t query, std::size_t key) const {
    return unseen(timeline, query, key) == 0;
  }
  bool sees_all(const Timeline& timeline, std::uint32_t query) const {
    return timeline.all_live(keys_at(query)) && (window == 0 || timeline.position(query) < window);
  }
  // Whether the provider knows that the query of one slot does not see the key of another.
  bool known_unseen(const Timeline& timeline, std::size_t query, std::size_t key) const {
    return hidden ? timeline.skipped(key) : !sees(timeline, query, key);
  }
  bool none_known_unseen(const Timeline& timeline, std::uint32_t query) const {
    return hidden ? timeline.none_skipped(keys_at(query)) : sees_all(timeline, query);
  }
  // Angle of the i-th pair of a head in a slot. With two places, the answer's tokens (the prompt's last is the first of
  // them) keep the place of the last token before them.
  double angle(const Timeline& timeline, std::size_t slot, std::size_t i) const {
    const std::size_t place = timeline.position(slot);
    if (!two_places) return rope[i] * static_cast<double>(place);
    const std::size_t before = slot < prompt ? place : timeline.position(prompt);
    const bool in_answer = slot >= prompt;
    if (i < rope.size() / 2) return rope[i] * static_cast<double>(in_answer ? before - 1 : place);
    return rope[i] * static_cast<double>(in_answer ? place - before + 1 : 0);
  }
};

// Queries of a batch whose pairs are computed and sent together.
inline constexpr std::size_t k_query_block = 256;
constexpr std::size_t query_blocks(Batch batch) { return (batch.count + k_query_block - 1) / k_query_block; }

// block(begin, count) for each stretch of a party's batch, as the party's batch while it runs.
template <class Party, class Body>
void for_each_query_block(Party& party, const Body& body) {
  const std::size_t total = party.batch.count;
  for (std::size_t begin = 0; begin < total; begin += k_query_block) {
    const std::size_t count = std::min(k_query_block, total - begin);
    const Stretch<Party> stretch(party, begin, count);
    body(begin, count);
  }
}

// Steps 1 and 2, and the offline words; one round trip.
constexpr Cost scores_cost(const HeadShape& s, Batch batch) {
  const std::size_t word = s.qk.ring.bytes(), rows = batch.count * (s.q_rows() + s.kv_rows());
  return (s.hidden ? cost(s.turned(), batch) : Cost{}) + cost(s.rotated_cut(), batch) +
         Cost{.rounds = 1,
              .online = {.provider_to_user = rows * word},
              .offline = {.helper_to_provider = s.pairs(batch) * word}};
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

struct ShownScores {  // fast, with step 2, provider -> user: [token][head][key]
  static constexpr Tag tag = Tag::shown_scores;
  Block a;
  template <class Io>
  void visit(Io& io) {
    io.block("a", a);
  }
};

// Coins for one slot's q and k.
struct QueryKeyCoins {
  Words q, k;
};

// Cos, then sin, of each pair of a head in a slot (RoPE, arXiv 2104.09864), as integers that both parties compute alike.
inline Words places(const HeadShape& s, const Timeline& timeline, std::size_t slot) {
  const Format rope{Ring{64}, s.rope_frac};
  Words c(2 * s.rope.size());
  for (std::size_t i = 0; i < s.rope.size(); ++i) {
    const double angle = s.angle(timeline, slot, i);
    c[i] = encode(std::cos(angle), rope);
    c[s.rope.size() + i] = encode(std::sin(angle), rope);
  }
  return c;
}

// q, then k, of a party's share of qkv, each turned by itself.
template <Role R>
Share<R> turned_openly(const Share<R>& qkv, const HeadShape& s, Batch batch, const Timeline& timeline,
                       Executor& executor) {
  Share<R> z = leading(qkv, s.q_rows() + s.kv_rows());
  executor.parallel(batch.count, [&](std::size_t i) { turn(places(s, timeline, batch.index(i)), z.token(i)); });
  return z;
}
inline Masked rotated(Provider& provider, const HeadShape& s, const Masked& qkv) {
  return s.hidden ? turn(provider, s.turned(), leading(qkv, s.turned().size))
                  : turned_openly(qkv, s, provider.batch, provider.timeline, provider.executor);
}
inline Mask rotated(User& user, const HeadShape& s, const Mask& qkv) {
  if (!s.hidden) return turned_openly(qkv, s, user.batch, user.timeline, user.executor);
  return turn(user, s.turned(), leading(qkv, s.turned().size),
              [&](std::size_t i) { return places(s, user.timeline, user.batch.index(i)); });
}
// Cut as far as each party does it alone, by the cut of docs/protocol.md 2.4 (4.12 says what its half unit comes to).
template <Role R>
void cut_rotated(Share<R>& z, const HeadShape& s, Executor& executor) {
  const SecretCutShape of = s.rotated_cut();
  executor.parallel(z.tokens(), [&](std::size_t i) {
    for (Word& word : z.token(i)) word = cut(word, of.open);
  });
  z.format = {of.in(), s.qk.frac + of.secret};
}

inline Address scores_at(Use use, const HeadShape& s, std::uint32_t slot, std::uint16_t part = 0) {
  return {use, Site::scores, s.layer, slot, part};
}

// Masks of one slot's queries alone.
inline Words query_masks(const Coins& coins, Use use, const HeadShape& s, std::uint32_t slot) {
  return coins.words(scores_at(use, s, slot, 0), s.q_rows(), s.qk.ring);
}

// Masks of one slot's key alone.
inline Words key_masks(const Coins& coins, Use use, const HeadShape& s, std::uint32_t slot) {
  return coins.words(scores_at(use, s, slot, 1), s.kv_rows(), s.qk.ring);
}

// Masks of one slot, q then k: b (user, helper) or a (provider, helper).
inline QueryKeyCoins query_key_masks(const Coins& coins, Use use, const HeadShape& s, std::uint32_t slot) {
  return {query_masks(coins, use, s, slot), key_masks(coins, use, s, slot)};
}

// How many of n keys are among `size` words of keys, [slot][kv_rows] from slot `first` on.
inline std::size_t keys_met(const HeadShape& s, std::size_t n, std::size_t first, std::size_t size) {
  return first < n ? std::min(n - first, size / s.kv_rows()) : 0;
}

// out[head][key] += q[head] . keys[key][kv head]; `keys` are those of slot `first` and after, as far as there are some and `out` has them.
inline void add_pairs(const HeadShape& s, std::span<const Word> q, std::size_t first, const Words& keys,
                      std::span<Word> out) {
  const std::size_t n = out.size() / s.heads, count = keys_met(s, n, first, keys.size());
  for (std::size_t h = 0; count > 0 && h < s.heads; ++h) {
    dots(&q[h * s.head_dim], &keys[s.kv_of(h) * s.head_dim], s.kv_rows(), count, s.head_dim, &out[h * n + first]);
  }
}

inline void append(Words& to, std::span<const Word> from) { to.insert(to.end(), from.begin(), from.end()); }

// What `derive` makes of the slots before `end`, [slot][kv_rows], as many at a time as k_stretch words hold: with(begin, values). The helper keeps
// nothing of a slot that was dealt, and provider and user nothing of slots that were burnt before: a chain costs the memory of what is used of it,
// and deriving is little beside what is done with the words.
template <class Derive, class With>
void for_derived_keys(Executor& executor, const HeadShape& s, std::size_t end, Derive derive, With with) {
  constexpr std::size_t k_stretch = std::size_t{1} << 18, k_task = 16;
  const std::size_t slots = std::max(k_task, k_stretch / s.kv_rows());
  for (std::size_t begin = 0; begin < end; begin += slots) {
    const std::size_t count = std::min(slots, end - begin);
    decltype(derive(std::uint32_t{0})) values(count * s.kv_rows());
    executor.parallel((count + k_task - 1) / k_task, [&](std::size_t task) {
      for (std::size_t i = task * k_task; i < std::min(count, (task + 1) * k_task); ++i) {
        const auto one = derive(static_cast<std::uint32_t>(begin + i));
        std::copy(one.begin(), one.end(), values.begin() + static_cast<std::ptrdiff_t>(i * s.kv_rows()));
      }
    });
    with(begin, std::as_const(values));
  }
}

// offline, helper -> provider: what turns q and k, and their fix.
inline void scores_send(Helper& helper, const HeadShape& s) {
  if (s.hidden) turn(helper, s.turned());
  burn(helper.with_user, helper.batch, [&](std::uint32_t slot) { return scores_at(Use::score_rotated, s, slot); });
  helper.executor.parallel(helper.batch.count, [&](std::size_t i) {
    const std::uint32_t slot = helper.batch.index(i);
    QueryKeyCoins b = query_key_masks(helper.with_user, Use::score_rotated, s, slot);
    append(b.q, b.k);
    const Words r = cut_masks<Word>(helper.with_user, s.rotated_cut(), slot);
    secret_cut<Word>(helper, s.rotated_cut(), i, r, b.q);
  });
}

// offline, helper -> provider: x.
inline void scores(Helper& helper, const HeadShape& s) {
  std::vector<Words> a, b, x(helper.batch.count);  // a, b: of q
  for (std::size_t i = 0; i < helper.batch.count; ++i) {
    const std::uint32_t slot = helper.batch.index(i);
    b.push_back(query_masks(helper.with_user, Use::score_rotated, s, slot));
    a.push_back(query_masks(helper.with_provider, Use::score_sent, s, slot));
    helper.with_user.burn(scores_at(Use::score_share, s, slot));
  }
  helper.executor.parallel(x.size(), [&](std::size_t i) {
    const std::uint32_t slot = helper.batch.index(i);
    x[i] = helper.with_user.words(scores_at(Use::score_share, s, slot), s.heads * s.keys_at(slot), s.qk.ring);
    for (Word& word : x[i]) word = Word{0} - word;
  });
  const auto add = [&](const std::vector<Words>& q, const Coins& coins, Use use) {
    const auto derive = [&](std::uint32_t slot) { return key_masks(coins, use, s, slot); };
    for_derived_keys(helper.executor, s, s.keys_at(helper.batch.index(helper.batch.count - 1)), derive,
                     [&](std::size_t begin, const Words& keys) {
                       helper.executor.parallel(x.size(),
                                                [&](std::size_t i) { add_pairs(s, q[i], begin, keys, x[i]); });
                     });
  };
  add(a, helper.with_user, Use::score_rotated);
  add(b, helper.with_provider, Use::score_sent);
  for (std::size_t i = 0; i < x.size(); ++i) {
    helper.packs[i].words(x[i], s.qk.ring);
    x[i] = {};  // all of them are as much again as the packs
  }
}

// Steps 1 and 2. Keys of the batch join the cache. Returns q0. key_level: kv_rows that are taken from each key, or empty.
inline Masked scores_send(Provider& provider, const HeadShape& s, const Masked& qkv,
                          std::span<const float> key_level = {}) {
  PERMLLM_ASSERT(key_level.empty() || s.level);
  const SecretCutShape cut = s.rotated_cut();
  Words level;
  for (const float value : key_level) level.push_back(encode(double{value}, s.qk));
  Masked z = rotated(provider, s, qkv);
  cut_rotated(z, s, provider.executor);
  Masked q0{s.qk, s.q_rows(), {}};
  add(z.words, provider.user.receive(RotatedRemask{expect(cut.in(), provider.batch.count * cut.size)}).d.words);
  Words e;
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const std::uint32_t slot = provider.batch.index(i);
    provider.with_helper.burn(scores_at(Use::score_sent, s, slot));
    QueryKeyCoins a = query_key_masks(provider.with_helper, Use::score_sent, s, slot);
    append(a.q, a.k);
    Words z0 = secret_cut<Word>(provider, cut, i, z.token(i));
    const std::span<Word> q = std::span(z0).first(s.q_rows()), k = std::span(z0).last(s.kv_rows());
    for (std::size_t j = 0; j < level.size(); ++j) k[j] -= level[j];
    append(q0.words, q);
    append(provider.keys[s.layer].key, k);
    subtract(z0, a.q);
    append(e, z0);
  }
  provider.user.send(MaskedQueryKey{block(s.qk.ring, std::move(e))});
  return q0;
}

// One party's shares of a block's scores, [token][head][key]; their rows grow with the keys.
template <Role R>
Share<R> room_for_scores(const HeadShape& s, Batch batch) {
  return {s.qk, s.heads * s.keys_at(batch.index(0)), Words(s.pairs(batch))};
}

// q0: what scores_send returned, of which the block's rows begin with `begin`.
inline Masked score_shares(Provider& provider, const HeadShape& s, const Masked& q0, std::size_t begin) {
  const ProviderKeys& keys = provider.keys[s.layer];
  Masked shares = room_for_scores<Role::provider>(s, provider.batch);
  provider.executor.parallel(provider.batch.count, [&](std::size_t i) {
    const std::size_t n = s.keys_at(provider.batch.index(i));
    const auto x = provider.pack(i).helper.words("aq.bk + bq.ak - rho", s.heads * n, s.qk.ring);
    const std::span<Word> share = std::span(shares.words).subspan(s.pairs_before(provider.batch, i), x.size());
    std::copy(x.begin(), x.end(), share.begin());
    add_pairs(s, q0.token(begin + i), provider.timeline.first(), keys.key, share);
    const std::uint32_t slot = provider.batch.index(i);
    if (s.none_known_unseen(provider.timeline, slot)) return;
    // The score of a key that is not seen would tell the hidden level: noise stands in for it, one word for all such keys of a
    // row, because the extremes of many would close in on the level.
    const auto noise =
        provider.with_helper.words(scores_at(Use::score_unseen, s, slot), s.heads, Ring{s.dead_bits - 1});
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t h = 0; h < s.heads && s.known_unseen(provider.timeline, slot, j); ++h)
        share[h * n + j] = noise[h];
    }
  });
  return shares;
}

// Step 1: with the answer to the norm.
inline void scores_send(User& user, const HeadShape& s, const Mask& qkv) {
  const SecretCutShape cut = s.rotated_cut();
  Mask z = rotated(user, s, qkv);
  cut_rotated(z, s, user.executor);
  burn(user.with_helper, user.batch, [&](std::uint32_t slot) { return cut_at(Use::cut_sent, cut, slot); });
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    secret_cut<Word>(user, cut, i, z.token(i));
    append(user.keys[s.layer].mask, key_masks(user.with_helper, Use::score_rotated, s, user.batch.index(i)));
  }
  user.provider.send(RotatedRemask{block(cut.in(), std::move(z.words))});
}

// What the user receives of q: no share, for a hides it from the user.
struct ShownQueries {
  Words e;  // [token][q_rows]
};

// Step 2; returns eq.
inline ShownQueries scores_receive(User& user, const HeadShape& s) {
  const std::size_t rows = s.q_rows() + s.kv_rows();
  const auto e = user.provider.receive(MaskedQueryKey{expect(s.qk.ring, user.batch.count * rows)}).e.words;
  UserKeys& keys = user.keys[s.layer];
  ShownQueries eq;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    append(eq.e, std::span(e).subspan(i * rows, s.q_rows()));
    append(keys.shown, std::span(e).subspan(i * rows + s.q_rows(), s.kv_rows()));
  }
  return eq;
}

// eq: what scores_receive returned, as q0 above.
inline Mask score_shares(User& user, const HeadShape& s, const ShownQueries& eq, std::size_t begin) {
  const UserKeys& keys = user.keys[s.layer];
  Mask shares = room_for_scores<Role::user>(s, user.batch);
  user.executor.parallel(user.batch.count, [&](std::size_t i) {
    const std::uint32_t slot = user.batch.index(i);
    const std::size_t n = s.keys_at(slot);
    const Words bq = query_masks(user.with_helper, Use::score_rotated, s, slot);
    Words opened = bq;  // eq + bq
    for (std::size_t j = 0; j < opened.size(); ++j) opened[j] += eq.e[(begin + i) * s.q_rows() + j];
    const Words rho = user.with_helper.words(scores_at(Use::score_share, s, slot), s.heads * n, s.qk.ring);
    const std::span<Word> share = std::span(shares.words).subspan(s.pairs_before(user.batch, i), rho.size());
    std::copy(rho.begin(), rho.end(), share.begin());
    add_pairs(s, opened, user.timeline.first(), keys.mask, share);
    add_pairs(s, bq, user.timeline.first(), keys.shown, share);
    if (!s.hidden && s.sees_all(user.timeline, slot)) return;
    Words kept(n), least(n);
    for (std::size_t j = 0; j < n; ++j) {
      kept[j] = s.known_unseen(user.timeline, slot, j) ? 0 : ~Word{0};
      least[j] = s.unseen(user.timeline, slot, j) & (Word{1} << s.dead_bits);
    }
    for (std::size_t h = 0; h < s.heads; ++h) {
      for (std::size_t j = 0; j < n; ++j) share[h * n + j] = (share[h * n + j] & kept[j]) - least[j];
    }
  });
  return shares;
}

// --- Step 3, profile paper --------------------------------------------------------------------------------------------

constexpr Cost masked_scores_cost(const HeadShape& s, Batch batch) {
  return {.rounds = 0, .online = {.user_to_provider = s.pairs(batch) * s.qk.ring.bytes()}, .offline = {}};
}

// m, the user's share of the scores that the provider will hold.
inline Mask score_masks(const Coins& coins, const HeadShape& s, Batch batch) {
  Mask m{s.qk, s.heads * s.keys_at(batch.index(0)), {}};
  for (std::size_t i = 0; i < batch.count; ++i) {
    const std::uint32_t slot = batch.index(i);
    append(m.words, coins.words(scores_at(Use::score_mask, s, slot), s.heads * s.keys_at(slot), s.qk.ring));
  }
  return m;
}

// q.k - m.
inline Masked masked_scores(Provider& provider, const HeadShape& s, const Masked& q0, std::size_t begin) {
  Masked shares = score_shares(provider, s, q0, begin);
  const auto d = provider.user.receive(MaskedScores{expect(s.qk.ring, shares.words.size())}).d.words;
  for (std::size_t j = 0; j < d.size(); ++j) shares.words[j] += d[j];
  return shares;
}

inline void masked_scores(User& user, const HeadShape& s, const ShownQueries& eq, std::size_t begin) {
  Words d = score_shares(user, s, eq, begin).words;
  burn(user.with_helper, user.batch, [&](std::uint32_t slot) { return scores_at(Use::score_mask, s, slot); });
  const Mask m = score_masks(user.with_helper, s, user.batch);
  for (std::size_t j = 0; j < d.size(); ++j) d[j] -= m.words[j];
  user.provider.send(MaskedScores{block(s.qk.ring, std::move(d))});
}

// --- Shown scores, profile fast ---------------------------------------------------------------------------------------

constexpr Cost shown_scores_cost(const HeadShape& s, Batch batch) {
  return {.rounds = 0, .online = {.provider_to_user = s.pairs(batch) * s.shown.sent().bytes()}, .offline = {}};
}

inline void shown_scores(Provider& provider, const HeadShape& s, const Masked& q0, std::size_t begin) {
  Words shares = score_shares(provider, s, q0, begin).words;
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const std::uint32_t slot = provider.batch.index(i);
    const Words level =
        s.level ? provider.with_helper.words({Use::map_level, Site::scores, s.layer, slot}, s.heads, s.qk.ring)
                : Words(s.heads);
    const std::size_t n = s.keys_at(slot);
    Word* share = &shares[s.pairs_before(provider.batch, i)];
    for (std::size_t h = 0; h < s.heads; ++h) {
      for (std::size_t j = 0; j < n; ++j) share[h * n + j] = cut(share[h * n + j] + level[h], s.shown.drop);
    }
  }
  provider.user.send(ShownScores{block(s.shown.sent(), std::move(shares))});
}

// Scores of the block at unknown levels, in units of the reveal.
inline std::vector<std::int64_t> shown_scores(User& user, const HeadShape& s, const ShownQueries& eq,
                                              std::size_t begin) {
  const Mask shares = score_shares(user, s, eq, begin);
  const auto a = user.provider.receive(ShownScores{expect(s.shown.sent(), shares.words.size())}).a.words;
  std::vector<std::int64_t> shown(a.size());
  open(a, shares.words, s.shown.drop, s.shown.sent(), shown);
  return shown;
}

}  // namespace permllm
