// Who may ask the gateway: this machine's user and its programs, no web page of others. Decided from a request's head alone.
#pragma once

#include <httplib.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "gateway/refusal.h"

namespace permllm {

// host:port of --listen, taken apart. Errors: usage.
struct ListenAddress {
  explicit ListenAddress(const std::string& address);
  std::string host;  // an IP address, without brackets
  std::uint16_t port = 0;
  bool loopback = false;
};

// API keys, of which only hashes are kept.
class ApiKeys {
 public:
  ApiKeys() = default;
  // One a line; lines that are empty or begin with # do not count. Errors: file, where others may read it or it holds none.
  static ApiKeys of_file(const std::string& path);
  bool needed() const { return !hashes_.empty(); }
  // Which of them this is, in a time that does not depend on how much of it is right. None: nothing.
  std::optional<std::size_t> find(const std::string& key) const;

 private:
  std::vector<std::array<unsigned char, 32>> hashes_;
};

std::string sha256(const std::string& text);

class GatewayGuard {
 public:
  // names: further hosts by which the gateway is reached.
  GatewayGuard(const ListenAddress& listen, std::uint16_t port, std::vector<std::string> names, ApiKeys keys,
               std::size_t body_bytes);
  // Why a request is refused, by its head.
  std::optional<gateway::Refusal> refuse(const httplib::Request& request) const;
  // Whether it has a key, where one is needed.
  bool admits(const httplib::Request& request) const;
  // Which of the keys it has; 0 where none is needed.
  std::size_t owner_of(const httplib::Request& request) const { return key_of(request).value_or(0); }
  // For counts and logs: one of a few names, never what the request says.
  static std::string route_of(const std::string& path);

 private:
  bool own_host(const httplib::Request& request) const;
  std::optional<std::size_t> key_of(const httplib::Request& request) const;

  const ListenAddress listen_;
  const std::string port_;
  const std::vector<std::string> names_;
  const ApiKeys keys_;
  const std::size_t body_bytes_;
};

}  // namespace permllm
