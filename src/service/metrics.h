// What a party counts, in Prometheus' text format. Sums alone: no label names a peer or a session.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "session/event.h"

namespace permllm {

class Metrics {
 public:
  explicit Metrics(Role party);
  ~Metrics();

  // Counts what a service tells.
  void count(const Event& event);
  void count_connection();
  // A peer was turned away: before its handshake was done, or after it for want of room.
  void count_refused_handshake(const char* reason);
  void count_refused_connection();
  // Bytes of model that this party holds for sessions.
  void set_model_bytes(double bytes);

  // What cannot be counted along: called each time that the text is asked for.
  struct Now {
    std::size_t handshakes = 0, connections = 0;
    bool ready = false, draining = false;
    std::optional<int> certificate_days;  // that the party's certificate holds; none: it cannot be read
    std::optional<std::uint64_t> stock,
        disk_free;  // bytes of offline material, and what is left of the disk; none: nothing is told of them
  };
  void set_source(std::function<Now()> source);
  std::string text();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace permllm
