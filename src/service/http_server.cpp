#include "service/http_server.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "permllm/error.h"

namespace permllm {
namespace {

// Waits for one of `events`; false at the deadline.
bool wait_for(int socket, short events, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd waited{socket, events, 0};
    const int ready = poll(&waited, 1, static_cast<int>(left));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

void address_of(const sockaddr_storage& storage, std::string& ip, int& port) {
  char text[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(storage);
    inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
    port = ntohs(in.sin_port);
  } else if (storage.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(storage);
    inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
    port = ntohs(in.sin6_port);
  }
  ip = text;
}

}  // namespace

class HttpServer::Connection : public httplib::Stream {
 public:
  Connection(socket_t socket, const HttpLimits& limits)
      : socket_(socket), limits_(limits), deadline_(Clock::now() + limits.read), left_(limits.head_bytes) {}

  void allow_body() { left_ += limits_.body_bytes; }
  bool closed_by_peer() const {
    pollfd now{socket_, POLLRDHUP, 0};
    return poll(&now, 1, 0) > 0 && (now.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  }
  void cut() const { shutdown(socket_, SHUT_RDWR); }
  // Says that no more comes and takes what the peer still sends, or its system would throw the answer away.
  void close_in_order() {
    shutdown(socket_, SHUT_WR);
    const Clock::time_point end = Clock::now() + std::chrono::seconds(1);
    char thrown_away[4096];
    for (std::size_t taken = 0; taken < 4 * limits_.body_bytes && wait_for(socket_, POLLIN, end);) {
      const ssize_t got = recv(socket_, thrown_away, sizeof thrown_away, 0);
      if (got <= 0) break;
      taken += static_cast<std::size_t>(got);
    }
    close(socket_);
  }

  bool is_readable() const override { return begin_ < end_ || wait_for(socket_, POLLIN, deadline_); }
  bool is_writable() const override { return !closed_by_peer(); }
  ssize_t read(char* to, size_t size) override {
    if (begin_ == end_) {
      if (left_ == 0 || !wait_for(socket_, POLLIN, deadline_)) return -1;
      const ssize_t got = recv(socket_, buffer_, std::min(sizeof buffer_, left_), 0);
      if (got <= 0) return got;
      begin_ = 0;
      end_ = static_cast<std::size_t>(got);
      left_ -= end_;
    }
    const std::size_t some = std::min(size, end_ - begin_);
    std::memcpy(to, buffer_ + begin_, some);
    begin_ += some;
    return static_cast<ssize_t>(some);
  }
  ssize_t write(const char* from, size_t size) override {
    const Clock::time_point deadline = Clock::now() + limits_.write;
    for (std::size_t done = 0; done < size;) {
      const ssize_t sent = send(socket_, from + done, size - done, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) {
        done += static_cast<std::size_t>(sent);
      } else if (errno != EINTR && (errno != EAGAIN || !wait_for(socket_, POLLOUT, deadline))) {
        return -1;
      }
    }
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    if (getpeername(socket_, reinterpret_cast<sockaddr*>(&storage), &size) == 0) address_of(storage, ip, port);
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    if (getsockname(socket_, reinterpret_cast<sockaddr*>(&storage), &size) == 0) address_of(storage, ip, port);
  }
  socket_t socket() const override { return 0; }  // asked for to see whether it fits select(), which is not used here

 private:
  const socket_t socket_;
  const HttpLimits& limits_;
  const Clock::time_point deadline_;
  std::size_t left_;  // bytes that may yet be read
  char buffer_[4096];
  std::size_t begin_ = 0, end_ = 0;
};

HttpServer::HttpServer(const HttpLimits& limits) : limits_(limits) {
  new_task_queue = [threads = limits.reading + limits.answering + 4] { return new httplib::ThreadPool(threads); };
  set_payload_max_length(limits.body_bytes);
  set_tcp_nodelay(true);
  set_socket_options(
      [](socket_t socket) {  // without the library's own choice, to share a port with whoever else listens there
        const int yes = 1;
        setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
      });
}

bool HttpServer::gone(const httplib::Request& request) { return request.progress && !request.progress(0, 0); }

bool HttpServer::process_and_close_socket(socket_t socket) {
  Connection connection(socket, limits_);
  {
    const Lock lock(mutex_);
    if (reading_.size() >= limits_.reading) {
      reading_.front()->cut();
      reading_.pop_front();
    }
    reading_.push_back(&connection);
  }
  const auto has_read = [&] {
    const Lock lock(mutex_);
    reading_.remove(&connection);
  };
  bool closed = false;
  process_request(connection, true, closed, [&](httplib::Request& request) {
    connection.allow_body();
    request.headers.erase("Accept-Encoding");  // lengths of compressed text tell of the text
    // A field that the library has for clients alone; here whoever answers finds the connection by it.
    request.progress = [&](std::uint64_t, std::uint64_t) {
      has_read();
      return !connection.closed_by_peer();
    };
  });
  has_read();
  connection.close_in_order();
  return true;
}

int HttpServer::bind(const std::string& host, int port, const std::string& field) {
  const int bound = port == 0 ? bind_to_any_port(host) : bind_to_port(host, port) ? port : -1;
  if (bound < 0) {
    const bool v6 = host.find(':') != std::string::npos;
    throw Error(Code::resource, field,
                fmt::format("{}{}{}:{}: nobody can listen there; does another program?", v6 ? "[" : "", host,
                            v6 ? "]" : "", port));
  }
  ::listen(svr_sock_,
           256);  // more connections wait for the system than with the library, so that a burst delays nobody
  return bound;
}

void HttpServer::end() {
  {
    const Lock lock(mutex_);
    for (const Connection* connection : reading_) connection->cut();
  }
  stop();
}

}  // namespace permllm
