// Conversations that requests share, one request at a time each: so that a dialogue, sent whole with each question, is not fed again.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <stop_token>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "gateway/backend.h"

namespace permllm {

class ConversationPool {
 public:
  // At most `size` conversations of the backend, which outlives the pool. options: of all.
  ConversationPool(const Backend& backend, const ConversationOptions& options, std::size_t size);

  // A conversation in use; given back when it is dropped.
  class Lease {
   public:
    Lease(Lease&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), index_(other.index_) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    Dialogue& operator*() const;
    // Tokens that it was fed by now, those of the answer with them.
    void holds(std::size_t tokens);

   private:
    friend class ConversationPool;
    Lease(ConversationPool* pool, std::size_t index) : pool_(pool), index_(index) {}
    ConversationPool* pool_;
    std::size_t index_;
  };

  // Waits for its turn: of those who wait, the owner (any number that tells them apart) with the fewest conversations in use comes first, then
  // the one whose last turn is longest ago, then who came first. Nothing once `stop` is asked for. The conversation is the owner's free one that these ids go on
  // with (most tokens in common, at least half of what it holds, or all of the prompt); else a new one while there are fewer than `size`; else
  // the free one unused longest, emptied. ids: of the whole dialogue, by options_for(raw).
  std::optional<Lease> take(std::size_t owner, std::span<const std::uint32_t> ids, bool raw,
                            const std::stop_token& stop);
  std::size_t waiting() const;
  // Of its conversations; raw: chat format none.
  ConversationOptions options_for(bool raw) const;

 private:
  struct Slot {
    std::unique_ptr<Dialogue> conversation;
    bool raw = false, busy = false;
    std::size_t owner = 0;   // of what it holds
    std::size_t held = 0;    // tokens
    std::uint64_t used = 0;  // the pool's count of uses when it was used last
  };
  struct Waiting {
    std::uint64_t ticket;
    std::size_t owner;
  };
  std::uint64_t next() const REQUIRES(mutex_);  // whose turn it is; the queue is not empty
  std::size_t choose(std::size_t owner, std::span<const std::uint32_t> ids, bool raw, bool& goes_on) const
      REQUIRES(mutex_);

  const Backend& backend_;
  const ConversationOptions options_;
  mutable Mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Waiting> queue_ GUARDED_BY(mutex_);
  std::map<std::size_t, std::uint64_t> last_turn_ GUARDED_BY(mutex_);  // of an owner: a count of all turns
  std::uint64_t tickets_ GUARDED_BY(mutex_) = 0, turns_ GUARDED_BY(mutex_) = 0, uses_ GUARDED_BY(mutex_) = 0;
  std::vector<Slot> slots_;  // their number is fixed; a busy one is its lease's, free ones are with the lock
};

}  // namespace permllm
