// Turn: <y>, an angle that the user alone knows -> shares of y turned by it. One round trip.     docs/protocol.md 4.13
//
//   F:        provider holds y0, user holds m, y = y0 + m: heads of adjacent pairs, which R(c) turns, c = (cos, sin) of each pair as integers
//             R(c) y is linear in c and in y
//   step 1    P -> U   e = y0 - a                    a: known to provider and helper; the user holds y - a = e + m
//   step 2    U -> P   d = c - gamma                 gamma: known to user and helper
//   offline:  helper -> provider   x = R(gamma) a - rho        rho: known to user and helper
//   shares:   provider  R(d) a + x          user  R(c) (e + m) + rho
//   sum:      R(d) a + R(gamma) a - rho + R(c) (y - a) + rho = R(c) y
//   Step 2 travels with what the user sends of its share (a SecretCut), so that it costs no half round trip more.
//   coins of what the provider receives: gamma for d, rho for x. The user receives e, under a.
//   bound:    |R(c) y| < 2^(bits-1).
#pragma once

#include <cmath>

#include "protocol/roles.h"
#include "ring/elementwise.h"

namespace permllm {

struct TurnShape {
  Site site;
  std::uint16_t layer = 0;
  std::size_t size = 0, head_dim = 0;  // words of a token, of whole heads
  Ring ring;
};

constexpr Cost cost(const TurnShape& s, Batch batch) {
  const std::size_t word = s.ring.bytes();
  return {
      .rounds = 1,
      .online = {.provider_to_user = batch.count * s.size * word, .user_to_provider = batch.count * s.head_dim * word},
      .offline = {.helper_to_provider = batch.count * s.size * word}};
}

struct MaskedPairs {  // step 1, provider -> user
  static constexpr Tag tag = Tag::masked_pairs;
  Block e;
  template <class Io>
  void visit(Io& io) {
    io.block("e", e);
  }
};
struct MaskedPlaces {  // step 2, user -> provider: [token][head_dim]
  static constexpr Tag tag = Tag::masked_places;
  Block d;
  template <class Io>
  void visit(Io& io) {
    io.block("d", d);
  }
};

inline Address turn_at(Use use, const TurnShape& s, std::uint32_t slot) { return {use, s.site, s.layer, slot}; }

// R(c) of each head. c: the cosine of each pair, then their sines; empty: nothing turns.
inline void turn(std::span<const Word> c, std::span<Word> heads) {
  const std::size_t pairs = c.size() / 2;
  if (pairs == 0) return;
  for (std::size_t at = 0; at < heads.size(); at += 2) {
    const std::size_t i = at % c.size() / 2;
    const Word a = heads[at], b = heads[at + 1];
    heads[at] = a * c[i] - b * c[pairs + i];
    heads[at + 1] = a * c[pairs + i] + b * c[i];
  }
}

// offline, helper -> provider: x.
inline void turn(Helper& helper, const TurnShape& s) {
  burn(helper.with_user, helper.batch, [&](std::uint32_t slot) { return turn_at(Use::turn_share, s, slot); });
  helper.executor.parallel(helper.batch.count, [&](std::size_t i) {
    const std::uint32_t slot = helper.batch.index(i);
    Words x = helper.with_provider.words(turn_at(Use::turn_sent, s, slot), s.size, s.ring);
    turn(helper.with_user.words(turn_at(Use::turn_place, s, slot), s.head_dim, s.ring), x);
    subtract(x, helper.with_user.words(turn_at(Use::turn_share, s, slot), s.size, s.ring));
    helper.packs[i].words(x, s.ring);
  });
}

// Steps 1 and 2.
inline Masked turn(Provider& provider, const TurnShape& s, const Masked& y0) {
  PERMLLM_ASSERT(y0.size == s.size);
  burn(provider.with_helper, provider.batch, [&](std::uint32_t slot) { return turn_at(Use::turn_sent, s, slot); });
  Words e = y0.words;
  Masked share{{s.ring, 0}, s.size, Words(e.size())};
  provider.executor.parallel(provider.batch.count, [&](std::size_t i) {
    const Words a = provider.with_helper.words(turn_at(Use::turn_sent, s, provider.batch.index(i)), s.size, s.ring);
    subtract(std::span(e).subspan(i * s.size, s.size), a);
    std::copy(a.begin(), a.end(), share.token(i).begin());
  });
  provider.user.send(MaskedPairs{block(s.ring, std::move(e))});
  const auto d = provider.user.receive(MaskedPlaces{expect(s.ring, provider.batch.count * s.head_dim)}).d.words;
  provider.executor.parallel(provider.batch.count, [&](std::size_t i) {
    turn(std::span(d).subspan(i * s.head_dim, s.head_dim), share.token(i));
    add(share.token(i), provider.pack(i).helper.words("R(gamma) a - rho", s.size, s.ring));
  });
  return share;
}

// places(i) -> c of the i-th slot.
template <class Places>
Mask turn(User& user, const TurnShape& s, const Mask& m, const Places& places) {
  PERMLLM_ASSERT(m.size == s.size);
  burn(user.with_helper, user.batch, [&](std::uint32_t slot) { return turn_at(Use::turn_place, s, slot); });
  Mask share{{s.ring, 0}, s.size, user.provider.receive(MaskedPairs{expect(s.ring, m.words.size())}).e.words};
  Words d(user.batch.count * s.head_dim);
  user.executor.parallel(user.batch.count, [&](std::size_t i) {
    const std::uint32_t slot = user.batch.index(i);
    const Words c = places(i);
    add(share.token(i), m.token(i));
    turn(c, share.token(i));
    add(share.token(i), user.with_helper.words(turn_at(Use::turn_share, s, slot), s.size, s.ring));
    const std::span<Word> of_slot = std::span(d).subspan(i * s.head_dim, s.head_dim);
    std::copy(c.begin(), c.end(), of_slot.begin());
    subtract(of_slot, user.with_helper.words(turn_at(Use::turn_place, s, slot), s.head_dim, s.ring));
  });
  user.provider.send(MaskedPlaces{block(s.ring, std::move(d))});
  return share;
}

}  // namespace permllm
