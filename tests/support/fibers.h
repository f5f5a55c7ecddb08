// Provider and user as two fibers of one thread: receive() on an empty queue runs the other party. Deterministic, and quick
// enough to run a box for every value of its coins.
#pragma once

#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include <deque>
#include <exception>
#include <functional>
#include <vector>

#include "permllm/error.h"
#include "wire/link.h"

namespace permllm::test {

class Fibers {
 public:
  // Runs both to their end. What either throws is thrown here (the provider's first).
  void run(const std::function<void(Link&)>& provider, const std::function<void(Link&)>& user) {
    bodies_[0] = &provider;
    bodies_[1] = &user;
    for (int side : {0, 1}) {
      done_[side] = false;
      error_[side] = nullptr;
      queue_[side].clear();
      if (stack_[side].empty()) stack_[side].resize(512 << 10);
      getcontext(&context_[side]);
      context_[side].uc_stack.ss_sp = stack_[side].data();
      context_[side].uc_stack.ss_size = stack_[side].size();
      range_[side] = {stack_[side].data(), stack_[side].size()};
      context_[side].uc_link = nullptr;
      const auto self = reinterpret_cast<std::uintptr_t>(this);
      makecontext(&context_[side], reinterpret_cast<void (*)()>(&Fibers::enter), 3, static_cast<unsigned>(self >> 32),
                  static_cast<unsigned>(self), side);
    }
    current_ = k_main;
    switch_to(0);
    for (int side : {0, 1}) {
      if (error_[side]) std::rethrow_exception(error_[side]);
    }
  }
  // Frames that each side received in the last run, in order. Benchmarks keep none, which saves a copy of each.
  bool keep_received = true;
  const std::vector<Frame>& received(int side) const { return received_[side]; }
  std::size_t turns() const { return turns_; }
  void clear() {
    received_[0].clear();
    received_[1].clear();
    turns_ = 0;
  }
  // Changes a frame on its way (hostile tests); null: none.
  std::function<void(int to, Frame&)> tamper;

 private:
  struct End : Link {
    End(Fibers& f, int s) : fibers(f), side(s) {}
    void send(Frame frame) override {
      if (fibers.tamper) fibers.tamper(1 - side, frame);
      fibers.queue_[1 - side].push_back(std::move(frame));
      sent = true;
    }
    void flush() override {}
    Frame receive(Clock::time_point, const char* awaited, std::size_t most) override {
      if (sent && side == 1) ++fibers.turns_;  // a round trip: the user begins to wait after it had sent
      if (side == 1) sent = false;
      while (fibers.queue_[side].empty()) {
        if (fibers.done_[1 - side]) throw Error(Code::closed, awaited, "the peer closed the connection");
        fibers.switch_to(1 - side);
      }
      check_length(fibers.queue_[side].front().tag, fibers.queue_[side].front().payload.size(), most, awaited);
      Frame frame = std::move(fibers.queue_[side].front());
      fibers.queue_[side].pop_front();
      if (fibers.keep_received) fibers.received_[side].push_back(frame);
      return frame;
    }
    void close() override {}
    Fibers& fibers;
    int side;
    bool sent = true;  // what came before the box counts as the user's turn: a first message of the provider is a wait
  };

  static void enter(unsigned high, unsigned low, int side) {
    auto* self = reinterpret_cast<Fibers*>(static_cast<std::uintptr_t>(high) << 32 | low);
    self->body(side);
  }
  void body(int side) {
    arrived(nullptr, side == 0 ? &range_[k_main] : nullptr);
    try {
      End end(*this, side);
      (*bodies_[side])(end);
    } catch (...) {  // carried over to run(), which throws it again
      error_[side] = std::current_exception();
    }
    done_[side] = true;
    switch_to(done_[1 - side] ? k_main : 1 - side);
  }
  void switch_to(int side) {
    const int from = current_;
    current_ = side;
    void* fake = nullptr;
    leaving(&fake, range_[side]);
    swapcontext(&context_[from], &context_[side]);
    arrived(fake, nullptr);
  }

  // The address sanitizer is told of every change of stack.
  struct Range {
    const void* bottom = nullptr;
    std::size_t size = 0;
  };
#if defined(__SANITIZE_ADDRESS__)
  static void leaving(void** fake, const Range& to) { __sanitizer_start_switch_fiber(fake, to.bottom, to.size); }
  static void arrived(void* fake, Range* left) {
    __sanitizer_finish_switch_fiber(fake, left ? &left->bottom : nullptr, left ? &left->size : nullptr);
  }
#else
  static void leaving(void**, const Range&) {}
  static void arrived(void*, Range*) {}
#endif

  static constexpr int k_main = 2;
  ucontext_t context_[3];
  Range range_[3];
  std::vector<char> stack_[2];
  const std::function<void(Link&)>* bodies_[2];
  std::deque<Frame> queue_[2];
  std::vector<Frame> received_[2];
  std::exception_ptr error_[2];
  bool done_[2];
  int current_ = 0;
  std::size_t turns_ = 0;
};

}  // namespace permllm::test
