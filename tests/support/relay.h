// Ports of this machine that stand for others: what comes there is passed on later, or is cut off, or with a bit flipped. Benchmarks use them, too.
#pragma once

#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "permllm/error.h"
#include "support/tcp.h"
#include "wire/link.h"

namespace permllm::test {

class Relay {
 public:
  // One direction of a connection.
  struct Way {
    int from, to;            // sockets
    std::size_t connection;  // counted from 0
    bool from_target;
  };
  // pass: until an end is closed, in a thread for each direction. Errors: resource.
  Relay(std::uint16_t target, std::function<void(const Way&)> pass) : Relay(std::vector{target}, std::move(pass)) {}
  // To one of several targets, in an order (Thue and Morse's) in which none has every second connection; to the next where one does not listen.
  Relay(std::vector<std::uint16_t> targets, std::function<void(const Way&)> pass)
      : targets_(std::move(targets)),
        pass_(std::move(pass)),
        listening_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in own = loopback(0);
    socklen_t size = sizeof own;
    if (bind(listening_, reinterpret_cast<sockaddr*>(&own), size) != 0 || listen(listening_, SOMAXCONN) != 0 ||
        getsockname(listening_, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
      close(listening_);
      throw Error(Code::resource, "relay", "the system gave no port");
    }
    port_ = ntohs(own.sin_port);
    accepting_ = std::jthread([this] { accept_all(); });
  }
  ~Relay() {
    shutdown(listening_, SHUT_RDWR);
    accepting_.join();
    for (const int socket : sockets_) shutdown(socket, SHUT_RDWR);
    passing_.clear();
    for (const int socket : sockets_) close(socket);
    close(listening_);
  }
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  std::uint16_t port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  std::size_t connections() const { return connections_; }

  static bool send_all(int to, const char* bytes, std::size_t size) {
    for (std::size_t done = 0; done < size;) {
      const ssize_t sent = send(to, bytes + done, size - done, MSG_NOSIGNAL);
      if (sent <= 0) return false;
      done += static_cast<std::size_t>(sent);
    }
    return true;
  }

 private:
  // Until the destructor, which reads the lists below only when this has ended.
  void accept_all() {
    for (int from = 0; (from = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      int on = -1;
      bool connected = false;
      const auto turn = static_cast<std::size_t>(std::popcount(connections_.load()));
      for (std::size_t i = 0; i < targets_.size() && !connected; ++i) {
        if (on >= 0) close(on);
        on = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const sockaddr_in party = loopback(targets_[(turn + i) % targets_.size()]);
        connected = connect(on, reinterpret_cast<const sockaddr*>(&party), sizeof party) == 0;
      }
      if (!connected) shutdown(from, SHUT_RDWR);
      for (const int socket : {from, on}) {
        send_at_once(socket);
        sockets_.push_back(socket);
      }
      const std::size_t number = connections_++;
      passing_.emplace_back([this, way = Way{from, on, number, false}] { pass_(way); });
      passing_.emplace_back([this, way = Way{on, from, number, true}] { pass_(way); });
    }
  }

  const std::vector<std::uint16_t> targets_;
  const std::function<void(const Way&)> pass_;
  const int listening_;
  std::uint16_t port_ = 0;
  std::atomic<std::size_t> connections_ = 0;
  std::vector<int> sockets_;
  std::list<std::jthread> passing_;
  std::jthread accepting_;
};

// Passes each piece on when half a round trip has gone since it came, in either direction. A delay line: however many pieces are on
// their way, none waits for another's delay, and nothing bounds the bandwidth.
class DelayRelay : public Relay {
 public:
  DelayRelay(std::uint16_t target, Clock::duration round_trip)
      : Relay(target, [half = round_trip / 2](const Way& way) { pass(way, half); }) {}

