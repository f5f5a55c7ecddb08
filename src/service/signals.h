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
  // From now on SIGBUS, which whoever reads a mapped file gets where the file was cut short or its disk fails, comes to `handle` too, which is to end
  // the process: the thread that read does not go on. For one object in a process.
  void watch_mapped_files();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  int signals_ = -1, stop_ = -1, lost_ = -1;
  std::jthread thread_;
};

// Tells the service manager, where one has started this process (sd_notify(3)): "READY=1". Never fails.
void notify_manager(const std::string& state);
// RELOADING=1 with the time that goes with it.
void notify_reloading();

}  // namespace permllm
