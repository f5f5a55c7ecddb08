#include "net/room.h"

#include <algorithm>

#include "permllm/error.h"

namespace permllm {

Room::Held Room::take(std::size_t bytes, Clock::time_point deadline, const char* awaited,
                      const std::function<bool()>& stop) {
  constexpr auto k_look = std::chrono::milliseconds(50);
  Lock lock(mutex_);
  waiting_.push_back(&bytes);
  const auto leave = [&]() REQUIRES(mutex_) {
    std::erase(waiting_, &bytes);
    changed_.notify_all();
  };
  const auto there = [&]() REQUIRES(mutex_) { return waiting_.front() == &bytes && fits(bytes); };
  while (!there()) {
    const bool stopped = stop();
    if (stopped || Clock::now() >= deadline) {
      leave();
      if (stopped) throw Error(Code::closed, awaited, "this side closed the connection");
      throw Error(Code::timeout, awaited,
                  "did not arrive before the deadline: other connections of this peer hold all the room that it has");
    }
    changed_.wait_until(lock, std::min(deadline, Clock::now() + k_look), there);
  }
  Held held = taken(bytes);
  leave();
  return held;
}

Room::Held Room::try_take(std::size_t bytes) {
  const Lock lock(mutex_);
  return waiting_.empty() && fits(bytes) ? taken(bytes) : nullptr;
}

Room::Held Room::taken(std::size_t bytes) {
  used_ += bytes;
  return Held(this, [room = shared_from_this(), bytes](void*) {
    {
      const Lock lock(room->mutex_);
      room->used_ -= bytes;
    }
    room->changed_.notify_all();
  });
}

std::size_t Room::used() const {
  const Lock lock(mutex_);
  return used_;
}

std::shared_ptr<Room> RoomByPeer::of(const std::string& peer) {
  const Lock lock(mutex_);
  std::erase_if(rooms_, [](const auto& room) { return room.second.expired(); });
  std::weak_ptr<Room>& kept = rooms_[peer];
  std::shared_ptr<Room> room = kept.lock();
  if (!room) kept = room = std::make_shared<Room>(bytes_);
  return room;
}

}  // namespace permllm
