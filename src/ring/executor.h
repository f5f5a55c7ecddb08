// A fixed set of worker threads that split one loop at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace permllm {

// Workers spin for a few microseconds between loops, then block, so that three parties may share two cores.
class Executor {
 public:
  // `threads` counts the caller: 1 means no worker at all. 0 means one for each core.
  explicit Executor(unsigned threads = 0);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  unsigned threads() const;
  // Runs body(i) for every i < tasks, on the workers and the caller, and returns when all are done. Calls from several
  // threads are served one after the other. What `body` throws is thrown here once all are done (the
  // first, if several do); it must not call parallel.
  void parallel(std::size_t tasks, const std::function<void(std::size_t)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace permllm
