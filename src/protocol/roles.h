// The three parties, each holding only what that role may hold, and the two shares of a masked value.
//
// <x>: the provider holds x0 = x - r, the user holds r, and r was known to user and helper before the request.
#pragma once

#include <algorithm>
#include <atomic>
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
template <Role R, class W = Word>
struct Share {
  Format format;
  std::size_t size = 0;
  std::vector<W> words;

  std::size_t tokens() const { return size == 0 ? 0 : words.size() / size; }
  std::span<const W> token(std::size_t i) const { return std::span(words).subspan(i * size, size); }
  std::span<W> token(std::size_t i) { return std::span(words).subspan(i * size, size); }
  // The last n rows alone.
  Share last(std::size_t n = 1) const {
    return {format, size, std::vector<W>(words.end() - static_cast<std::ptrdiff_t>(n * size), words.end())};
  }
};
template <class W>
using MaskedOf = Share<Role::provider, W>;
template <class W>
using MaskOf = Share<Role::user, W>;
using Masked = MaskedOf<Word>;  // x - r
using Mask = MaskOf<Word>;      // r; the helper knows it too

// The mask that the coins of a batch are, a row of `size` for each index. at: the address of an index.
template <class AddressAt>
Mask mask_of(const Coins& coins, Format format, std::size_t size, Batch batch, AddressAt at) {
  Mask r{format, size, Words(batch.count * size)};
  for (std::size_t i = 0; i < batch.count; ++i) coins.words(at(batch.index(i)), format.ring, r.token(i));
  return r;
}
// Burns them, ahead of the message that they protect.
template <class AddressAt>
void burn(Coins& coins, Batch batch, AddressAt at) {
  for (std::size_t i = 0; i < batch.count; ++i) coins.burn(at(batch.index(i)));
}

// A signed integer kept in a word, as a word of the same or the wide type.
template <class W>
constexpr W widen(Word x) {
  return static_cast<W>(static_cast<std::int64_t>(x));
}

// x + (y << shift), where y has `shift` fraction bits less: the residual connection. Both parties do it alone.
template <Role R>
void add_aligned(Share<R>& x, const Share<R>& y) {
  const int shift = x.format.frac - y.format.frac;
  PERMLLM_ASSERT(shift >= 0 && y.format.ring.bits + shift >= x.format.ring.bits && x.words.size() == y.words.size());
  for (std::size_t i = 0; i < x.words.size(); ++i) x.words[i] += y.words[i] << shift;
}

// In a format of more fraction bits. Both parties do it alone.
template <Role R>
Share<R> aligned(Share<R> x, Format to) {
  PERMLLM_ASSERT(to.frac >= x.format.frac);
  for (Word& word : x.words) word <<= to.frac - x.format.frac;
  x.format = to;
  return x;
}

// The first `size` entries of each row, and those entries replaced.
template <Role R>
Share<R> leading(const Share<R>& x, std::size_t size) {
  Share<R> part{x.format, size, Words(x.tokens() * size)};
  for (std::size_t i = 0; i < x.tokens(); ++i) std::copy_n(x.token(i).begin(), size, part.token(i).begin());
  return part;
}
template <Role R>
void replace_leading(Share<R>& x, const Share<R>& part) {
  for (std::size_t i = 0; i < x.tokens(); ++i) std::copy_n(part.token(i).begin(), part.size, x.token(i).begin());
}

// Which slots of the chain hold a token. The others are known to provider and user, take no position, and their keys have
// probability zero: a skipped slot was begun and given up, and left nothing in the caches; a dead one went through a pass
// with the others (unused slots of a prompt that attends both ways, tokens that were taken back). Slots before `first` were
// burnt by others: they are skipped, and nothing is kept of them, here or in the caches.
class Timeline {
 public:
  explicit Timeline(std::size_t first = 0) : first_(first) {}
  void append(bool live) {
    before_.push_back(length());
    live_.push_back(live);
    skipped_.push_back(false);
  }
  std::size_t first() const { return first_; }
  std::size_t slots() const { return first_ + live_.size(); }
  void skip(std::size_t slot) {
    const std::size_t at = slot - first_;
    for (std::size_t s = at + 1; s < live_.size() && live_[at]; ++s) --before_[s];
    live_[at] = false;
    skipped_[at] = true;
  }
  // Keeps the first n live slots; those behind them become dead.
  void rewind(std::size_t n) {
    for (std::size_t s = 0; s < live_.size(); ++s) {
      live_[s] = live_[s] && before_[s] < n;
      before_[s] = std::min(before_[s], n);
    }
  }
  // Live slots.
  std::size_t length() const { return live_.empty() ? 0 : before_.back() + (live_.back() ? 1 : 0); }
  bool live(std::size_t slot) const { return slot >= first_ && live_[slot - first_]; }
  bool skipped(std::size_t slot) const { return slot < first_ || skipped_[slot - first_]; }
  bool all_live(std::size_t n) const { return n == 0 || (position(n - 1) == n - 1 && live(n - 1)); }
  bool none_skipped(std::size_t n) const {
    return first_ == 0 &&
           std::none_of(skipped_.begin(), skipped_.begin() + static_cast<std::ptrdiff_t>(n), [](bool s) { return s; });
  }
  // Number of live slots before `slot`.
  std::size_t position(std::size_t slot) const { return slot < first_ ? 0 : before_[slot - first_]; }

