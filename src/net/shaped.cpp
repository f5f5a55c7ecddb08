#include "net/shaped.h"

#include <sys/prctl.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "net/units.h"
#include "permllm/error.h"
#include "wire/frame.h"

namespace permllm {
namespace {

using Stamp = Clock::rep;  // steady_clock is CLOCK_MONOTONIC: one clock for all processes of a machine

}  // namespace

Shaped::Shaped(std::unique_ptr<Link> link, Clock::duration round_trip, double bits_per_second)
    : PassingLink(std::move(link)), half_(round_trip / 2), bits_per_second_(bits_per_second) {}

void Shaped::send(Frame frame) {
  const Stamp now = Clock::now().time_since_epoch().count();
  Bytes stamped(sizeof now + frame.payload.size());
  std::memcpy(stamped.data(), &now, sizeof now);
  if (!frame.payload.empty()) std::memcpy(stamped.data() + sizeof now, frame.payload.data(), frame.payload.size());
  frame.payload = std::move(stamped);
  PassingLink::send(std::move(frame));
}

Frame Shaped::receive(Clock::time_point deadline, const char* awaited, std::size_t most) {
  prctl(PR_SET_TIMERSLACK, 1000);  // wake within microseconds; per thread, so set where the sleep is
  Frame frame = PassingLink::receive(deadline, awaited, most + sizeof(Stamp));
  Stamp sent = 0;
  if (frame.payload.size() < sizeof sent) throw Error(Code::malformed, awaited, "the peer's link is not shaped");
  std::memcpy(&sent, frame.payload.data(), sizeof sent);
  frame.payload.erase(frame.payload.begin(), frame.payload.begin() + sizeof sent);
  // A stamp of the future would stall the receiver: the clocks are one.
  const Clock::time_point begin = std::max(free_, std::min(Clock::time_point(Clock::duration(sent)), Clock::now()));
  free_ = begin;
  if (bits_per_second_ > 0) {
    const double seconds = 8.0 * static_cast<double>(frame.payload.size() + k_frame_header_bytes) / bits_per_second_;
    free_ += duration_of(seconds);
  }
  const Clock::time_point delivery = free_ + half_;
  if (delivery > deadline) {
    std::this_thread::sleep_until(deadline);
    throw Error(Code::timeout, awaited, "did not arrive before the deadline");
  }
  std::this_thread::sleep_until(delivery);
  return frame;
}

bool LinkShape::none() const { return parse_duration(rtt, "rtt") == Clock::duration::zero() && to_user() == 0; }

double LinkShape::to_user(const std::string& flag) const {
  const double there = parse_bandwidth(bandwidth.substr(0, bandwidth.find('/')), flag);
  if ((there == 0) != (from_user(flag) == 0))
    throw Error(Code::usage, flag, "of two bandwidths neither may be without a limit");
  return there;
}

double LinkShape::from_user(const std::string& flag) const {
  return parse_bandwidth(bandwidth.substr(bandwidth.find('/') + 1), flag);
}

LinkShape LinkShape::at_service() const { return {rtt, bandwidth.substr(bandwidth.find('/') + 1)}; }

std::unique_ptr<Link> shaped(std::unique_ptr<Link> link, const LinkShape& shape, bool set_up) {
  if (shape.none()) return link;
  return std::make_unique<Shaped>(std::move(link), parse_duration(shape.rtt, "rtt"), set_up ? 0.0 : shape.to_user());
}

}  // namespace permllm
