// Whose turn it is: callers of several users who all want the processor.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <vector>

#include "base/mutex.h"

namespace permllm {

// What a caller waits with, in its own thread's memory.
struct TurnRequest {
  // The same work can be done for several callers at once: what it is about, and how. Null: with nobody's.
  struct Work {
    const void* what = nullptr;
    int how = 0;
    bool operator==(const Work&) const = default;
  };
  std::uint64_t user = 0;
  Work work = {};
  std::size_t size = 0;   // what it adds to a turn, in a unit of the work's own
  void* share = nullptr;  // for whoever does the work
  enum class State { waiting, leads, done } state = State::waiting;
  std::condition_variable changed = {};
};

// One caller at a time has the turn. It goes round by user, one request each, so that a user gains no share by waiting with many;
// a user's own requests go in order. There is no thread: whoever ends its turn passes it on.
class Turns {
 public:
  // Waits. True: the caller has the turn, and ends it with `end`. False: another's turn did its work.
  bool begin(TurnRequest& own);
  // In one's turn: takes along those who wait with the same work, while together they have at most `most`: one of each user, then
  // the next of each.
  std::vector<TurnRequest*> company(const TurnRequest& own, std::size_t most);
  // In one's turn: the company's work could not be done together. They wait again, each for a turn alone.
  void send_back(const std::vector<TurnRequest*>& company);
  // In one's turn, whose company was served.
  void end(const std::vector<TurnRequest*>& company = {});
  // Requests that wait: some, and it is time to end a long turn.
  std::size_t waiting() const { return waiting_.load(std::memory_order_relaxed); }

 private:
  struct Line {
    std::uint64_t user;
    std::deque<TurnRequest*> requests;
  };
  Line& line_of(std::uint64_t user) REQUIRES(mutex_);

  Mutex mutex_;
  std::list<Line> lines_ GUARDED_BY(mutex_);  // of users who wait, the next one first
  bool taken_ GUARDED_BY(mutex_) = false;
  std::atomic<std::size_t> waiting_ = 0;
};

}  // namespace permllm
