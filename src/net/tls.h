// Links over TLS 1.3, both sides with a certificate. Who the peer is, its certificate and this side's trust decide.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "net/certificates.h"
#include "net/room.h"
#include "wire/link.h"

namespace permllm {

// Errors: `code`, naming `field`, when the text is not host:port.
void check_address(const std::string& address, const std::string& field, Code code);

// How far an attempt to connect came.
struct Attempt {
  enum class Step { name, port, handshake, done } step = Step::name;  // the one under way, in which it failed
  std::string ip;                    // that the name stands for: the one that answered, or the last
  int port_error = 0;                // errno where the port was not reached; 0 also when nobody answered in time
  std::optional<Certificate> shown;  // by the peer, whether it is trusted or not
};

class TlsLink : public Link {
 public:
  ~TlsLink() override;
  void send(Frame frame) override;
  void flush() override;
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override;
  bool has_come() override;
  void close() override;
  // The server's side of the handshake, so that a stalled peer holds up nobody but its own thread; a client's link has
  // done it. Errors: mismatch, naming why the peer's certificate is refused; those of the listener's credentials.
  const Peer& handshake(Clock::time_point deadline);
  // Who is at the other end, once the handshake is done.
  const Peer& peer() const;
  // From now on what is received takes room there, which the peer's other links share: a frame over k_small_payload waits until there is as
  // much, and behind it the peer waits, as long as the receiver's deadline lets it.
  void share(std::shared_ptr<Room> room);

 private:
  friend class TlsListener;
  friend std::unique_ptr<TlsLink> tls_connect(const Credentials&, const std::string&, Role, Clock::time_point,
                                              Attempt*);
  struct State;
  explicit TlsLink(std::unique_ptr<State> state);
  void read_exactly(std::uint8_t* to, std::size_t size, Clock::time_point deadline, const char* awaited);

  std::unique_ptr<State> state_;
};

class TlsListener {
 public:
  using Source = std::function<Credentials()>;
  // credentials: asked anew for each handshake, in the connection's own thread, and once here; what TLS makes of an identity is kept as long as
  // the source gives the same one. address: "127.0.0.1:0" (the system chooses a port), "[::1]:7000". patience: how long a peer has for its
  // ClientHello. Errors: usage, resource; those of the source.
  TlsListener(Source credentials, const std::string& address, Clock::duration patience = std::chrono::seconds(10));
  ~TlsListener();
  std::uint16_t port() const;

  // A connection, by a number that rises. Until its peer has spoken, that is, sent a ClientHello in full, it takes a descriptor and neither a
  // thread nor a buffer.
  struct Arrival {
    enum class Kind { came, spoke, left } kind;
    std::uint64_t number;
    std::string address;      // its peer's IP
    Clock::time_point since;  // when it came
    std::optional<Error> error =
        std::nullopt;  // of one that left: closed, timeout, or mismatch where it sent something else
  };
  // Waits for the next that comes, speaks or leaves; called by one thread, like take, drop and accept. Errors: timeout, closed (by interrupt),
  // resource.
  Arrival next(Clock::time_point deadline);
  // The link of one that has spoken; its TLS handshake is still to be done. Errors: resource, and the connection is gone.
  std::unique_ptr<TlsLink> take(std::uint64_t number);
  // Closes one that was not taken.
  void drop(std::uint64_t number);
  // Waits for one that speaks, and takes it.
  std::unique_ptr<TlsLink> accept(Clock::time_point deadline);
  // Ends the wait of another thread in next or accept, or the next one's.
  void interrupt();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// attempt: filled as it goes. Errors: closed or timeout when nobody answers; mismatch when the peer's certificate is not trusted or names another role
// (both named). That the peer refuses this side's certificate is heard when its first message is awaited.
std::unique_ptr<TlsLink> tls_connect(const Credentials& credentials, const std::string& address, Role expected,
                                     Clock::time_point deadline, Attempt* attempt = nullptr);

}  // namespace permllm
