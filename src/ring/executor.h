// A fixed set of worker threads that split one loop at a time, for callers who take turns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "ring/turns.h"

namespace permllm {

// Workers spin for a few microseconds between loops, then block, so that three parties may share two cores.
class Executor {
 public:
  // `threads` counts the caller: 1 means no worker at all. 0 means one for each core.
  explicit Executor(unsigned threads = 0);
  // The same workers, for the work of `user`: turns go round by user (ring/turns.h). Work through `shared` itself is user 0's.
  Executor(const Executor& shared, std::uint64_t user);
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  unsigned threads() const;
  // Runs body(i) for every i < tasks, on the workers and the caller, and returns when all are done. The loops of several
  // callers take turns of about a millisecond; a single task is the caller's own and needs no turn. What `body` throws is
  // thrown here once all are done (the first, if several do); it must not call parallel.
  using Body = std::function<void(std::size_t)>;
  void parallel(std::size_t tasks, const Body& body);

  // Has `share`, whose size counts, done by run(parallel, shares), in the caller's turn or in that of another who came with the same work;
  // returns when it is. `shares` are several callers' then, of a size of at most `most` together (or one, of any size). run calls
  // the `parallel` that it is given, as often as it likes. Where it throws for several, each is run by itself; what it throws for
  // this share alone is thrown here.
  using Parallel = std::function<void(std::size_t tasks, const Body& body)>;
  using Run = std::function<void(const Parallel& parallel, std::span<void* const> shares)>;
  void together(TurnRequest::Work work, std::size_t size, std::size_t most, void* share, const Run& run);

  // Callers that wait for a turn.
  std::size_t waiting() const;
  // Shares that together() was given, of all users, and the runs that did them.
  struct Sharing {
    std::uint64_t shares = 0, runs = 0;
  };
  Sharing sharing() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
  std::uint64_t user_ = 0;
};

}  // namespace permllm
