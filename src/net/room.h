// What one peer may make a service hold: bytes of memory that all its connections share.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "wire/link.h"

namespace permllm {

// Frames with a payload of at most so many bytes take no room: what a peer's connections may hold of them is little, and what others
// wait for (an acknowledgement, an order, the end of a pass) is never held up.
inline constexpr std::size_t k_small_payload = std::size_t{64} << 10;

// Room for so many bytes. Who takes some waits until there is as much, the first who came first; somebody who wants more than there is
// in all has it alone. Thread-safe.
//
// Nobody waits for ever: who holds room has its whole frame's (never a part, to wait for the rest), and gives it back by its own work or
// when small frames have come, without another large frame of the same peer. It is given back when the owner of the connection asks for the
// next frame; until then a provider computes (a pass has all its material before the first of its frames is received), waits for its disk,
// or for its peer to read. So a peer that holds it does so against itself alone, until the deadline of that wait.
class Room : public std::enable_shared_from_this<Room> {
 public:
  using Held = std::shared_ptr<void>;  // given back with the last copy
  explicit Room(std::size_t bytes) : bytes_(bytes) {}
  // stop: asked now and then; true ends the wait. Errors: timeout, closed where it was stopped; both name what was awaited.
  [[nodiscard]] Held take(
      std::size_t bytes, Clock::time_point deadline, const char* awaited,
      const std::function<bool()>& stop = [] { return false; });
  // The same at once, or null.
  [[nodiscard]] Held try_take(std::size_t bytes);
  std::size_t used() const;

 private:
  bool fits(std::size_t bytes) const REQUIRES(mutex_) {
    return used_ == 0 || (bytes <= bytes_ && used_ <= bytes_ - bytes);
  }
  Held taken(std::size_t bytes) REQUIRES(mutex_);

  const std::size_t bytes_;
  mutable Mutex mutex_;
  std::condition_variable changed_;
  std::size_t used_ GUARDED_BY(mutex_) = 0;
  std::deque<const void*> waiting_ GUARDED_BY(mutex_);  // in the order in which they came
};

// The rooms of all peers, by name, while somebody has them. Thread-safe.
class RoomByPeer {
 public:
  explicit RoomByPeer(std::size_t bytes) : bytes_(bytes) {}
  std::shared_ptr<Room> of(const std::string& peer);

 private:
  const std::size_t bytes_;
  Mutex mutex_;
  std::map<std::string, std::weak_ptr<Room>> rooms_ GUARDED_BY(mutex_);
};

}  // namespace permllm
