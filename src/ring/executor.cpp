#include "ring/executor.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace permllm {
namespace {

// A few microseconds: long enough for the next matrix of a token, short enough to leave the core to another party.
constexpr int k_spins = 400;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct Executor::State {
  std::mutex callers;
  const std::function<void(std::size_t)>* body = nullptr;
  std::size_t tasks = 0;
  std::atomic<std::size_t> next{0};
  std::atomic<std::uint32_t> round{0};    // a new loop begins
  std::atomic<std::uint32_t> working{0};  // workers that have not finished the loop
  std::atomic<bool> stop{false};
  std::vector<std::jthread> workers;

  std::mutex failing;
  std::exception_ptr failure;  // the first of a loop

  void take_part() {
    for (std::size_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) {
      try {
        (*body)(i);
      } catch (...) {  // thrown again by the caller of the loop
        const std::lock_guard lock(failing);
        if (!failure) failure = std::current_exception();
      }
    }
  }

  void work() {
    std::uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < k_spins && round.load(std::memory_order_acquire) == seen; ++spin) pause();
      round.wait(seen);
      seen = round.load(std::memory_order_acquire);
      if (stop.load()) return;
      take_part();
      if (working.fetch_sub(1) == 1) working.notify_one();
    }
  }
};

Executor::Executor(unsigned threads) : state_(new State) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  for (unsigned i = 1; i < threads; ++i) state_->workers.emplace_back([state = state_.get()] { state->work(); });
}

Executor::~Executor() {
  state_->stop = true;
  ++state_->round;
  state_->round.notify_all();
}

unsigned Executor::threads() const { return static_cast<unsigned>(state_->workers.size()) + 1; }

void Executor::parallel(std::size_t tasks, const std::function<void(std::size_t)>& body) {
  if (tasks == 0) return;
  const std::lock_guard lock(state_->callers);
  if (tasks == 1 || state_->workers.empty()) {
    for (std::size_t i = 0; i < tasks; ++i) body(i);
    return;
  }
  state_->body = &body;
  state_->tasks = tasks;
  state_->next = 0;
  state_->working = static_cast<std::uint32_t>(state_->workers.size());
  state_->round.fetch_add(1, std::memory_order_release);
  state_->round.notify_all();
  state_->take_part();
  for (int spin = 0; spin < k_spins && state_->working.load(std::memory_order_acquire) != 0; ++spin) pause();
  for (std::uint32_t left = state_->working.load(); left != 0; left = state_->working.load()) state_->working.wait(left);
  if (state_->failure) std::rethrow_exception(std::exchange(state_->failure, nullptr));
}

}  // namespace permllm
