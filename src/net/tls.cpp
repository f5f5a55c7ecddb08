#include "net/tls.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <charconv>
#include <cstring>
#include <optional>

#include "wire/frame.h"

namespace permllm {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t k_buffer = std::size_t{1} << 17;
constexpr auto k_send_patience = std::chrono::seconds(120);

asio::ssl::context make_context(const Identity& identity) {
  asio::ssl::context context(asio::ssl::context::tlsv13);
  try {
    context.add_certificate_authority(asio::buffer(identity.authority));
    context.use_certificate(asio::buffer(identity.certificate), asio::ssl::context::pem);
    context.use_private_key(asio::buffer(identity.key), asio::ssl::context::pem);
  } catch (const boost::system::system_error&) {
    throw Error(Code::file, "identity", "the certificate, key or authority is not a PEM text that fits the others");
  }
  context.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
  SSL_CTX_set_session_cache_mode(context.native_handle(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.native_handle(), 0);
  return context;
}

struct HostPort {
  std::string host, port;
};
HostPort split_address(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
    throw Error(Code::usage, "address", fmt::format("\"{}\" is not host:port, like 127.0.0.1:7000", address));
  }
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return {host, address.substr(colon + 1)};
}

}  // namespace

// Each link has its own event loop, driven by whoever waits: asio gives deadlines, the caller sees blocking calls.
struct TlsLink::State {
  State(asio::ssl::context shared) : context(std::move(shared)), stream(io, context) {}

  asio::io_context io{1};
  asio::ssl::context context;
  asio::ssl::stream<tcp::socket> stream;
  Bytes out;
  Bytes in = Bytes(k_buffer);
  std::size_t in_begin = 0, in_end = 0;
  std::uint32_t next_step = 0;  // of the frames that arrive

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
      stream.next_layer().close(ignored);
      io.restart();
      io.run();
      throw Error(Code::timeout, awaited, "did not arrive before the deadline");
    }
    if (*result) {
      const bool tls = result->category() == asio::error::get_ssl_category();
      if (tls && *result != asio::ssl::error::stream_truncated) {
        throw Error(Code::mismatch, awaited, "the TLS layer refuses the peer: " + result->message());
      }
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
  state_->await(Clock::now() + k_send_patience, "the peer's reading", [&](auto done) {
    asio::async_write(state_->stream, asio::buffer(state_->out), std::move(done));
  });
  state_->out.clear();
  if (state_->out.capacity() > 8 * k_buffer) state_->out.shrink_to_fit();
}

void TlsLink::read_exactly(std::uint8_t* to, std::size_t size, Clock::time_point deadline, const char* awaited) {
  State& s = *state_;
  while (size > 0) {
    if (s.in_begin == s.in_end && size >= k_buffer) {
      const std::size_t got = s.await(deadline, awaited, [&](auto done) {
        s.stream.async_read_some(asio::buffer(to, size), std::move(done));
      });
      to += got;
      size -= got;
      continue;
    }
    if (s.in_begin == s.in_end) {
      s.in_begin = 0;
      s.in_end = s.await(deadline, awaited,
                         [&](auto done) { s.stream.async_read_some(asio::buffer(s.in), std::move(done)); });
    }
    const std::size_t step = std::min(size, s.in_end - s.in_begin);
    std::memcpy(to, s.in.data() + s.in_begin, step);
    s.in_begin += step;
    to += step;
    size -= step;
  }
}

Frame TlsLink::receive(Clock::time_point deadline, const char* awaited) {
  flush();
  std::array<std::uint8_t, k_frame_header_bytes> bytes;
  read_exactly(bytes.data(), bytes.size(), deadline, awaited);
  const FrameHeader header = decode_header(bytes);
  if (header.step != state_->next_step) {
    throw Error(Code::malformed, "frame.step", fmt::format("{}, expected {}", header.step, state_->next_step));
  }
  ++state_->next_step;
  Frame frame{header.tag, header.session, header.step, {}};
  // Memory is taken as the payload arrives, whatever the header says is to come.
  constexpr std::size_t k_step = std::size_t{1} << 22;
  while (frame.payload.size() < header.length) {
    const std::size_t begin = frame.payload.size();
    frame.payload.resize(std::min<std::size_t>(header.length, begin + std::max(k_step, begin)));
    read_exactly(frame.payload.data() + begin, frame.payload.size() - begin, deadline, awaited);
  }
  return frame;
}

