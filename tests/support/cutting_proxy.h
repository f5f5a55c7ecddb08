// A proxy for TCP connections on this machine that drops them in the middle.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <list>
#include <map>
#include <thread>

namespace permllm::test {

class CuttingProxy {
 public:
  // limits: by number of the connection, counted from 0, how many bytes from the target it passes before it is dropped.
  CuttingProxy(std::uint16_t target, std::map<std::size_t, std::size_t> limits) : target_(target), limits_(std::move(limits)) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    bind(listener_, reinterpret_cast<sockaddr*>(&address), size);
    listen(listener_, 16);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    accepting_ = std::jthread([this] { accept_all(); });
  }
  ~CuttingProxy() {
    shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    close(listener_);
    for (Connection& c : connections_) {
      shutdown(c.user, SHUT_RDWR);
      shutdown(c.target, SHUT_RDWR);
      for (std::jthread* pump : {&c.up, &c.down}) pump->join();
      close(c.user);
      close(c.target);
    }
  }
  std::uint16_t port() const { return port_; }
  std::size_t connections() const { return accepted_; }
  std::size_t cuts() const { return cuts_; }

 private:
  struct Connection {
    int user = -1, target = -1;
    std::jthread up, down;
  };
  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }
  void accept_all() {
    for (int user; (user = accept(listener_, nullptr, nullptr)) >= 0;) {
      const std::size_t number = accepted_++;
      Connection& c = connections_.emplace_back();
      c.user = user;
      c.target = socket(AF_INET, SOCK_STREAM, 0);
      for (const int end : {c.user, c.target}) {
        const int yes = 1;
        setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
      }
      const sockaddr_in address = loopback(target_);
      connect(c.target, reinterpret_cast<const sockaddr*>(&address), sizeof address);
      const auto limit = limits_.find(number);
      c.up = std::jthread([this, &c] { pump(c.user, c.target, nullptr); });
      c.down = std::jthread([this, &c, most = limit == limits_.end() ? nullptr : &limit->second] { pump(c.target, c.user, most); });
    }
  }
  // Passes bytes until an end is closed, or `most` have passed: then it drops the connection, whatever else is on its way.
  void pump(int from, int to, const std::size_t* most) {
    std::array<char, 4096> bytes;
    std::size_t passed = 0;
    for (ssize_t got; (got = recv(from, bytes.data(), bytes.size(), 0)) > 0;) {
      std::size_t pass = static_cast<std::size_t>(got);
      if (most != nullptr) pass = std::min(pass, *most - passed);
      if (send(to, bytes.data(), pass, MSG_NOSIGNAL) < 0) break;
      passed += pass;
      if (most != nullptr && passed == *most) {
        ++cuts_;
        break;
      }
    }
    shutdown(from, SHUT_RDWR);
    shutdown(to, SHUT_RDWR);
  }

  const std::uint16_t target_;
  const std::map<std::size_t, std::size_t> limits_;
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<std::size_t> accepted_ = 0, cuts_ = 0;
  std::list<Connection> connections_;
  std::jthread accepting_;
};

}  // namespace permllm::test
