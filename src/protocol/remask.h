// Remask: a masked value moves from one mask to another.           docs/protocol.md 4.6
//
//   F:        provider holds y0, user holds m, y = y0 + m   ->   provider holds y - r, for a mask r known to the helper
//   step 1    U -> P   d = m - r                             provider keeps y0 + d
//   It costs no round trip: the user sends it with what it sends anyway. Used where the box that made y was dealt without
//   knowing which slot or pass it would serve.
//   coins of what the provider receives: r for d.
#pragma once

#include "protocol/roles.h"

namespace permllm {

struct RemaskShape {
  Use use;
  Site site;
  std::size_t size = 0;
  Format format;
};

constexpr Cost cost(const RemaskShape& s, Batch batch) {
  return {.rounds = 0, .online = {.user_to_provider = batch.count * s.size * s.format.ring.bytes()}, .offline = {}};
}

struct Remask {  // step 1, user -> provider
  static constexpr Tag tag = Tag::remask;
  Block d;
  template <class Io>
  void visit(Io& io) {
    io.block("d", d);
  }
};

// r: known to user and helper.
inline Mask remask_target(const Coins& coins, const RemaskShape& s, Batch batch) {
  return mask_of(coins, s.format, s.size, batch, [&](std::uint32_t index) { return Address{s.use, s.site, 0, index}; });
}

// offline: nothing is sent
inline Mask remask(Helper& helper, const RemaskShape& s, const Mask&) {
  return remask_target(helper.with_user, s, helper.batch);
}
inline Mask remask(UserDealer& user, const RemaskShape& s, const Mask&) {
  return remask_target(user.with_helper, s, user.batch);
}

inline Masked remask(Provider& provider, const RemaskShape& s, Masked y) {
  const auto d = provider.user.receive(Remask{expect(s.format.ring, y.words.size())}).d.words;
  for (std::size_t j = 0; j < d.size(); ++j) y.words[j] += d[j];
  return y;
}

inline Mask remask(User& user, const RemaskShape& s, const Mask& m) {
  Words d = m.words;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    const auto r = user.with_helper.spend({s.use, s.site, 0, user.batch.index(i)}, s.size, s.format.ring);
    for (std::size_t j = 0; j < s.size; ++j) d[i * s.size + j] -= r[j];
  }
  user.provider.send(Remask{block(s.format.ring, std::move(d))});
  user.provider.flush();  // the provider goes on while the user derives its next masks
  return remask_target(user.with_helper, s, user.batch);
}

inline Counted remask(Counter& counter, const RemaskShape& s, const Counted& y) {
  counter.total += cost(s, counter.batch);
  return y;
}

}  // namespace permllm
