// TCP on this machine, without this project's links.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <span>
#include <utility>

namespace permllm::test {

inline sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return at;
}
inline void send_at_once(int socket) {
  const int yes = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

// A connection that says nothing by itself.
class RawTcp {
 public:
  explicit RawTcp(std::uint16_t port) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const sockaddr_in to = loopback(port);
    const timeval patience{30, 0};
    send_at_once(socket_);
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    connected_ = connect(socket_, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
  }
  ~RawTcp() { ::close(socket_); }
  RawTcp(const RawTcp&) = delete;
  RawTcp& operator=(const RawTcp&) = delete;

  bool connected() const { return connected_; }
  int descriptor() const { return socket_; }
  // False once the peer has gone.
  bool write(std::span<const std::uint8_t> bytes) const {
    return ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  // Whether the peer ends the connection, whatever it says before.
  bool ended() const { return ends(0); }
  // Whether it has done so by now.
  bool has_ended() const { return ends(MSG_DONTWAIT); }

 private:
  bool ends(int flags) const {
    std::uint8_t bytes[4096];
    ssize_t got = 0;
    while ((got = recv(socket_, bytes, sizeof bytes, flags)) > 0) {
    }
    return got == 0 || errno == ECONNRESET;
  }
  int socket_;
  bool connected_ = false;
};

}  // namespace permllm::test
