// A link that remembers what passed it.
#pragma once

#include <memory>
#include <vector>

#include "net/link.h"

namespace permllm::test {

// Keeps a copy of every frame that its owner sends.
class Recording : public Link {
 public:
  Recording(std::unique_ptr<Link> link, std::vector<Frame>& frames) : link_(std::move(link)), frames_(frames) {}
  void send(Frame frame) override {
    frames_.push_back(frame);
    link_->send(std::move(frame));
  }
  void flush() override { link_->flush(); }
  Frame receive(Clock::time_point deadline, const char* awaited) override { return link_->receive(deadline, awaited); }
  void close() override { link_->close(); }

 private:
  std::unique_ptr<Link> link_;
  std::vector<Frame>& frames_;
};

}  // namespace permllm::test
