#include "ring/executor.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"

namespace permllm {
namespace {

// A few microseconds: long enough for the next matrix of a token, short enough to leave the core to another party.
constexpr int k_spins = 400;
// Of a loop, where others wait: short beside a round trip, long beside the passing on of a turn.
constexpr auto k_turn = std::chrono::milliseconds(1);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct Executor::State {
  Turns turns;
  const Body* body = nullptr;
  std::size_t tasks = 0;
  std::optional<Clock::time_point> until;  // when the loop under way makes room for those who wait
  std::atomic<std::size_t> next{0};
  std::atomic<bool> left{false};          // it has made room
  std::atomic<std::uint32_t> round{0};    // a new loop begins
  std::atomic<std::uint32_t> working{0};  // workers that have not finished the loop
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> shares{0}, runs{0};

  Mutex failing;
  std::exception_ptr failure GUARDED_BY(failing);  // the first of a loop
  std::vector<std::jthread> workers;

  ~State() {
    stop = true;
    ++round;
    round.notify_all();
  }

  void take_part() {
    while (!left.load(std::memory_order_relaxed)) {
      const std::size_t i = next.fetch_add(1);
      if (i >= tasks) return;
      try {
        (*body)(i);
      } catch (...) {  // thrown again by the caller of the loop
        const Lock lock(failing);
        if (!failure) failure = std::current_exception();
      }
      if (until && turns.waiting() != 0 && Clock::now() >= *until) left.store(true, std::memory_order_relaxed);
    }
  }

  // In a turn, behind its loop.
  std::exception_ptr take_failure() {
    const Lock lock(failing);
    return std::exchange(failure, nullptr);
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

  // In a turn: the tasks from `first` on, all of them or until it is time to make room. The first that is left to do.
  std::size_t loop(std::size_t first, std::size_t count, const Body& each, std::optional<Clock::time_point> end) {
    body = &each;
    tasks = count;
    until = end;
    next = first;
    left = false;
    if (count - first == 1 || workers.empty()) {
      take_part();
    } else {
      working = static_cast<std::uint32_t>(workers.size());
      round.fetch_add(1, std::memory_order_release);
      round.notify_all();
      take_part();
      for (int spin = 0; spin < k_spins && working.load(std::memory_order_acquire) != 0; ++spin) pause();
      for (std::uint32_t busy = working.load(); busy != 0; busy = working.load()) working.wait(busy);
    }
    return std::min(next.load(), count);
  }
};

Executor::Executor(unsigned threads) : state_(std::make_shared<State>()) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  for (unsigned i = 1; i < threads; ++i) state_->workers.emplace_back([state = state_.get()] { state->work(); });
}

Executor::Executor(const Executor& shared, std::uint64_t user) : state_(shared.state_), user_(user) {}

unsigned Executor::threads() const { return static_cast<unsigned>(state_->workers.size()) + 1; }

std::size_t Executor::waiting() const { return state_->turns.waiting(); }

Executor::Sharing Executor::sharing() const { return {state_->shares, state_->runs}; }

void Executor::parallel(std::size_t tasks, const Body& body) {
  if (tasks == 0) return;
  if (tasks == 1) return body(0);
  std::exception_ptr failure;
  for (std::size_t first = 0; first < tasks;) {
    TurnRequest request{.user = user_};
    state_->turns.begin(request);
    first = state_->loop(first, tasks, body, Clock::now() + k_turn);
    std::exception_ptr now = state_->take_failure();
    state_->turns.end();
    if (!failure) failure = std::move(now);
  }
  if (failure) std::rethrow_exception(failure);
}

void Executor::together(TurnRequest::Work work, std::size_t size, std::size_t most, void* share, const Run& run) {
  const Parallel in_turn = [&](std::size_t tasks, const Body& body) {
    if (tasks == 0) return;
    state_->loop(0, tasks, body, std::nullopt);
    if (const std::exception_ptr failure = state_->take_failure()) std::rethrow_exception(failure);
  };
  TurnRequest own{.user = user_, .work = work, .size = size, .share = share};
  ++state_->shares;
  if (!state_->turns.begin(own)) return;
  struct End {  // however this ends
    Turns& turns;
    std::vector<TurnRequest*> company;
    ~End() { turns.end(company); }
  } turn{state_->turns, state_->turns.company(own, most)};
  if (!turn.company.empty()) {
    std::vector<void*> shares{share};
    for (const TurnRequest* request : turn.company) shares.push_back(request->share);
    try {
      run(in_turn, shares);
      ++state_->runs;
      return;
    } catch (...) {  // of all of them: nobody is told of what another's share did
      state_->turns.send_back(std::exchange(turn.company, {}));
    }
  }
  ++state_->runs;
  run(in_turn, std::span(&share, 1));
}

}  // namespace permllm