 private:
  std::size_t first_;
  std::vector<bool> live_, skipped_;  // from the first on
  std::vector<std::size_t> before_;
};

// Words of the ring of p.v, which only some plans have wide: one of the two vectors is used.
struct WideOrNot {
  Words narrow;
  std::vector<Wide> wide;
  void reserve(std::size_t words, bool as_wide) { as_wide ? wide.reserve(words) : narrow.reserve(words); }
  template <class W>
  std::vector<W>& of() {
    if constexpr (std::is_same_v<W, Wide>) {
      return wide;
    } else {
      return narrow;
    }
  }
};

// --- Provider ---------------------------------------------------------------------------------------------------------

// Offline material of one slot (in one layer), entry or pass: what the helper and the user sent, read in the order of
// use. Each piece is read once.
struct Pack {
  Reader helper, user;
  std::shared_ptr<const Bytes> from_helper, from_user;  // what the readers read
};

// Of every key so far, in one layer, from the timeline's first slot on: [slot][kv_rows].
struct ProviderKeys {
  Words key;          // k0, re-masked: k - b
  Words lift;         // alpha: v - alpha is at the user
  WideOrNot reshare;  // f = (v - alpha) - c; profile paper
  void reserve(std::size_t words, bool wide) {
    for (Words* cache : {&key, &lift}) cache->reserve(words);
    reshare.reserve(words, wide);
  }
};

struct Provider {
  Channel& user;
  Coins& with_helper;
  Executor& executor;
  const Timeline& timeline;
  std::vector<ProviderKeys>& keys;  // by layer
  Batch batch = {};
  std::vector<Pack> packs = {};  // one for each of the whole batch
  std::size_t offset = 0;        // of `batch` in the whole batch
  Pack& pack(std::size_t i) { return packs[offset + i]; }
};

// --- User -------------------------------------------------------------------------------------------------------------

// Likewise.
struct UserKeys {
  Words mask;   // b: the provider holds k - b
  Words shown;  // k0 - a
  Words lift;   // v - alpha
  void reserve(std::size_t words, bool) {
    for (Words* cache : {&mask, &shown, &lift}) cache->reserve(words);
  }
};

// Numbers that the user saw in the clear, in units of the reveal, in the order that it saw them in.
struct Seen {
  Site site;
  std::uint16_t layer;
  std::uint32_t index;  // slot, or pass
  std::size_t row;
  std::span<const std::int64_t> values;
  Shown shown;
  Disguise disguise;
};

struct User {
  Channel& provider;
  Coins& with_helper;
  const Timeline& timeline;
  std::vector<UserKeys>& keys;
  Executor& executor;
  Batch batch = {};
  std::function<void(const Seen&)> observe = nullptr;
  std::size_t offset = 0;   // as the provider's
  bool one_by_one = false;  // for_each_token
  std::atomic<std::uint64_t>* beyond =
      nullptr;  // counts values beyond their range (protocol/range.h); null: nobody asks
  void count(std::size_t values) {
    if (beyond != nullptr) beyond->fetch_add(values, std::memory_order_relaxed);
  }
};

// body(i) of the first `count` tokens: by several threads, but one after the other where an observer is told what it saw, or random numbers are
// drawn.
template <class F>
void for_each_token(User& user, std::size_t count, F body) {
  if (!user.observe && !user.one_by_one) return user.executor.parallel(count, body);
  for (std::size_t i = 0; i < count; ++i) body(i);
}

// The user's half of the offline phase: it expands U.
struct UserDealer {
  Coins& with_helper;
  Executor& executor;
  Batch batch = {};
  std::vector<Writer> packs = {};
};

// --- Helper -----------------------------------------------------------------------------------------------------------

// It keeps nothing of what was dealt: what later slots need of it is derived again.
struct Helper {
  Coins& with_user;
  Coins& with_provider;
  Executor& executor;
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
  Counted last(std::size_t = 1) const { return *this; }
};

// Part of a party's batch as a batch of its own, while this object lives: long batches meet the quadratic boxes in blocks.
template <class Party>
class Stretch {
 public:
  Stretch(Party& party, std::size_t begin, std::size_t count)
      : party_(party), whole_(party.batch), offset_(party.offset) {
    party.batch = {whole_.index(begin), count};
    party.offset = offset_ + begin;
  }
  ~Stretch() {
    party_.batch = whole_;
    party_.offset = offset_;
  }
  Stretch(const Stretch&) = delete;
  Stretch& operator=(const Stretch&) = delete;

 private:
  Party& party_;
  Batch whole_;
  std::size_t offset_;
};
inline void add_aligned(Counted&, const Counted&) {}
inline Counted aligned(const Counted& x, Format to) { return {to, x.size}; }
inline Counted leading(const Counted& x, std::size_t size) { return {x.format, size}; }
inline void replace_leading(Counted&, const Counted&) {}

}  // namespace permllm
