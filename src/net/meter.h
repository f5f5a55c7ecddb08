// Counts what crosses a link, for its owner.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "wire/link.h"

namespace permllm {

// A number that one thread counts up while others read it.
class Tally {
 public:
  Tally(std::uint64_t value = 0) : value_(value) {}  // NOLINT(google-explicit-constructor)
  Tally(const Tally& other) : value_(other) {}
  Tally& operator=(const Tally& other) {
    value_.store(other, std::memory_order_relaxed);
    return *this;
  }
  // NOLINTNEXTLINE(google-explicit-constructor)
  operator std::uint64_t() const { return value_.load(std::memory_order_relaxed); }
  void operator+=(std::uint64_t more) { value_.fetch_add(more, std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_;
};

struct Traffic {
  struct Direction {
    Tally payload_bytes, frames;
  };
  Direction sent, received;
  Tally round_trips;  // times that something came after the owner had sent

  std::uint64_t header_bytes() const;
  Traffic operator-(const Traffic& earlier) const;
};

class Meter : public PassingLink {
 public:
  // `traffic` outlives the link, as does `total`, where the same is counted once more.
  Meter(std::unique_ptr<Link> link, Traffic& traffic, Traffic* total = nullptr)
      : PassingLink(std::move(link)), traffic_(traffic), total_(total) {}

  void send(Frame frame) override;
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override;

 private:
  template <class Count>
  void count(const Count& count_in) {
    count_in(traffic_);
    if (total_ != nullptr) count_in(*total_);
  }
  Traffic& traffic_;
  Traffic* total_;
  bool sent_since_receive_ = false;
};

}  // namespace permllm
