// Counts what crosses a link, for its owner.
#pragma once

#include <map>
#include <memory>
#include <utility>

#include "net/link.h"

namespace permllm {

struct Traffic {
  struct Direction {
    std::uint64_t payload_bytes = 0, frames = 0;
  };
  Direction sent, received;
  std::uint64_t round_trips = 0;  // times that the owner began to wait after it had sent

  std::uint64_t header_bytes() const;
  Traffic operator-(const Traffic& earlier) const;
};

class Meter : public Link {
 public:
  // `traffic` outlives the link.
  Meter(std::unique_ptr<Link> link, Traffic& traffic) : link_(std::move(link)), traffic_(traffic) {}

  void send(Frame frame) override;
  void flush() override { link_->flush(); }
  Frame receive(Clock::time_point deadline, const char* awaited) override;
  void close() override { link_->close(); }

 private:
  std::unique_ptr<Link> link_;
  Traffic& traffic_;
  bool sent_since_receive_ = false;
};

}  // namespace permllm
