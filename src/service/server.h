// Accepts connections, and serves each in a thread of its own, within limits, until told to drain.
#pragma once

#include <functional>
#include <memory>

#include "net/tls.h"
#include "service/log.h"
#include "service/metrics.h"

namespace permllm {

struct Limits {
  std::size_t connections = 256;  // in all; the last of them, 16 or a quarter, are for handshakes alone
  std::size_t handshakes =
      16;  // under way from one address (IPv6: from one /64), with those whose peer has not spoken yet
  std::size_t per_user = 16;  // of one user, behind the handshake
  std::size_t sessions = 0;   // of a provider, of all users; 0: no limit
  std::size_t memory = 0;     // bytes of the process's own; 0: no limit
  std::size_t drain_seconds = 30;
};

// A connection has a thread once its peer has spoken (TlsListener), and 10 s from its arrival to the end of its handshake. Where there is no room
// for a newcomer, the oldest handshake under way gives way to it, of the address that has most; so silent peers keep nobody out. A peer that is
// refused after its handshake is told why.
class Server {
 public:
  struct Handler {
    std::function<void(const Peer&)> admit;  // its Error is the peer's
    // Serves a connection to its end, in its thread; it may keep the link for longer.
    std::function<void(std::unique_ptr<Link>, const Peer&)> serve;
    std::size_t room;  // bytes that all connections of a peer may hold of what they received (net/room.h)
  };
  // The references outlive the server, but not the links that `serve` keeps.
  Server(TlsListener& listener, Handler handler, const Limits& limits, Log& log, Metrics& metrics);
  ~Server();

  // Returns when drained, with all connections closed: false where a thread is still at work, so that it is better to exit at once.
  bool run();
  // From another thread: run returns when no connection is served any more, or after limits.drain_seconds, when the rest is closed.
  // Until then it accepts connections, because sessions under way may still need some; `serve` refuses new sessions.
  void drain();
  void set_limits(const Limits& limits);
  struct Count {
    std::size_t handshakes = 0, served = 0;
  };
  Count count() const;

 private:
  struct State;
  void welcome(const TlsListener::Arrival& arrival);
  void attend(std::uint64_t number);
  std::shared_ptr<State> state_;
};

}  // namespace permllm
