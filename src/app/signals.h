// Signals as calls in a thread of their own, where everything is allowed.
#pragma once

#include <functional>
#include <string>
#include <thread>

namespace permllm {

class Signals {
 public:
  // From now on SIGTERM, SIGINT and SIGHUP come to `handle`, one after the other, and SIGPIPE to nobody. To be made before any other
  // thread: threads inherit what is blocked. Errors: resource.
  explicit Signals(std::function<void(int)> handle);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  int signals_ = -1, stop_ = -1;
  std::jthread thread_;
};

// Tells the service manager, where one has started this process (sd_notify(3)): "READY=1". Never fails.
void notify_manager(const std::string& state);
// RELOADING=1 with the time that goes with it.
void notify_reloading();

}  // namespace permllm
