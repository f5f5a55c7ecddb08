// Connections of one session that are cut where a test says, and a record of what crossed them.
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "net/memory_link.h"
#include "permllm/error.h"
#include "support/links.h"
#include "wire/frame.h"
#include "wire/tags.h"

namespace permllm::test {

// Connections may outlive their test's last look at it, so it is shared.
class Cuts : public std::enable_shared_from_this<Cuts> {
 public:
  enum Direction : int { up, down };  // user to provider, provider to user
  struct Cut {
    Direction direction;
    std::size_t at;  // frame of that direction, counted over all connections from 0
    bool lost;       // that frame does not arrive; else it is the last that does
  };
  explicit Cuts(std::vector<Cut> cuts) : cuts_(std::move(cuts)) {}
  static std::shared_ptr<Cuts> make(std::vector<Cut> cuts = {}) { return std::make_shared<Cuts>(std::move(cuts)); }

  // Both ends of a new connection, the user's first.
  std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> connect() {
    auto [near, far] = memory_links();
    return {std::make_unique<UserEnd>(std::move(near), shared_from_this()),
            std::make_unique<ProviderEnd>(std::move(far), shared_from_this())};
  }
  std::size_t frames(Direction direction) const {
    const std::lock_guard lock(mutex_);
    return frames_[direction];
  }
  std::size_t made() const {  // cuts so far
    const std::lock_guard lock(mutex_);
    return made_;
  }
  // Empty when every version of every step was the same, to the byte, and no step is missing.
  std::string fault() const {
    const std::lock_guard lock(mutex_);
    for (const auto& steps : versions_) {
      if (!steps.empty() && (steps.begin()->first != 0 || steps.rbegin()->first + 1 != steps.size()))
        return "a step is missing";
    }
    return fault_;
  }

 private:
  class UserEnd : public PassingLink {
   public:
    UserEnd(std::unique_ptr<Link> link, std::shared_ptr<Cuts> cuts)
        : PassingLink(std::move(link)), cuts_(std::move(cuts)) {}
    void send(Frame frame) override {
      cuts_->note(up, frame);
      const Cut* cut = cuts_->next(up);
      if (cut == nullptr || !cut->lost) PassingLink::send(std::move(frame));
      if (cut != nullptr) PassingLink::close();
    }
    Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
      Frame frame = PassingLink::receive(deadline, awaited, most);
      cuts_->note(down, frame);
      const Cut* cut = cuts_->next(down);
      if (cut != nullptr) PassingLink::close();
      if (cut != nullptr && cut->lost) throw Error(Code::closed, awaited, "cut");
      return frame;
    }

   private:
    std::shared_ptr<Cuts> cuts_;
  };
  class ProviderEnd : public PassingLink {
   public:
    ProviderEnd(std::unique_ptr<Link> link, std::shared_ptr<Cuts> cuts)
        : PassingLink(std::move(link)), cuts_(std::move(cuts)) {}
    void send(Frame frame) override {
      const Frame copy = frame;
      PassingLink::send(std::move(frame));  // or it did not go out
      cuts_->note(down, copy);
    }
    Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
      Frame frame = PassingLink::receive(deadline, awaited, most);
      cuts_->note(up, frame);
      return frame;
    }

   private:
    std::shared_ptr<Cuts> cuts_;
  };

  void note(Direction direction, const Frame& frame) {
    if (is_of_link(frame.tag)) return;
    Bytes bytes(k_frame_header_bytes);
    encode_header(frame, std::span<std::uint8_t, k_frame_header_bytes>(bytes.data(), k_frame_header_bytes));
    bytes.insert(bytes.end(), frame.payload.begin(), frame.payload.end());
    const std::lock_guard lock(mutex_);
    const auto [version, first] = versions_[direction].emplace(frame.step, bytes);
    if (!first && version->second != bytes)
      fault_ = fmt::format("direction {}: step {} has two versions; the second is {}", static_cast<int>(direction),
                           frame.step, name_of(static_cast<Tag>(frame.tag)));
  }
  const Cut* next(Direction direction) {
    const std::lock_guard lock(mutex_);
    const std::size_t number = frames_[direction]++;
    for (const Cut& cut : cuts_) {
      if (cut.direction != direction || cut.at != number) continue;
      ++made_;
      return &cut;
    }
    return nullptr;
  }

  mutable std::mutex mutex_;
  const std::vector<Cut> cuts_;
  std::size_t frames_[2] = {}, made_ = 0;
  std::map<std::uint32_t, Bytes> versions_[2];
  std::string fault_;
};

}  // namespace permllm::test
