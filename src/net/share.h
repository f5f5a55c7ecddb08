// What one user's connections may carry: a bandwidth that they share.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "wire/link.h"

namespace permllm {

// The bandwidth of one direction. Thread-safe: who asks first goes first.
class SharedBandwidth {
 public:
  // bits_per_second: above 0. A burst of k_burst goes at once.
  explicit SharedBandwidth(double bits_per_second) : bits_per_second_(bits_per_second) {}
  // When so many bytes may go on.
  Clock::time_point reserve(std::size_t bytes);
  static constexpr auto k_burst = std::chrono::milliseconds(200);

 private:
  const double bits_per_second_;
  Mutex mutex_;
  Clock::time_point free_ GUARDED_BY(mutex_){};  // when all that was reserved has passed
};

// A link that keeps to a share of both directions. What is received beyond it waits at the sender, behind TCP's window.
class Throttled : public PassingLink {
 public:
  Throttled(std::unique_ptr<Link> link, std::shared_ptr<SharedBandwidth> out, std::shared_ptr<SharedBandwidth> in)
      : PassingLink(std::move(link)), out_(std::move(out)), in_(std::move(in)) {}
  void send(Frame frame) override;
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override;
  void close() override;

 private:
  // Until then, or until the link is closed.
  void wait(Clock::time_point until);
  std::shared_ptr<SharedBandwidth> out_, in_;
  Mutex mutex_;
  std::condition_variable changed_;
  bool closed_ GUARDED_BY(mutex_) = false;
};

// The shares of all users, by name, while they have connections. Thread-safe.
class BandwidthByUser {
 public:
  // 0: no limit.
  explicit BandwidthByUser(double bits_per_second) : bits_per_second_(bits_per_second) {}
  std::unique_ptr<Link> throttled(std::unique_ptr<Link> link, const std::string& user);

 private:
  struct Share {
    std::weak_ptr<SharedBandwidth> out, in;
  };
  const double bits_per_second_;
  Mutex mutex_;
  std::map<std::string, Share> shares_ GUARDED_BY(mutex_);
};

}  // namespace permllm
