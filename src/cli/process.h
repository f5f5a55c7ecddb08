// A child process: a party that another command starts, or a test.
#pragma once

#include <sys/types.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace permllm {

// A child that reports events, one JSON object a line, on its standard output. It is ended when this object is dropped,
// and by the kernel if this process dies first.
class Process {
 public:
  // Starts the program, this one if not told otherwise, with `arguments`. Errors: resource.
  explicit Process(const std::vector<std::string>& arguments, const std::string& file = "/proc/self/exe");
  ~Process();
  Process(Process&& other) noexcept;
  Process& operator=(Process&&) = delete;

  // Reads events, handing each to on_event, until one named `event` arrives; returns it. A child that reports an error or
  // ends gives an Error with the child's own words and code.
  nlohmann::json wait_for(const std::string& event,
                          const std::function<void(const nlohmann::json&)>& on_event = nullptr);
  pid_t pid() const { return pid_; }
  // Waits until the child has ended by itself: its exit status, or the negative number of the signal that ended it.
  int wait();

 private:
  bool read_line(std::string& line);
  pid_t pid_ = -1;
  int output_ = -1;
  std::string buffer_;
};

}  // namespace permllm
