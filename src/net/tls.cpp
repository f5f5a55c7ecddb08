#include "net/tls.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>

#include "base/mutex.h"
#include "base/reason.h"
#include "wire/frame.h"
#include "wire/tags.h"

namespace permllm {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t k_buffer = std::size_t{1} << 14;  // a record of TLS: no more comes at once
constexpr auto k_send_patience = std::chrono::seconds(120);
constexpr auto k_alert_patience = std::chrono::seconds(1);
// A peer whose machine or network is gone is noticed by the system, whatever the parties are doing: seconds of silence before it
// asks, between its questions, how many it asks; and milliseconds that what was sent may stay unacknowledged.
constexpr int k_idle = 10, k_interval = 5, k_questions = 3, k_unacknowledged = 25'000;

void keep_alive(tcp::socket& socket) {
  const int fd = socket.native_handle(), on = 1;
  const auto set = [&](int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); };
  set(SOL_SOCKET, SO_KEEPALIVE, on);
  set(IPPROTO_TCP, TCP_KEEPIDLE, k_idle);
  set(IPPROTO_TCP, TCP_KEEPINTVL, k_interval);
  set(IPPROTO_TCP, TCP_KEEPCNT, k_questions);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, k_unacknowledged);
}

// The one check of a peer's certificate, in place of OpenSSL's: its chains know neither pins nor roles.
struct Check {
  Trust trust;
  std::optional<Role> expected;
  Peer peer;
  std::string reason;  // why the peer was refused
  Reason cause = Reason::none;
  std::optional<Certificate> shown = std::nullopt;

  bool judge(X509_STORE_CTX* store) {
    const auto refuse = [&](int error, std::string why) {
      X509_STORE_CTX_set_error(store, error);
      reason = std::move(why);
      cause = error == X509_V_ERR_CERT_REVOKED       ? Reason::invite_revoked
              : error == X509_V_ERR_CERT_HAS_EXPIRED ? Reason::certificate_expired
                                                     : Reason::not_trusted;
      return false;
    };
    try {
      const Certificate certificate = Certificate::of(X509_STORE_CTX_get0_cert(store), "certificate");
      shown = certificate;
      if (expected && certificate.role() != *expected) {
        return refuse(X509_V_ERR_CERT_REJECTED,
                      fmt::format("says {}, expected {}", name_of(certificate.role()), name_of(*expected)));
      }
      Trust::Verdict verdict = trust.judge(certificate);
      if (!verdict.reason.empty()) return refuse(verdict.x509_error, std::move(verdict.reason));
      peer = std::move(verdict.peer);
      return true;
    } catch (const Error& error) {
      return refuse(X509_V_ERR_CERT_REJECTED, error.what());
    } catch (const std::exception&) {
      return refuse(X509_V_ERR_OUT_OF_MEM, "no memory");
    }
  }
};

// A context serves many connections, so each connection's check hangs at its own SSL.
int check_index() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

int judge(X509_STORE_CTX* store, void*) {
  const auto* ssl = static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  return static_cast<Check*>(SSL_get_ex_data(ssl, check_index()))->judge(store) ? 1 : 0;
}

std::shared_ptr<asio::ssl::context> make_context(const Identity& identity) {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tlsv13);
  SSL_CTX* native = context->native_handle();
  if (SSL_CTX_use_certificate(native, identity.certificate.get()) != 1 ||
      SSL_CTX_use_PrivateKey(native, identity.key.get()) != 1) {
    throw Error(Code::file, "identity", "OpenSSL takes the certificate and key for no pair");
  }
  context->set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
  SSL_CTX_set_cert_verify_callback(native, judge, nullptr);
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(native, 0);
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS);  // connections that rest are many
  return context;
}

// What the handshakes of a listener share: where credentials come from, and the context of the identity that was the last.
class ServerSide {
 public:
  explicit ServerSide(TlsListener::Source source) : source_(std::move(source)) {}
  std::pair<Credentials, std::shared_ptr<asio::ssl::context>> now() {
    Credentials credentials = source_();
    const Lock lock(mutex_);
    if (!context_ || identity_.key != credentials.identity.key ||
        identity_.certificate.get() != credentials.identity.certificate.get()) {
      context_ = make_context(credentials.identity);
      identity_ = credentials.identity;
    }
    return {std::move(credentials), context_};
  }

