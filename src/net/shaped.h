// A simulated network between two processes of one machine: both ends of the link are decorated.
#pragma once

#include <memory>
#include <string>

#include "wire/link.h"

namespace permllm {

// The sender stamps each frame with its time on the common clock and never sleeps; the receiver hands a frame out at the
// time when the network would have delivered it: after those before it have passed at `bits_per_second` (0: at once),
// and half a round trip later.
class Shaped : public PassingLink {
 public:
  Shaped(std::unique_ptr<Link> link, Clock::duration round_trip, double bits_per_second);

  void send(Frame frame) override;
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override;

 private:
  Clock::duration half_;
  double bits_per_second_;
  Clock::time_point free_{};  // when the incoming direction has passed all frames so far
};

// A simulated network between the parties. Both ends must have the same.
struct LinkShape {
  std::string rtt = "0", bandwidth = "0";  // bandwidth: one, or two, to the user and from it: "100mbit/40mbit"
  bool none() const;
  // Bits per second; 0: no limit. Errors: usage, naming `flag`.
  double to_user(const std::string& flag = "bandwidth") const;
  double from_user(const std::string& flag = "bandwidth") const;
  // As provider and helper have it of their links with users: a link's shape is of what its owner receives.
  LinkShape at_service() const;
};
// The link itself when the shape is none. set_up: what arrives is not held up by the bandwidth, because it is a model on its
// way to the helper, which no session waits for. Errors: usage for unreadable values.
std::unique_ptr<Link> shaped(std::unique_ptr<Link> link, const LinkShape& shape, bool set_up = false);

}  // namespace permllm
