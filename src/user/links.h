// The user's links, metered, and links over a simulated network.
#pragma once

#include <memory>
#include <string>

#include "net/meter.h"
#include "user/invite.h"
#include "user/user_client.h"

namespace permllm {

// A simulated network between the parties. Both ends must have the same.
struct LinkShape {
  std::string rtt = "0", bandwidth = "0";
  bool none() const;
};
// The link itself when the shape is none. set_up: what arrives is not held up by the bandwidth, because it is a model on its
// way to the helper, which no session waits for. Errors: usage for unreadable values.
std::unique_ptr<Link> shaped(std::unique_ptr<Link> link, const LinkShape& shape, bool set_up = false);

// What the user's three links carried.
struct UserTraffic {
  Traffic online, offline, helper;
};
// The links of the user who holds the invite, metered. traffic outlives them, as does `total`, where the same is counted once more.
UserLinks links_of(const Invite& invite, const LinkShape& shape, Clock::duration patience, UserTraffic& traffic,
                   UserTraffic* total = nullptr);

}  // namespace permllm