 private:
  const TlsListener::Source source_;
  Mutex mutex_;
  Identity identity_ GUARDED_BY(mutex_);  // of context_
  std::shared_ptr<asio::ssl::context> context_ GUARDED_BY(mutex_);
};

struct Descriptor {
  int number = -1;
  explicit Descriptor(int n) : number(n) {}
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
  Descriptor(Descriptor&& other) noexcept : number(std::exchange(other.number, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
};

// Of the bytes that a connection begins with: how many have to be there before more can be said. Errors: mismatch, where they begin no ClientHello.
std::size_t needed_of_hello(std::span<const std::uint8_t> begin) {
  constexpr std::size_t k_record_head = 5, k_message_head = 4, k_most = 1 << 14;
  constexpr std::uint8_t k_handshake = 22, k_major = 3, k_client_hello = 1;
  const auto is = [&](std::size_t at, std::uint8_t value) { return begin.size() <= at || begin[at] == value; };
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::size_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) value = value << 8 | begin[at + i];
    return value;
  };
  bool fits = is(0, k_handshake) && is(1, k_major) && is(k_record_head, k_client_hello);
  std::size_t needed = k_record_head + k_message_head;
  if (fits && begin.size() >= needed) {
    const std::size_t record = number(3, 2), message = k_message_head + number(6, 3);
    fits = record <= k_most && message <= record;
    needed = k_record_head + record;
  }
  if (!fits) throw Error(Code::mismatch, "the TLS handshake", "the first bytes are no ClientHello in one record");
  return needed;
}

// What a failure of the TLS layer means; a peer that refuses this side's certificate says so by an alert.
std::string meaning(const error_code& error) {
  switch (ERR_GET_REASON(static_cast<unsigned long>(error.value()))) {
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
      return "the peer refuses this side: its invite is revoked, replaced or unknown";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
      return "the peer refuses this side: its certificate has expired";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
      return "the peer refuses this side: it does not trust its key or issuer";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
      return "the peer refuses this side: its role does not fit, or its certificate is not valid yet";
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return "the peer has no certificate";
    default:
      return "the TLS layer refuses the peer: " + error.message();
  }
}

Reason reason_of(const error_code& error) {
  switch (ERR_GET_REASON(static_cast<unsigned long>(error.value()))) {
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
      return Reason::invite_revoked;
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
      return Reason::certificate_expired;
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return Reason::not_trusted;
    default:
      return Reason::none;
  }
}

struct HostPort {
  std::string host, port;
};
HostPort split_address(const std::string& address, const std::string& field = "address", Code code = Code::usage) {
  const std::size_t colon = address.rfind(':');
  const bool plain = std::all_of(address.begin(), address.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == ':' || c == '[' ||
           c == ']' || c == '_' || c == '%';
  });
  if (!plain || colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
    throw Error(code, field, fmt::format("\"{:.80}\" is not host:port, like 127.0.0.1:7000", plain ? address : ""));
  }
  const std::string port = address.substr(colon + 1);
  unsigned number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number > 65535)
    throw Error(code, field, fmt::format("\"{:.80}\": a port is a number up to 65535", address));
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return {host, port};
}

}  // namespace

void check_address(const std::string& address, const std::string& field, Code code) {
  split_address(address, field, code);
}

// Each link has its own event loop, driven by whoever waits: asio gives deadlines, the caller sees blocking calls.
struct TlsLink::State {
  // Errors: resource, where the system has no more descriptors.
  static std::unique_ptr<State> make() {
    try {
      return std::make_unique<State>();
    } catch (const boost::system::system_error& error) {
      throw Error(Code::resource, "link", error.what());
    }
  }

  asio::io_context io{1};
  tcp::socket socket{io};
  std::shared_ptr<ServerSide> server_side;  // of a server's link
  Check check;
  std::shared_ptr<asio::ssl::context> context;
  std::optional<asio::ssl::stream<tcp::socket&>> stream;
  Bytes out;
  Bytes in = Bytes(k_buffer);
  std::size_t in_begin = 0, in_end = 0;
  std::shared_ptr<Room> room;  // null: no limit
  std::atomic<bool> closed = false;
  bool unwritable = false;  // a write failed: asio would wait for a readiness that the system told already

