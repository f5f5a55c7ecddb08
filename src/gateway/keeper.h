// Keeps offline material ready while nobody asks, and finds out whether a provider that was lost is there again.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "gateway/backend.h"
#include "service/log.h"

namespace permllm {

class StockKeeper {
 public:
  // tokens: to keep ready in conversations that nobody has begun; 0: none. idle: whether nobody asks or waits; asked between two pieces of work.
  // All of them outlive the keeper.
  StockKeeper(const Backend& backend, std::size_t tokens, std::function<bool()> idle, Log& log);
  ~StockKeeper();

  // What others heard of the provider: it answered, or it could not be reached.
  void heard();
  void lost();
  enum class Provider { unknown, reachable, unreachable };
  Provider provider() const;
  bool filling() const { return filling_; }
  // A request has ended: material was used.
  void wake() { used_ = true; }

 private:
  void run(const std::stop_token& stop);
  bool fill_some();  // false: nothing is to do

  const Backend& backend_;
  const std::size_t tokens_;
  const std::function<bool()> idle_;
  Log& log_;
  std::atomic<bool> lost_ = false, filling_ = false, used_ = true;
  bool lasts_ = true;  // whether material outlives the conversation for which it was made: else none is made ahead
  std::optional<std::pair<std::size_t, std::size_t>> before_;  // the last filling: which conversation, and what it had
  std::size_t sum_before_ = 0;                                 // that all had then
  std::atomic<std::int64_t> heard_ = 0;                        // when, in milliseconds of the steady clock
  std::jthread thread_;
};

}  // namespace permllm
