// The three parties, each holding only what that role may hold, and the two shares of a masked value.
//
// <x>: the provider holds x0 = x - r, the user holds r, and r was known to user and helper before the request.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "protocol/spec.h"
#include "rand/coins.h"
#include "ring/executor.h"
#include "ring/ring.h"
#include "wire/message.h"

namespace permllm {

// One party's share of n rows: words is [tokens x size]. The two parties' types have no operator in common.
template <Role R>
struct Share {
  Format format;
  std::size_t size = 0;
  Words words;

  std::size_t tokens() const { return size == 0 ? 0 : words.size() / size; }
  std::span<const Word> token(std::size_t i) const { return std::span(words).subspan(i * size, size); }
  std::span<Word> token(std::size_t i) { return std::span(words).subspan(i * size, size); }
  // The last row alone.
  Share last() const {
    const auto row = token(tokens() - 1);
    return {format, size, Words(row.begin(), row.end())};
  }
};
using Masked = Share<Role::provider>;  // x - r
using Mask = Share<Role::user>;        // r; the helper knows it too

// x + (y << shift), where y has `shift` fraction bits less: the residual connection. Both parties do it alone.
template <Role R>
void add_aligned(Share<R>& x, const Share<R>& y) {
  const int shift = x.format.frac - y.format.frac;
  PERMLLM_ASSERT(shift >= 0 && y.format.ring.bits + shift >= x.format.ring.bits && x.words.size() == y.words.size());
  for (std::size_t i = 0; i < x.words.size(); ++i) x.words[i] += y.words[i] << shift;
}

// Which slots of the chain hold a token. A skipped slot is known to provider and user: it was begun and given up, takes
// no position, and its key has probability zero.
class Timeline {
 public:
  void append(bool live) { live_.push_back(live); }
  std::size_t slots() const { return live_.size(); }
  void skip(std::size_t slot) { live_[slot] = false; }
  bool live(std::size_t slot) const { return live_[slot]; }
  // Number of live slots before `slot`.
  std::size_t position(std::size_t slot) const {
    std::size_t before = 0;
    for (std::size_t s = 0; s < slot; ++s) before += live_[s] ? 1 : 0;
    return before;
  }

 private:
  std::vector<bool> live_;
};

// --- Provider ---------------------------------------------------------------------------------------------------------

// Offline material of one slot (in one layer), entry or pass: what the helper and the user sent, read in the order of
// use. Each piece is read once.
struct Pack {
  Reader helper, user;
  std::shared_ptr<const Bytes> from_helper, from_user;  // what the readers read
};

// Of every key so far, in one layer: [slot][kv_rows].
struct ProviderKeys {
  Words key;      // k0, re-masked: k - b
  Words sent;     // a: k0 - a went to the user
  Words lift;     // alpha: v - alpha is at the user
  Words reshare;  // f = (v - alpha) - c
};

struct Provider {
  Channel& user;
  Coins& with_helper;
  Executor& executor;
  const Timeline& timeline;
  std::vector<ProviderKeys>& keys;  // by layer
  Batch batch = {};
  std::vector<Pack> packs = {};  // one for each of the batch
};

// --- User -------------------------------------------------------------------------------------------------------------

struct UserKeys {
  Words mask;   // b: the provider holds k - b
  Words shown;  // k0 - a
  Words lift;   // v - alpha
};

// Numbers that the user saw in the clear, in units of the reveal, in the order that it saw them in.
struct Seen {
  Site site;
  std::uint16_t layer;
  std::uint32_t index;  // slot, or pass
  std::size_t row;
  std::span<const std::int64_t> values;
};

struct User {
  Channel& provider;
  Coins& with_helper;
  const Timeline& timeline;
  std::vector<UserKeys>& keys;
  Batch batch = {};
  std::function<void(const Seen&)> observe = nullptr;
};

// The user's half of the offline phase: it expands U.
struct UserDealer {
  Coins& with_helper;
  Executor& executor;
  Batch batch = {};
  std::vector<Writer> packs = {};
};

// --- Helper -----------------------------------------------------------------------------------------------------------

struct HelperKeys {
  Words mask, sent, lift, reshare_mask;  // b, a, alpha, c
};

struct Helper {
  Coins& with_user;
  Coins& with_provider;
  Executor& executor;
  std::vector<HelperKeys>& keys;
  Batch batch = {};
  std::vector<Writer> packs = {};
};

// --- Cost -------------------------------------------------------------------------------------------------------------

// Walks the same page as the parties and adds up what each box declares.
struct Counter {
  Batch batch = {};
  Cost total = {};
};
struct Counted {
  Format format;
  std::size_t size = 0;
  Counted last() const { return *this; }
};
inline void add_aligned(Counted&, const Counted&) {}

}  // namespace permllm
