// Links that look at what passes them, or change it.
#pragma once

#include <memory>
#include <vector>

#include "net/link.h"

namespace permllm::test {

class Passing : public Link {
 public:
  explicit Passing(std::unique_ptr<Link> link) : link_(std::move(link)) {}
  void send(Frame frame) override { link_->send(std::move(frame)); }
  void flush() override { link_->flush(); }
  Frame receive(Clock::time_point deadline, const char* awaited) override { return link_->receive(deadline, awaited); }
  void close() override { link_->close(); }

 private:
  std::unique_ptr<Link> link_;
};

// Keeps a copy of every frame that its owner sends.
class Recording : public Passing {
 public:
  Recording(std::unique_ptr<Link> link, std::vector<Frame>& frames) : Passing(std::move(link)), frames_(frames) {}
  void send(Frame frame) override {
    frames_.push_back(frame);
    Passing::send(std::move(frame));
  }

 private:
  std::vector<Frame>& frames_;
};

}  // namespace permllm::test
