// A proxy for TCP connections on this machine that drops them in the middle, or flips a bit on its way.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <thread>

namespace permllm::test {

class CuttingProxy {
 public:
  struct Flip {
    bool from_target = true;
    std::size_t at = 0;  // which byte of that direction
  };
  // limits: by number of the connection, counted from 0, how many bytes from the target it passes before it is dropped. on_cut: called just before,
  // by the thread of the connection.
  explicit CuttingProxy(std::uint16_t target, std::map<std::size_t, std::size_t> limits = {},
                        std::map<std::size_t, Flip> flips = {}, std::function<void()> on_cut = nullptr)
      : target_(target), limits_(std::move(limits)), flips_(std::move(flips)), on_cut_(std::move(on_cut)) {
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
  std::size_t flipped() const { return flipped_; }
  // Bytes of all connections so far.
  std::size_t passed(bool from_target) const { return from_target ? down_ : up_; }

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
      const auto flip = flips_.find(number);
      const auto flip_of = [&](bool from_target) {
        return flip == flips_.end() || flip->second.from_target != from_target ? nullptr : &flip->second;
      };
      c.up = std::jthread([this, &c, flipped = flip_of(false)] { pump(c.user, c.target, up_, nullptr, flipped); });
      c.down = std::jthread([this, &c, most = limit == limits_.end() ? nullptr : &limit->second,
                             flipped = flip_of(true)] { pump(c.target, c.user, down_, most, flipped); });
    }
  }
  // Passes bytes until an end is closed, or `most` have passed: then it drops the connection, whatever else is on its way.
  void pump(int from, int to, std::atomic<std::size_t>& all, const std::size_t* most, const Flip* flip) {
    std::array<char, 4096> bytes;
    std::size_t passed = 0;
    for (ssize_t got; (got = recv(from, bytes.data(), bytes.size(), 0)) > 0;) {
      std::size_t pass = static_cast<std::size_t>(got);
      if (most != nullptr) pass = std::min(pass, *most - passed);
      if (flip != nullptr && flip->at >= passed && flip->at - passed < pass) {
        bytes[flip->at - passed] = static_cast<char>(bytes[flip->at - passed] ^ 4);
        ++flipped_;
      }
      if (send(to, bytes.data(), pass, MSG_NOSIGNAL) < 0) break;
      passed += pass;
      all += pass;
      if (most != nullptr && passed == *most) {
        if (on_cut_) on_cut_();
        ++cuts_;
        break;
      }
    }
    shutdown(from, SHUT_RDWR);
    shutdown(to, SHUT_RDWR);
  }

  const std::uint16_t target_;
  const std::map<std::size_t, std::size_t> limits_;
  const std::map<std::size_t, Flip> flips_;
  const std::function<void()> on_cut_;
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<std::size_t> accepted_ = 0, cuts_ = 0, flipped_ = 0, up_ = 0, down_ = 0;
  std::list<Connection> connections_;
  std::jthread accepting_;
};

}  // namespace permllm::test
