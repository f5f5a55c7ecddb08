// Looking at a link from its inside (docs/wire.md 3.1): who answers, with which models, how far its clock is off, how fast the link is. Any peer that a
// service trusts may ask. Nothing of a session is touched, and what one connection may cost a service is bounded.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "net/room.h"
#include "plan/plan_io.h"
#include "wire/message.h"

namespace permllm {

// Bounds of one connection; the peer that goes beyond is refused.
inline constexpr std::uint32_t k_most_pings = 64;
inline constexpr std::uint32_t k_most_ping_bytes = 2 << 20;   // of one, in each direction
inline constexpr std::uint64_t k_most_probe_bytes = 8 << 20;  // of all, in each direction
inline constexpr std::size_t k_answer_room = std::size_t{4}
                                             << 20;  // for what is on its way to one peer, over all its connections
inline constexpr auto k_most_probe_time = std::chrono::seconds(15);

struct Probe {  // user or provider -> service, the first message of a connection
  static constexpr Tag tag = Tag::probe;
  static constexpr std::size_t k_most_models = 16;
  std::vector<std::string> model_ids;  // that the helper is asked for
  template <class Io>
  void visit(Io& io) {
    io.list("model_ids", model_ids, k_most_models, [](auto& out, std::string& id) { out.text("model_id", id, 64); });
  }
};

struct ProbedModel {
  std::string id;
  Plan plan;
  template <class Io>
  void visit(Io& io) {
    io.text("model_id", id, 64);
    permllm::visit(io, plan);
  }
};

// How a provider's own link to the helper is.
struct HelperState {
  std::string trouble;                     // empty: it is in order, and the helper holds the model
  std::uint32_t age = 0;                   // seconds since the provider looked
  double round_trip = 0, clock_ahead = 0;  // seconds; the helper's clock against the provider's
  template <class Io>
  void visit(Io& io) {
    io.text("helper.trouble", trouble, 1000);
    io.number("helper.age", age);
    visit_real(io, "helper.round_trip", round_trip, 0, 1e6);
    visit_real(io, "helper.clock_ahead", clock_ahead, -1e12, 1e12);
  }
};

struct Probed {  // service -> who probes
  static constexpr Tag tag = Tag::probed;
  static constexpr std::size_t k_most = std::size_t{4} << 20;  // sixteen plans
  std::string version;                                         // of the program; that of the wire is in the frame
  std::vector<ProbedModel> models;    // the provider's; those of the helper that were asked for
  std::optional<HelperState> helper;  // of a provider
  template <class Io>
  void visit(Io& io) {
    io.text("version", version, 64);
    io.list("models", models, Probe::k_most_models, [](auto& out, ProbedModel& model) { model.visit(out); });
    bool has = helper.has_value();
    visit_flag(io, "has_helper", has);
    if (has && !helper) helper.emplace();
    if (has) helper->visit(io);
  }
};

struct Ping {  // any number of them, within the bounds
  static constexpr Tag tag = Tag::ping;
  std::uint32_t answer_bytes = 0;
  Bytes bytes;
  template <class Io>
  void visit(Io& io) {
    io.number("answer_bytes", answer_bytes);
    io.raw("bytes", bytes, k_most_ping_bytes);
  }
};

struct Pong {
  static constexpr Tag tag = Tag::pong;
  std::uint64_t time = 0;  // milliseconds since 1970
  Bytes bytes;
  template <class Io>
  void visit(Io& io) {
    io.number("time", time);
    io.raw("bytes", bytes, k_most_ping_bytes);
  }
};

// The service's side.
struct ProbeFacts {
  std::vector<ProbedModel> models = {};
  std::optional<HelperState> helper = std::nullopt;
};
using WallClock = std::function<std::uint64_t()>;  // milliseconds since 1970
std::uint64_t system_time();
bool is_probe(const Frame& first);
// Answers Probe and the Pings behind it until the peer goes. Never throws for what a peer does. facts: of the models asked for. room: of
// the peer, for answers on their way.
void serve_probe(Link& link, const Frame& first,
                 const std::function<ProbeFacts(const std::vector<std::string>&)>& facts, Room& room,
                 const WallClock& now = system_time);

// The asking side. Errors: those of a channel.
Probed probe(Channel& peer, std::vector<std::string> model_ids);
struct Delay {
  double round_trip = 0, clock_ahead = 0;  // seconds: the least of some; the peer's clock against this one's
};
Delay measure_delay(Channel& peer);
struct Bandwidth {
  double to_peer = 0, from_peer = 0;  // bits a second
};
// Sends and asks for up to 4 MB each, and no more once a transfer takes half a second.
Bandwidth measure_bandwidth(Channel& peer, double round_trip);

// Looks at the helper when somebody asks, but not again within k_rest. Threads may share one.
class HelperWatch {
 public:
  static constexpr auto k_rest = std::chrono::seconds(10);
  HelperWatch(std::function<std::unique_ptr<Link>()> dial, ProbedModel model)
      : dial_(std::move(dial)), model_(std::move(model)) {}
  HelperState look();
  // Whether the helper answered, and does not hold the model.
  bool lacks_model();
  // The next look is a new one.
  void forget();

 private:
  void look_if_due() REQUIRES(mutex_);
  void look_now() REQUIRES(mutex_);
  std::function<std::unique_ptr<Link>()> dial_;
  ProbedModel model_;
  Mutex mutex_;
  std::optional<Clock::time_point> looked_ GUARDED_BY(mutex_);
  HelperState state_ GUARDED_BY(mutex_);
  bool lacks_model_ GUARDED_BY(mutex_) = false;
};

}  // namespace permllm