  void begin_tls(const Trust& trust, std::shared_ptr<asio::ssl::context> of_identity, std::optional<Role> expected) {
    check.trust = trust;
    check.expected = expected;
    context = std::move(of_identity);
    stream.emplace(socket, *context);
    SSL_set_ex_data(stream->native_handle(), check_index(), &check);
  }

  // Lets the peer read the alert that tells why it was refused: closing at once would make the system drop it.
  void let_read() {
    error_code ignored;
    socket.shutdown(tcp::socket::shutdown_send, ignored);
    const Clock::time_point deadline = Clock::now() + k_alert_patience;
    try {
      while (Clock::now() < deadline) {
        await(deadline, "the end", [&](auto done) { socket.async_read_some(asio::buffer(in), std::move(done)); });
      }
    } catch (const Error&) {
    }
  }

  // Starts one operation and drives it to its end, or cancels it at the deadline.
  template <class Start>
  std::size_t await(Clock::time_point deadline, const char* awaited, Start start) {
    std::optional<error_code> result;
    std::size_t moved = 0;
    start([&](error_code error, std::size_t bytes) {
      result = error;
      moved = bytes;
    });
    io.restart();
    io.run_until(deadline);
    if (!result) {
      error_code ignored;
      if (stream) {  // another thread may be about to close it: the descriptor stays
        socket.cancel(ignored);
        socket.shutdown(tcp::socket::shutdown_both, ignored);
      } else {
        socket.close(ignored);
      }
      io.restart();
      io.run();
      throw Error(Code::timeout, awaited, "did not arrive before the deadline");
    }
    if (*result) {
      if (!check.reason.empty()) throw Error(Code::mismatch, check.cause, awaited, check.reason);
      if (result->category() == asio::error::get_ssl_category())
        throw Error(Code::mismatch, reason_of(*result), awaited, meaning(*result));
      throw Error(Code::closed, awaited, "the peer closed the connection");
    }
    return moved;
  }
};

TlsLink::TlsLink(std::unique_ptr<State> state) : state_(std::move(state)) {}

TlsLink::~TlsLink() = default;

void TlsLink::send(Frame frame) {
  const std::size_t begin = state_->out.size();
  state_->out.resize(begin + k_frame_header_bytes + frame.payload.size());
  encode_header(frame, std::span<std::uint8_t, k_frame_header_bytes>(state_->out.data() + begin, k_frame_header_bytes));
  if (!frame.payload.empty()) {
    std::memcpy(state_->out.data() + begin + k_frame_header_bytes, frame.payload.data(), frame.payload.size());
  }
}

void TlsLink::flush() {
  if (state_->out.empty()) return;
  try {
    if (state_->unwritable) throw Error(Code::closed, "the peer's reading", "the peer closed the connection");
    state_->await(Clock::now() + k_send_patience, "the peer's reading",
                  [&](auto done) { asio::async_write(*state_->stream, asio::buffer(state_->out), std::move(done)); });
  } catch (const Error&) {
    state_->unwritable = true;
    state_->out.clear();  // what the peer said before can still be received
    throw;
  }
  state_->out.clear();
  if (state_->out.capacity() > 4 * k_buffer) state_->out.shrink_to_fit();
}

void TlsLink::read_exactly(std::uint8_t* to, std::size_t size, Clock::time_point deadline, const char* awaited) {
  State& s = *state_;
  while (size > 0) {
    if (s.in_begin == s.in_end && size >= k_buffer) {
      const std::size_t got = s.await(
          deadline, awaited, [&](auto done) { s.stream->async_read_some(asio::buffer(to, size), std::move(done)); });
      to += got;
      size -= got;
      continue;
    }
    if (s.in_begin == s.in_end) {
      s.in_begin = 0;
      s.in_end = s.await(deadline, awaited,
                         [&](auto done) { s.stream->async_read_some(asio::buffer(s.in), std::move(done)); });
    }
    const std::size_t step = std::min(size, s.in_end - s.in_begin);
    std::memcpy(to, s.in.data() + s.in_begin, step);
    s.in_begin += step;
    to += step;
    size -= step;
  }
}

