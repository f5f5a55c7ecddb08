#include "net/tls.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstring>
#include <optional>

#include "wire/frame.h"
#include "wire/tags.h"

namespace permllm {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t k_buffer = std::size_t{1} << 15;  // two records of TLS: no more comes at once
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
  std::optional<Certificate> shown = std::nullopt;

  bool judge(X509_STORE_CTX* store) {
    const auto refuse = [&](int error, std::string why) {
      X509_STORE_CTX_set_error(store, error);
      reason = std::move(why);
      return false;
    };
    try {
      const Certificate certificate = Certificate::of(X509_STORE_CTX_get0_cert(store), "certificate");
      shown = certificate;
      if (expected && certificate.role() != *expected) {
        return refuse(X509_V_ERR_CERT_REJECTED, fmt::format("says {}, expected {}", name_of(certificate.role()), name_of(*expected)));
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

int judge(X509_STORE_CTX* store, void* check) { return static_cast<Check*>(check)->judge(store) ? 1 : 0; }

asio::ssl::context make_context(const Identity& identity, Check& check) {
  asio::ssl::context context(asio::ssl::context::tlsv13);
  SSL_CTX* native = context.native_handle();
  if (SSL_CTX_use_certificate(native, identity.certificate.get()) != 1 || SSL_CTX_use_PrivateKey(native, identity.key.get()) != 1) {
    throw Error(Code::file, "identity", "OpenSSL takes the certificate and key for no pair");
  }
  context.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
  SSL_CTX_set_cert_verify_callback(native, judge, &check);
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(native, 0);
  return context;
}

// What a failure of the TLS layer means; a peer that refuses this side's certificate says so by an alert.
std::string meaning(const error_code& error) {
  switch (ERR_GET_REASON(static_cast<unsigned long>(error.value()))) {
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED: return "the peer refuses this side: its invite is revoked, replaced or unknown; ask the provider for a new one";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED: return "the peer refuses this side: its certificate has expired; a user asks for a new invite, others run keygen --renew";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA: return "the peer refuses this side: it does not trust its key or issuer; the peer needs the right certificate in its peers";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE: return "the peer refuses this side: its role does not fit, or its certificate is not valid yet";
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: return "the peer has no certificate";
    default: return "the TLS layer refuses the peer: " + error.message();
  }
}

struct HostPort {
  std::string host, port;
};
HostPort split_address(const std::string& address, const std::string& field = "address", Code code = Code::usage) {
  const std::size_t colon = address.rfind(':');
  const bool plain = std::all_of(address.begin(), address.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == ':' || c == '[' || c == ']' || c == '_' || c == '%';
  });
  if (!plain || colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
    throw Error(code, field, fmt::format("\"{:.80}\" is not host:port, like 127.0.0.1:7000", plain ? address : ""));
  }
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return {host, address.substr(colon + 1)};
}

}  // namespace

void check_address(const std::string& address, const std::string& field, Code code) { split_address(address, field, code); }

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
  TlsListener::Source source;  // of a server's link, until its handshake
  Check check;
  std::optional<asio::ssl::context> context;
  std::optional<asio::ssl::stream<tcp::socket&>> stream;
  Bytes out;
  Bytes in = Bytes(k_buffer);
  std::size_t in_begin = 0, in_end = 0;
  std::shared_ptr<Room> room;  // null: no limit
  std::atomic<bool> closed = false;
  bool unwritable = false;  // a write failed: asio would wait for a readiness that the system told already

  void begin_tls(const Credentials& credentials, std::optional<Role> expected) {
    check.trust = credentials.trust;
    check.expected = expected;
    context.emplace(make_context(credentials.identity, check));
    stream.emplace(socket, *context);
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
      if (!check.reason.empty()) throw Error(Code::mismatch, awaited, check.reason);
      if (result->category() == asio::error::get_ssl_category()) throw Error(Code::mismatch, awaited, meaning(*result));
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
    state_->await(Clock::now() + k_send_patience, "the peer's reading", [&](auto done) {
      asio::async_write(*state_->stream, asio::buffer(state_->out), std::move(done));
    });
  } catch (const Error&) {
    state_->unwritable = true;
    state_->out.clear();  // what the peer said before can still be received
    throw;
  }
  state_->out.clear();
  if (state_->out.capacity() > 8 * k_buffer) state_->out.shrink_to_fit();
}

void TlsLink::read_exactly(std::uint8_t* to, std::size_t size, Clock::time_point deadline, const char* awaited) {
  State& s = *state_;
  while (size > 0) {
    if (s.in_begin == s.in_end && size >= k_buffer) {
      const std::size_t got = s.await(deadline, awaited, [&](auto done) {
        s.stream->async_read_some(asio::buffer(to, size), std::move(done));
      });
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

void TlsLink::share(std::shared_ptr<Room> room) { state_->room = std::move(room); }

void TlsLink::close() {
  state_->closed = true;
  // Wakes a thread that waits on the socket; the descriptor itself lives as long as the link.
  ::shutdown(state_->socket.native_handle(), SHUT_RDWR);
}

const Peer& TlsLink::peer() const { return state_->check.peer; }

std::string TlsLink::address() const {
  error_code error;
  const tcp::endpoint peer = state_->socket.remote_endpoint(error);
  return error ? "" : peer.address().to_string();
}

const Peer& TlsLink::handshake(Clock::time_point deadline) {
  state_->begin_tls(state_->source(), std::nullopt);
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
  asio::io_context io{1};
  Source credentials;
  tcp::acceptor acceptor{io};
};

TlsListener::TlsListener(Source credentials, const std::string& address) : state_(new State) {
  state_->credentials = std::move(credentials);
  state_->credentials();  // what is unusable is refused here, not at the first connection
  const auto [host, port] = split_address(address);
  error_code error;
  const auto ip = asio::ip::make_address(host, error);
  std::uint16_t number = 0;
  const auto [end, parsed] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error || parsed != std::errc() || end != port.data() + port.size()) {
    throw Error(Code::usage, "--listen", fmt::format("\"{}\" is not an IP address and port, like 127.0.0.1:7000", address));
  }
  const tcp::endpoint endpoint(ip, number);
  state_->acceptor.open(endpoint.protocol(), error);
  if (!error) state_->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) state_->acceptor.bind(endpoint, error);
  if (!error) state_->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) throw Error(Code::resource, "--listen", fmt::format("{}: {}", address, error.message()));
}

TlsListener::~TlsListener() = default;

std::uint16_t TlsListener::port() const { return state_->acceptor.local_endpoint().port(); }

std::unique_ptr<TlsLink> TlsListener::accept(Clock::time_point deadline) {
  auto link = TlsLink::State::make();
  link->source = state_->credentials;
  std::optional<error_code> result;
  state_->acceptor.async_accept(link->socket, [&](error_code error) { result = error; });
  state_->io.restart();
  state_->io.run_until(deadline);
  if (!result) {
    state_->acceptor.cancel();
    state_->io.restart();
    state_->io.run();
    throw Error(Code::timeout, "a connection", "did not arrive before the deadline");
  }
  if (*result == asio::error::operation_aborted) throw Error(Code::closed, "a connection", "the wait was interrupted");
  if (*result) throw Error(Code::resource, "accept", result->message());
  error_code ignored;
  link->socket.set_option(tcp::no_delay(true), ignored);  // a peer that is gone again is noticed by the handshake
  keep_alive(link->socket);
  return std::unique_ptr<TlsLink>(new TlsLink(std::move(link)));
}

void TlsListener::interrupt() {
  asio::post(state_->io, [acceptor = &state_->acceptor] {
    error_code ignored;
    acceptor->cancel(ignored);
  });
}

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
  if (error) throw Error(code, "address", fmt::format("{}: {}", address, error.message()));
  a.step = Attempt::Step::port;
  for (const auto& entry : endpoints) a.ip = entry.endpoint().address().to_string();
  const std::string who = fmt::format("the {} at {}", name_of(expected), address);
  error_code unreached;
  try {
    state->await(deadline, who.c_str(), [&](auto done) {
      asio::async_connect(state->socket, endpoints, [&, done = std::move(done)](error_code failure, const tcp::endpoint& reached) mutable {
        unreached = failure;
        if (!failure) a.ip = reached.address().to_string();
        done(failure, 0);
      });
    });
  } catch (const Error& failure) {
    if (failure.code() != Code::closed) throw;
    a.port_error = unreached.value();
    throw Error(Code::closed, who, unreached == asio::error::connection_refused ? "nobody listens there; is it running, and is this its address?" : unreached.message());
  }
  a.step = Attempt::Step::handshake;
  state->socket.set_option(tcp::no_delay(true), error);
  keep_alive(state->socket);
  state->begin_tls(credentials, expected);
  try {
    state->await(deadline, who.c_str(), [&](auto done) {
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
