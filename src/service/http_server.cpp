#include "service/http_server.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "base/clock.h"
#include "permllm/error.h"
#include "service/http_head.h"

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

  // Takes the head as it came and gives the library its own. Where none comes, what came stays.
  void read_head() {
    std::string came;
    for (std::size_t end = std::string::npos; end == std::string::npos;) {
      char some[4096];
      const ssize_t got = take(some, sizeof some);
      if (got <= 0) {
        ready_ = came;
        return;
      }
      const std::size_t from = came.size() - std::min<std::size_t>(came.size(), 3);
      came.append(some, static_cast<std::size_t>(got));
      end = end_of_head(came, from);
      if (end == std::string::npos) continue;
      head_ = http_head(std::string_view(came).substr(0, end));
      const std::string body = came.substr(end);
      ready_ = head_.text + (head_.chunked ? trailer_.pass(body) : body);
    }
  }
  const HttpHead& head() const { return head_; }
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

  bool is_readable() const override { return begin_ < ready_.size() || wait_for(socket_, POLLIN, deadline_); }
  bool is_writable() const override { return !closed_by_peer(); }
  ssize_t read(char* to, size_t size) override {
    while (begin_ == ready_.size()) {
      char came[4096];
      const ssize_t got = take(came, sizeof came);
      if (got <= 0) return got;
      const std::string_view bytes(came, static_cast<std::size_t>(got));
      ready_ = head_.chunked ? trailer_.pass(bytes) : std::string(bytes);
      begin_ = 0;
    }
    const std::size_t some = std::min(size, ready_.size() - begin_);
    std::memcpy(to, ready_.data() + begin_, some);
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
  ssize_t take(char* to, std::size_t size) {
    if (left_ == 0 || !wait_for(socket_, POLLIN, deadline_)) return -1;
    const ssize_t got = recv(socket_, to, std::min(size, left_), 0);
    if (got > 0) left_ -= static_cast<std::size_t>(got);
    return got;
  }
  // Behind the first empty line that follows another; npos: it has not come.
  static std::size_t end_of_head(std::string_view came, std::size_t from) {
    const std::size_t begin = std::min(came.find_first_not_of("\r\n"), came.size());
    for (std::size_t at = came.find('\n', std::max(begin, from)); at != std::string_view::npos;
         at = came.find('\n', at + 1)) {
      if (came.substr(at + 1).starts_with('\n')) return at + 2;
      if (came.substr(at + 1).starts_with("\r\n")) return at + 3;
    }
    return std::string_view::npos;
  }

  const socket_t socket_;
  const HttpLimits& limits_;
  const Clock::time_point deadline_;
  std::size_t left_;  // bytes that may yet be read
  HttpHead head_;
  ChunkTrailer trailer_;
  std::string ready_;  // to be read by the library
  std::size_t begin_ = 0;
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

namespace {
constexpr const char* k_fault = ":fault";  // a name that no field of a client's has
}

std::optional<HttpServer::Fault> HttpServer::fault(const httplib::Request& request) {
  const std::string text = request.get_header_value(k_fault);
  if (text.empty()) return std::nullopt;
  return Fault{std::stoi(text), text.substr(4)};
}

std::string HttpServer::date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  constexpr const char *days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"},
                       *months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  return fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT", days[utc.tm_wday], utc.tm_mday, months[utc.tm_mon],
                     utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
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
  connection.read_head();
  process_request(connection, true, closed, [&](httplib::Request& request) {
    if (const HttpHead& head = connection.head(); head.fault != 0)
      request.headers.emplace(k_fault, fmt::format("{} {}", head.fault, head.why));
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