 private:
  struct Piece {
    Clock::time_point due;
    std::vector<char> bytes;
  };
  // One thread reads and sends: while the receiver takes nothing, it reads nothing, as a full network would.
  static void pass(const Way& way, Clock::duration half) {
    std::deque<Piece> pieces;  // on their way
    std::vector<char> chunk(1 << 18);
    for (bool open = true; open || !pieces.empty();) {
      pollfd readable{open ? way.from : -1, POLLIN, 0};
      timespec wait{};
      if (!pieces.empty()) {
        const auto left =
            std::chrono::nanoseconds(std::max(Clock::duration::zero(), pieces.front().due - Clock::now())).count();
        wait = {left / 1'000'000'000, left % 1'000'000'000};
      }
      ppoll(&readable, 1, pieces.empty() ? nullptr : &wait, nullptr);
      if (readable.revents != 0) {
        const ssize_t got = recv(way.from, chunk.data(), chunk.size(), 0);
        open = got > 0;
        if (open) pieces.push_back({Clock::now() + half, {chunk.begin(), chunk.begin() + got}});
      }
      for (; !pieces.empty() && pieces.front().due <= Clock::now(); pieces.pop_front()) {
        if (!send_all(way.to, pieces.front().bytes.data(), pieces.front().bytes.size())) {
          shutdown(way.from, SHUT_RDWR);
          return;
        }
      }
    }
    shutdown(way.to, SHUT_WR);
  }
};

// Hands connections to several services, as a balancer of TCP does.
class Balancer : public Relay {
 public:
  explicit Balancer(std::vector<std::uint16_t> targets) : Relay(std::move(targets), pass) {}

 private:
  static void pass(const Way& way) {
    std::array<char, 1 << 16> bytes;
    for (ssize_t got; (got = recv(way.from, bytes.data(), bytes.size(), 0)) > 0;) {
      if (!send_all(way.to, bytes.data(), static_cast<std::size_t>(got))) break;
    }
    shutdown(way.from, SHUT_RDWR);
    shutdown(way.to, SHUT_RDWR);
  }
};

// Drops connections in the middle, or flips a bit on its way.
class CuttingProxy {
 public:
  struct Flip {
    bool from_target = true;
    std::size_t at = 0;  // which byte of that direction
  };
  // limits: by number of the connection, how many bytes from the target it passes before it is dropped. on_cut: called just before, by the
  // thread of the connection.
  explicit CuttingProxy(std::uint16_t target, std::map<std::size_t, std::size_t> limits = {},
                        std::map<std::size_t, Flip> flips = {}, std::function<void()> on_cut = nullptr)
      : limits_(std::move(limits)),
        flips_(std::move(flips)),
        on_cut_(std::move(on_cut)),
        relay_(target, [this](const Relay::Way& way) { pass(way); }) {}
  std::uint16_t port() const { return relay_.port(); }
  std::size_t connections() const { return relay_.connections(); }
  std::size_t cuts() const { return cuts_; }
  std::size_t flipped() const { return flipped_; }
  // Bytes of all connections so far.
  std::size_t passed(bool from_target) const { return passed_[from_target]; }

 private:
  // Until an end is closed, or the limit has passed: then it drops the connection, whatever else is on its way.
  void pass(const Relay::Way& way) {
    const auto limit = way.from_target ? limits_.find(way.connection) : limits_.end();
    auto flip = flips_.find(way.connection);
    if (flip != flips_.end() && flip->second.from_target != way.from_target) flip = flips_.end();
    std::array<char, 4096> bytes;
    std::size_t passed = 0;
    for (ssize_t got; (got = recv(way.from, bytes.data(), bytes.size(), 0)) > 0;) {
      std::size_t next = static_cast<std::size_t>(got);
      if (limit != limits_.end()) next = std::min(next, limit->second - passed);
      if (flip != flips_.end() && flip->second.at >= passed && flip->second.at - passed < next) {
        bytes[flip->second.at - passed] ^= 4;
        ++flipped_;
      }
      if (!Relay::send_all(way.to, bytes.data(), next)) break;
      passed += next;
      passed_[way.from_target] += next;
      if (limit != limits_.end() && passed == limit->second) {
        if (on_cut_) on_cut_();
        ++cuts_;
        break;
      }
    }
    shutdown(way.from, SHUT_RDWR);
    shutdown(way.to, SHUT_RDWR);
  }

  const std::map<std::size_t, std::size_t> limits_;
  const std::map<std::size_t, Flip> flips_;
  const std::function<void()> on_cut_;
  std::atomic<std::size_t> cuts_ = 0, flipped_ = 0, passed_[2] = {};
  Relay relay_;
};

}  // namespace permllm::test
