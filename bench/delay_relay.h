// A network between processes of one machine that know nothing of it: a port that stands for another, half a round trip away.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "wire/link.h"

namespace permllm {

// Passes each piece on when half a round trip has gone since it came, in either direction. A delay line: however many pieces are on
// their way, none waits for another's delay, and nothing bounds the bandwidth.
class DelayRelay {
 public:
  // Errors: resource.
  DelayRelay(std::uint16_t to, Clock::duration round_trip)
      : to_(to), half_(round_trip / 2), listening_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in own = loopback(0);
    socklen_t size = sizeof own;
    if (bind(listening_, reinterpret_cast<sockaddr*>(&own), size) != 0 || listen(listening_, SOMAXCONN) != 0 ||
        getsockname(listening_, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
      close(listening_);
      throw Error(Code::resource, "relay", "the system gave no port");
    }
    port_ = ntohs(own.sin_port);
    threads_.emplace_back([this] { run(); });
  }
  ~DelayRelay() {
    shutdown(listening_, SHUT_RDWR);
    threads_.front().join();
    for (const int socket : sockets_) shutdown(socket, SHUT_RDWR);
    threads_.clear();
    for (const int socket : sockets_) close(socket);
    close(listening_);
  }
  DelayRelay(const DelayRelay&) = delete;
  DelayRelay& operator=(const DelayRelay&) = delete;
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  struct Piece {
    Clock::time_point due;
    std::vector<char> bytes;
  };

  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
  }
  // Until the destructor, which reads the lists below only when this has ended.
  void run() {
    for (int from = 0; (from = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      const int on = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
      const sockaddr_in party = loopback(to_);
      if (connect(on, reinterpret_cast<const sockaddr*>(&party), sizeof party) != 0) shutdown(from, SHUT_RDWR);
      for (const int socket : {from, on}) {
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        sockets_.push_back(socket);
      }
      threads_.emplace_back([this, from, on] { pass(from, on); });
      threads_.emplace_back([this, from, on] { pass(on, from); });
    }
  }
  // One thread reads and sends: while the receiver takes nothing, it reads nothing, as a full network would.
  void pass(int from, int to) const {
    std::deque<Piece> pieces;  // on their way
    std::vector<char> chunk(1 << 18);
    for (bool open = true; open || !pieces.empty();) {
      pollfd readable{open ? from : -1, POLLIN, 0};
      timespec wait{};
      if (!pieces.empty()) {
        const auto left =
            std::chrono::nanoseconds(std::max(Clock::duration::zero(), pieces.front().due - Clock::now())).count();
        wait = {left / 1'000'000'000, left % 1'000'000'000};
      }
      ppoll(&readable, 1, pieces.empty() ? nullptr : &wait, nullptr);
      if (readable.revents != 0) {
        const ssize_t got = recv(from, chunk.data(), chunk.size(), 0);
        open = got > 0;
        if (open) pieces.push_back({Clock::now() + half_, {chunk.begin(), chunk.begin() + got}});
      }
      for (; !pieces.empty() && pieces.front().due <= Clock::now(); pieces.pop_front()) {
        if (!send_all(to, pieces.front().bytes)) {
          shutdown(from, SHUT_RDWR);
          return;
        }
      }
    }
    shutdown(to, SHUT_WR);
  }
  static bool send_all(int to, const std::vector<char>& bytes) {
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t sent = send(to, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (sent <= 0) return false;
      done += static_cast<std::size_t>(sent);
    }
    return true;
  }

  std::uint16_t to_;
  Clock::duration half_;
  int listening_;
  std::uint16_t port_ = 0;
  std::vector<int> sockets_;
  std::list<std::jthread> threads_;  // the first accepts
};

}  // namespace permllm