void TlsLink::close() {
  // Wakes a thread that waits on the socket; the descriptor itself lives as long as the link.
  ::shutdown(state_->stream.next_layer().native_handle(), SHUT_RDWR);
}

Role TlsLink::peer_role() {
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(
      SSL_get1_peer_certificate(state_->stream.native_handle()), X509_free);
  char name[64] = {};
  if (certificate != nullptr) {
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate.get()), NID_commonName, name, sizeof name);
  }
  for (const Role role : {Role::provider, Role::user, Role::helper}) {
    if (std::string_view(name) == name_of(role)) return role;
  }
  throw Error(Code::mismatch, "certificate", "the peer's certificate names no role");
}

Role TlsLink::handshake(Clock::time_point deadline) {
  state_->await(deadline, "the TLS handshake", [&](auto done) {
    state_->stream.async_handshake(asio::ssl::stream_base::server,
                                   [done = std::move(done)](error_code error) mutable { done(error, 0); });
  });
  return peer_role();
}

struct TlsListener::State {
  asio::io_context io{1};
  Identity identity;
  tcp::acceptor acceptor{io};
};

TlsListener::TlsListener(const Identity& identity, const std::string& address) : state_(new State) {
  state_->identity = identity;
  make_context(identity);  // an unusable identity is refused here, not at the first connection
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
  auto link = std::make_unique<TlsLink::State>(make_context(state_->identity));
  std::optional<error_code> result;
  state_->acceptor.async_accept(link->stream.next_layer(), [&](error_code error) { result = error; });
  state_->io.restart();
  state_->io.run_until(deadline);
  if (!result) {
    state_->acceptor.cancel();
    state_->io.restart();
    state_->io.run();
    throw Error(Code::timeout, "a connection", "did not arrive before the deadline");
  }
  if (*result) throw Error(Code::resource, "accept", result->message());
  link->stream.next_layer().set_option(tcp::no_delay(true));
  return std::unique_ptr<TlsLink>(new TlsLink(std::move(link)));
}

std::unique_ptr<Link> tls_connect(const Identity& identity, const std::string& address, Role expected,
                                  Clock::time_point deadline) {
  const auto [host, port] = split_address(address);
  auto state = std::make_unique<TlsLink::State>(make_context(identity));
  error_code error;
  tcp::resolver resolver(state->io);
  const auto endpoints = resolver.resolve(host, port, error);
  if (error) throw Error(Code::usage, "address", fmt::format("{}: {}", address, error.message()));
  const std::string who = fmt::format("the {} at {}", name_of(expected), address);
  try {
    state->await(deadline, who.c_str(), [&](auto done) {
      asio::async_connect(state->stream.next_layer(), endpoints,
                          [done = std::move(done)](error_code failure, const tcp::endpoint&) mutable { done(failure, 0); });
    });
  } catch (const Error& failure) {
    if (failure.code() != Code::closed) throw;
    throw Error(Code::closed, who, "nobody listens there");
  }
  state->stream.next_layer().set_option(tcp::no_delay(true));
  state->await(deadline, who.c_str(), [&](auto done) {
    state->stream.async_handshake(asio::ssl::stream_base::client,
                                  [done = std::move(done)](error_code failure) mutable { done(failure, 0); });
  });
  std::unique_ptr<TlsLink> link(new TlsLink(std::move(state)));
  const Role actual = link->peer_role();
  if (actual != expected) {
    throw Error(Code::mismatch, who, fmt::format("its certificate says {}, expected {}", name_of(actual), name_of(expected)));
  }
  return link;
}

}  // namespace permllm
