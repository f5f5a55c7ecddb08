// Links over TLS 1.3, both sides with a certificate. A party's role is its certificate's common name.
#pragma once

#include <memory>
#include <string>

#include "net/certificates.h"
#include "net/link.h"

namespace permllm {

class TlsLink : public Link {
 public:
  ~TlsLink() override;
  void send(Frame frame) override;
  void flush() override;
  Frame receive(Clock::time_point deadline, const char* awaited) override;
  void close() override;
  // The server's side of the handshake, so that a stalled peer holds up nobody but its own thread; a client's link has
  // done it. Returns the peer's role.
  Role handshake(Clock::time_point deadline);

 private:
  friend class TlsListener;
  friend std::unique_ptr<Link> tls_connect(const Identity&, const std::string&, Role, Clock::time_point);
  struct State;
  explicit TlsLink(std::unique_ptr<State> state);
  Role peer_role();
  void read_exactly(std::uint8_t* to, std::size_t size, Clock::time_point deadline, const char* awaited);

  std::unique_ptr<State> state_;
};

class TlsListener {
 public:
  // address: "127.0.0.1:0" (the system chooses a port), "[::1]:7000". Errors: usage, resource.
  TlsListener(const Identity& identity, const std::string& address);
  ~TlsListener();
  std::uint16_t port() const;
  // Waits for a connection; its TLS handshake is still to be done. Errors: timeout, closed (by close()), resource.
  std::unique_ptr<TlsLink> accept(Clock::time_point deadline);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Errors: closed or timeout when nobody answers; mismatch when the peer's certificate is not of this authority or names
// another role (both named).
std::unique_ptr<Link> tls_connect(const Identity& identity, const std::string& address, Role expected,
                                  Clock::time_point deadline);

}  // namespace permllm
