// The user's gateway: HTTP interfaces that programs know and a web page on this machine, in front of invites. docs/serve.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/canaries.h"
#include "gateway/desk.h"
#include "service/log.h"

namespace permllm {

struct GatewayOptions {
  std::string listen = "127.0.0.1:8080", key_file;
  std::vector<std::string> hosts;  // further names by which it is reached
  DeskOptions desk;
  CanaryOptions canaries;
};

class Gateway {
 public:
  // Refuses settings that are not safe, before anything else is done. Errors: usage, file.
  static void check(const GatewayOptions& options);
  // Listens. Clients, each of another invite, and log outlive it. Errors: those of check; resource, where nobody can listen there.
  Gateway(std::vector<const Client*> clients, const GatewayOptions& options, Log& log);
  ~Gateway();
  std::uint16_t port() const;
  // By which requests name the models, in the clients' order.
  std::vector<std::string> models() const;
  // Takes no new request; those under way have so long to end.
  void drain(std::chrono::steady_clock::duration patience);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace permllm
