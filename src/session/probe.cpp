#include "session/probe.h"

#include <fmt/format.h>

#include <algorithm>

#include "permllm/version.h"
#include "wire/plain.h"

namespace permllm {
namespace {

constexpr auto k_patience = std::chrono::seconds(5);  // with one message
constexpr double k_long_transfer = 0.5;               // seconds
constexpr std::uint32_t k_first_transfer = 16 << 10;  // bytes
constexpr int k_least_delays = 3, k_most_delays = 16;

// Seconds from the first byte out to the last one in.
struct Echo {
  double taken = 0;
  std::uint64_t time = 0;  // the peer's
};
Echo echo(Channel& peer, std::uint32_t out, std::uint32_t in) {
  Ping ping{in, Bytes(out)};
  const Clock::time_point begin = Clock::now();
  peer.send(std::move(ping));
  const auto pong = peer.receive(Pong{});
  const double taken = seconds_of(Clock::now() - begin);
  if (pong.bytes.size() != in)
    throw Error(Code::malformed, "Pong.bytes", fmt::format("{} of them, expected {}", pong.bytes.size(), in));
  return {taken, pong.time};
}

// The link behind its first frame, which the service has read: what comes is counted from there.
class Behind : public PassingLink {
 public:
  // The link outlives it.
  explicit Behind(Link& link) : PassingLink({std::shared_ptr<void>(), &link}) {}
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
    Frame frame = PassingLink::receive(deadline, awaited, most);
    --frame.step;
    return frame;
  }
};

}  // namespace

std::uint64_t system_time() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

bool is_probe(const Frame& first) { return first.tag == static_cast<std::uint16_t>(Tag::probe); }

void serve_probe(Link& link, const Frame& first,
                 const std::function<ProbeFacts(const std::vector<std::string>&)>& facts, Room& room,
                 const WallClock& now) {
  Behind rest(link);
  Channel peer(rest, 0, k_patience);
  try {
    ProbeFacts known = facts(message_of<Probe>(first).model_ids);
    peer.send(Probed{PERMLLM_VERSION, std::move(known.models), std::move(known.helper)});
    const Clock::time_point end = Clock::now() + k_most_probe_time;
    std::uint64_t in = 0, out = 0;
    for (std::uint32_t pings = 0;; ++pings) {
      const auto ping = peer.receive(Ping{});
      in += ping.bytes.size();
      out += ping.answer_bytes;
      if (pings == k_most_pings || ping.answer_bytes > k_most_ping_bytes || std::max(in, out) > k_most_probe_bytes ||
          Clock::now() > end) {
        throw Error(Code::resource, "Ping",
                    fmt::format("a connection has {} of them, {} bytes each, {} bytes in all and {} seconds",
                                k_most_pings, k_most_ping_bytes, k_most_probe_bytes, k_most_probe_time.count()));
      }
      const auto answer =
          ping.answer_bytes > k_small_payload ? room.take(ping.answer_bytes, end, "room for an answer") : nullptr;
      peer.send(Pong{now(), Bytes(ping.answer_bytes)});
      if (answer) peer.flush();
    }
  } catch (const Error& error) {
    if (error.code() != Code::closed) peer.refuse(error);
  }
  link.close();
}

Probed probe(Channel& peer, std::vector<std::string> model_ids) {
  peer.send(Probe{std::move(model_ids)});
  return peer.receive(Probed{});
}

Delay measure_delay(Channel& peer) {
  Delay least;
  double spent = 0;
  for (int i = 0; i < k_least_delays || (i < k_most_delays && spent < 1); ++i) {
    const Echo one = echo(peer, 0, 0);
    spent += one.taken;
    if (i > 0 && one.taken >= least.round_trip) continue;
    // The peer looked at its clock half a round trip ago.
    const double here = static_cast<double>(system_time()) / 1000 - one.taken / 2;
    least = {one.taken, static_cast<double>(one.time) / 1000 - here};
  }
  return least;
}

Bandwidth measure_bandwidth(Channel& peer, double round_trip) {
  // The longest transfer counts: short ones tell of buffers on the way, and of how a connection begins.
  const auto last = [&](bool out) {
    double bits = 0;
    for (std::uint32_t bytes = k_first_transfer; bytes <= k_most_ping_bytes; bytes *= 2) {
      const double taken = echo(peer, out ? bytes : 0, out ? 0 : bytes).taken;
      bits = 8 * bytes / std::max(taken - round_trip, taken / 10);
      if (taken > k_long_transfer) break;
    }
    return bits;
  };
  const double to_peer = last(true);
  return {to_peer, last(false)};
}

void HelperWatch::look_if_due() {
  if (looked_ && Clock::now() - *looked_ <= k_rest) return;
  look_now();
  looked_ = Clock::now();
}

bool HelperWatch::lacks_model() {
  const Lock lock(mutex_);
  look_if_due();
  return lacks_model_;
}

void HelperWatch::forget() {
  const Lock lock(mutex_);
  looked_.reset();
}

HelperState HelperWatch::look() {
  const Lock lock(mutex_);
  look_if_due();
  HelperState state = state_;
  state.age = static_cast<std::uint32_t>(seconds_of(Clock::now() - *looked_));
  return state;
}

void HelperWatch::look_now() {
  state_ = {};
  lacks_model_ = false;
  HelperState& state = state_;
  try {
    const std::unique_ptr<Link> link = dial_();
    Channel helper(*link, 0, k_patience);
    const Probed probed = probe(helper, {model_.id});
    const Delay delay = measure_delay(helper);
    state.round_trip = delay.round_trip;
    state.clock_ahead = delay.clock_ahead;
    lacks_model_ = probed.models.empty();
    if (lacks_model_) {
      state.trouble = fmt::format("the helper does not hold model {:.8}; the provider sends it again", model_.id);
    } else if (const std::string there = probed.models[0].plan.hash(), here = model_.plan.hash(); there != here) {
      state.trouble = fmt::format("plan {:.8} at the helper, {:.8} at the provider; restart the provider", there, here);
    }
    link->close();
  } catch (const Error& error) {
    state.trouble = plain_words(error).substr(0, 1000);
  }
}

}  // namespace permllm
