#include "net/meter.h"

#include <utility>

#include "wire/frame.h"
#include "wire/tags.h"

namespace permllm {

std::uint64_t Traffic::header_bytes() const { return (sent.frames + received.frames) * k_frame_header_bytes; }

Traffic Traffic::operator-(const Traffic& earlier) const {
  const auto minus = [](const Direction& a, const Direction& b) {
    return Direction{{a.payload_bytes - b.payload_bytes}, {a.frames - b.frames}};
  };
  return {minus(sent, earlier.sent), minus(received, earlier.received), round_trips - earlier.round_trips};
}

void Meter::send(Frame frame) {
  count([&](Traffic& traffic) {
    traffic.sent.payload_bytes += frame.payload.size();
    traffic.sent.frames += 1;
  });
  if (!is_of_link(frame.tag)) sent_since_receive_ = true;  // nothing answers the others
  PassingLink::send(std::move(frame));
}

Frame Meter::receive(Clock::time_point deadline, const char* awaited, std::size_t most) {
  Frame frame = PassingLink::receive(deadline, awaited, most);
  const bool answers = !is_of_link(frame.tag) && std::exchange(sent_since_receive_, false);
  count([&](Traffic& traffic) {
    traffic.received.payload_bytes += frame.payload.size();
    traffic.received.frames += 1;
    traffic.round_trips += answers;
  });
  return frame;
}

}  // namespace permllm
