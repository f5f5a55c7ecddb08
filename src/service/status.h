// What a party says of itself over HTTP, on this machine alone: /healthz, /readyz, /metrics.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace permllm {

class StatusServer {
 public:
  // address: a loopback address and a port (0: the system chooses), like 127.0.0.1:9464. why_not_ready: empty when ready; metrics: the
  // text. Both are called from threads of its own. Errors: usage, for another address; resource, where nobody can listen there.
  StatusServer(const std::string& address, std::function<std::string()> why_not_ready,
               std::function<std::string()> metrics);
  ~StatusServer();
  std::uint16_t port() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace permllm
