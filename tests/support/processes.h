// Services in processes of their own: the keys by which they know each other, their ports, and invites to them.
#pragma once

#include <signal.h>

#include "cli/process.h"
#include "support/program.h"

namespace permllm::test {

// Keys of a provider and a helper who know each other, in folders of these names.
inline void make_keys(const std::filesystem::path& folder) {
  const auto own = [&](const char* role) { return folder / role; };
  permllm({"keygen", "--role", "provider", "--name", "acme", "--out", own("provider").string()});
  permllm({"keygen", "--role", "helper", "--name", "neutral", "--out", own("helper").string()});
  std::filesystem::copy(own("provider") / "certificate.pem", own("helper") / "peers" / "acme.pem");
  std::filesystem::copy(own("helper") / "certificate.pem", own("provider") / "peers" / "neutral.pem");
}
// Made by that provider; returns its file, in the same folder.
inline std::string make_invite(const std::filesystem::path& folder, const std::string& user,
                               const std::string& provider_address, const std::string& helper_address,
                               int tokens = 1000) {
  const std::string file = (folder / (user + ".invite")).string();
  permllm({"invite", user, "--identity", (folder / "provider").string(), "--provider-address", provider_address,
           "--helper-address", helper_address, "--tokens", std::to_string(tokens), "--out", file});
  return file;
}

inline std::string at(int port) { return "127.0.0.1:" + std::to_string(port); }
// Where a service listens that has just been started, once it does.
inline std::uint16_t port_of(Process& process, const char* event = "ready") {
  return process.wait_for(event).at("port").get<std::uint16_t>();
}
inline std::string address_of(Process& process) { return at(port_of(process)); }

inline void stop(Process& process) {
  kill(process.pid(), SIGTERM);
  EXPECT_EQ(process.wait(), 0);
}

}  // namespace permllm::test