Frame TlsLink::receive(Clock::time_point deadline, const char* awaited, std::size_t most) {
  flush();
  std::array<std::uint8_t, k_frame_header_bytes> bytes;
  read_exactly(bytes.data(), bytes.size(), deadline, awaited);
  const FrameHeader header = decode_header(bytes);
  check_length(header.tag, header.length, most, awaited);
  Frame frame{header.tag, header.session, header.step, {}};
  if (state_->room && header.length > k_small_payload) {
    frame.room = state_->room->take(header.length, deadline, awaited, [this] { return state_->closed.load(); });
  }
  // Memory is taken as the payload arrives, whatever the header says is to come.
  constexpr std::size_t k_step = std::size_t{1} << 22;
  while (frame.payload.size() < header.length) {
    const std::size_t begin = frame.payload.size();
    frame.payload.resize(std::min<std::size_t>(header.length, begin + std::max(k_step, begin)));
    read_exactly(frame.payload.data() + begin, frame.payload.size() - begin, deadline, awaited);
  }
  return frame;
}

bool TlsLink::has_come() {
  State& s = *state_;
  std::uint8_t byte = 0;
  return s.in_begin != s.in_end || SSL_pending(s.stream->native_handle()) > 0 ||
         ::recv(s.socket.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
         (errno != EAGAIN && errno != EWOULDBLOCK);
}

void TlsLink::share(std::shared_ptr<Room> room) { state_->room = std::move(room); }

void TlsLink::close() {
  state_->closed = true;
  // Wakes a thread that waits on the socket; the descriptor itself lives as long as the link.
  ::shutdown(state_->socket.native_handle(), SHUT_RDWR);
}

const Peer& TlsLink::peer() const { return state_->check.peer; }

const Peer& TlsLink::handshake(Clock::time_point deadline) {
  auto [credentials, context] = state_->server_side->now();
  state_->begin_tls(credentials.trust, std::move(context), std::nullopt);
  try {
    state_->await(deadline, "the TLS handshake", [&](auto done) {
      state_->stream->async_handshake(asio::ssl::stream_base::server,
                                      [done = std::move(done)](error_code error) mutable { done(error, 0); });
    });
  } catch (const Error&) {
    if (!state_->check.reason.empty()) state_->let_read();
    throw;
  }
  return peer();
}

struct TlsListener::State {
  State(Source credentials, Clock::duration p)
      : server_side(std::make_shared<ServerSide>(std::move(credentials))), patience(p) {}
  // A connection that was not taken.
  struct Waiting {
    Descriptor socket;
    std::string address;
    Clock::time_point since;
    std::size_t needed = 1;  // bytes that have to be there before it is looked at again
  };
  static constexpr std::uint64_t k_acceptor = 0, k_interrupt = 1;  // in the place of a connection's number

  const std::shared_ptr<ServerSide> server_side;
  const Clock::duration patience;
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  Descriptor interrupted{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}, events{epoll_create1(EPOLL_CLOEXEC)};
  std::map<std::uint64_t, Waiting> waiting;  // the oldest first
  std::uint64_t last = k_interrupt;
  std::array<epoll_event, 64> ready;  // of which `done` were looked at
  std::size_t ready_count = 0, done = 0;

  bool watch(int descriptor, std::uint64_t number, std::uint32_t what) const {
    epoll_event event{};
    event.events = what;
    event.data.u64 = number;
    return epoll_ctl(events.number, EPOLL_CTL_ADD, descriptor, &event) == 0;
  }
  Arrival leave(std::map<std::uint64_t, Waiting>::iterator one, Error error) {
    Arrival arrival{Arrival::Kind::left, one->first, std::move(one->second.address), one->second.since,
                    std::move(error)};
    waiting.erase(one);
    return arrival;
  }
  // Nothing where nobody is there any more.
  std::optional<Arrival> let_in() {
    tcp::endpoint peer;
    auto size = static_cast<socklen_t>(peer.capacity());
    Descriptor socket(accept4(acceptor.native_handle(), peer.data(), &size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.number < 0) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        throw Error(Code::resource, "accept", std::strerror(errno));
      return std::nullopt;
    }
    peer.resize(size);
    // Edges: what is there and not enough wakes nobody twice.
    if (!watch(socket.number, last + 1, EPOLLIN | EPOLLRDHUP | EPOLLET))
      throw Error(Code::resource, "accept", std::strerror(errno));
    const Arrival arrival{Arrival::Kind::came, ++last, peer.address().to_string(), Clock::now()};
    waiting.emplace(arrival.number, Waiting{std::move(socket), arrival.address, arrival.since});
    return arrival;
  }
  // What became of a connection; nothing while its ClientHello is under way.
  std::optional<Arrival> look(std::map<std::uint64_t, Waiting>::iterator one, std::uint32_t what) {
    Waiting& w = one->second;
    std::array<std::uint8_t, 9> begin;
    const ssize_t got = recv(w.socket.number, begin.data(), begin.size(), MSG_PEEK | MSG_DONTWAIT);
    std::size_t needed = begin.size();
    int there = 0;
    try {
      if (got > 0) needed = needed_of_hello(std::span(begin).first(static_cast<std::size_t>(got)));
    } catch (const Error& error) {
      return leave(one, error);
    }
    if (got > 0 && ioctl(w.socket.number, FIONREAD, &there) == 0 && static_cast<std::size_t>(there) >= needed) {
      if (w.needed != 1) set_needed(w, 1);
      return Arrival{Arrival::Kind::spoke, one->first, w.address, w.since};
    }
    if (got == 0 || (what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
      return leave(one, Error(Code::closed, "the TLS handshake", "the peer closed the connection"));
    if (w.needed != needed) set_needed(w, needed);  // so that a byte now and then wakes nobody
    return std::nullopt;
  }
  static void set_needed(Waiting& one, std::size_t bytes) {
    const int low = static_cast<int>(bytes);
    setsockopt(one.socket.number, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
    one.needed = bytes;
  }
};

TlsListener::TlsListener(Source credentials, const std::string& address, Clock::duration patience)
    : state_(new State(std::move(credentials), patience)) {
  State& s = *state_;
  s.server_side->now();  // what is unusable is refused here, not at the first connection
  const auto [host, port] = split_address(address);
  error_code error;
  const auto ip = asio::ip::make_address(host, error);
  std::uint16_t number = 0;
  const auto [end, parsed] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error || parsed != std::errc() || end != port.data() + port.size()) {
    throw Error(Code::usage, "listen",
                fmt::format("\"{}\" is not an IP address and port, like 127.0.0.1:7000", address));
  }
  const tcp::endpoint endpoint(ip, number);
  s.acceptor.open(endpoint.protocol(), error);
  if (!error) s.acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) s.acceptor.bind(endpoint, error);
  if (!error) s.acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) s.acceptor.native_non_blocking(true, error);
  if (error)
    throw Error(Code::resource, error == asio::error::address_in_use ? Reason::address_in_use : Reason::none, "listen",
                fmt::format("{}: {}", address, error.message()));
  if (!s.watch(s.acceptor.native_handle(), State::k_acceptor, EPOLLIN) ||
      !s.watch(s.interrupted.number, State::k_interrupt, EPOLLIN)) {
    throw Error(Code::resource, "listen", std::strerror(errno));
  }
}

TlsListener::~TlsListener() = default;

std::uint16_t TlsListener::port() const { return state_->acceptor.local_endpoint().port(); }

TlsListener::Arrival TlsListener::next(Clock::time_point deadline) {
  State& s = *state_;
  for (;;) {
    const Clock::time_point now = Clock::now();
    const auto oldest = s.waiting.begin();
    if (oldest != s.waiting.end() && oldest->second.since + s.patience <= now) {
      return s.leave(oldest, Error(Code::timeout, "the TLS handshake", "did not arrive before the deadline"));
    }
    while (s.done < s.ready_count) {
      const epoll_event event = s.ready[s.done++];
      const std::uint64_t number = event.data.u64;  // by value: the structure is packed
      if (number == State::k_interrupt) {
        eventfd_t ignored;
        eventfd_read(s.interrupted.number, &ignored);
        throw Error(Code::closed, "a connection", "the wait was interrupted");
      }
      std::optional<Arrival> arrival;
      if (number == State::k_acceptor) {
        arrival = s.let_in();
      } else if (const auto one = s.waiting.find(number); one != s.waiting.end()) {
        arrival = s.look(one, event.events);
      }
      if (arrival) return std::move(*arrival);
    }
    const Clock::time_point until =
        oldest == s.waiting.end() ? deadline : std::min(deadline, oldest->second.since + s.patience);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now).count();
    const int got = epoll_wait(s.events.number, s.ready.data(), static_cast<int>(s.ready.size()),
                               static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000'000)));
    s.done = 0;
    s.ready_count = static_cast<std::size_t>(std::max(got, 0));
    if (s.ready_count == 0 && Clock::now() >= deadline)
      throw Error(Code::timeout, "a connection", "did not arrive before the deadline");
  }
}

std::unique_ptr<TlsLink> TlsListener::take(std::uint64_t number) {
  auto taken = state_->waiting.extract(number);
  PERMLLM_ASSERT(!taken.empty());
  Descriptor& socket = taken.mapped().socket;
  auto link = TlsLink::State::make();
  error_code error;
  epoll_ctl(state_->events.number, EPOLL_CTL_DEL, socket.number, nullptr);
  link->socket.assign(state_->acceptor.local_endpoint().protocol(), socket.number, error);
  if (error) throw Error(Code::resource, "link", error.message());
  socket.number = -1;
  link->server_side = state_->server_side;
  link->socket.set_option(tcp::no_delay(true), error);  // a peer that is gone again is noticed by the handshake
  keep_alive(link->socket);
  return std::unique_ptr<TlsLink>(new TlsLink(std::move(link)));
}

void TlsListener::drop(std::uint64_t number) { state_->waiting.erase(number); }

std::unique_ptr<TlsLink> TlsListener::accept(Clock::time_point deadline) {
  for (;;) {
    if (const Arrival arrival = next(deadline); arrival.kind == Arrival::Kind::spoke) return take(arrival.number);
    if (Clock::now() >= deadline) throw Error(Code::timeout, "a connection", "did not arrive before the deadline");
  }
}

void TlsListener::interrupt() { eventfd_write(state_->interrupted.number, 1); }

std::unique_ptr<TlsLink> tls_connect(const Credentials& credentials, const std::string& address, Role expected,
                                     Clock::time_point deadline, Attempt* attempt) {
  Attempt unasked;
  Attempt& a = attempt == nullptr ? unasked : *attempt;
  a = {};
  const auto [host, port] = split_address(address);
  auto state = TlsLink::State::make();
  error_code error;
  tcp::resolver resolver(state->io);
  const auto endpoints = resolver.resolve(host, port, error);
  // Without a network no name is found, and it may come back.
  const Code code = error == asio::error::host_not_found_try_again ? Code::closed : Code::usage;
  const Reason unreachable = expected == Role::helper ? Reason::helper_unreachable : Reason::provider_unreachable;
  if (error) throw Error(code, unreachable, "address", fmt::format("{}: {}", address, error.message()));
  a.step = Attempt::Step::port;
  for (const auto& entry : endpoints) a.ip = entry.endpoint().address().to_string();
  const std::string who = fmt::format("the {} at {}", name_of(expected), address);
  const auto await = [&](auto start) {
    reach(unreachable, [&] { state->await(deadline, who.c_str(), std::move(start)); });
  };
  error_code unreached;
  try {
    await([&](auto done) {
      asio::async_connect(state->socket, endpoints,
                          [&, done = std::move(done)](error_code failure, const tcp::endpoint& reached) mutable {
                            unreached = failure;
                            if (!failure) a.ip = reached.address().to_string();
                            done(failure, 0);
                          });
    });
  } catch (const Error& failure) {
    if (failure.code() != Code::closed) throw;
    a.port_error = unreached.value();
    throw Error(Code::closed, unreachable, who,
                unreached == asio::error::connection_refused
                    ? "nobody listens there; is it running, and is this its address?"
                    : unreached.message());
  }
  a.step = Attempt::Step::handshake;
  state->socket.set_option(tcp::no_delay(true), error);
  keep_alive(state->socket);
  state->begin_tls(credentials.trust, make_context(credentials.identity), expected);
  try {
    await([&](auto done) {
      state->stream->async_handshake(asio::ssl::stream_base::client,
                                     [done = std::move(done)](error_code failure) mutable { done(failure, 0); });
    });
  } catch (const Error&) {
    a.shown = state->check.shown;
    throw;
  }
  a.shown = state->check.shown;
  a.step = Attempt::Step::done;
  return std::unique_ptr<TlsLink>(new TlsLink(std::move(state)));
}

}  // namespace permllm
