// Links as the command line shapes them.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "app/invite.h"
#include "engine/user_client.h"
#include "net/meter.h"

namespace permllm {

// --rtt and --bandwidth: a simulated network between the parties. Both ends must have the same.
struct LinkShape {
  std::string rtt = "0", bandwidth = "0";
  bool none() const;
};
void add_link_shape(CLI::App& command, LinkShape& shape);
// The link itself when the shape is none. set_up: what arrives is not held up by the bandwidth, because it is a model on its
// way to the helper, which no session waits for. Errors: usage for unreadable values.
std::unique_ptr<Link> shaped(std::unique_ptr<Link> link, const LinkShape& shape, bool set_up = false);

// What the user's three links carried.
struct UserTraffic {
  Traffic online, offline, helper;
};
// The links of the user who holds the invite, metered. traffic outlives them, as does `total`, where the same is counted once more.
UserLinks links_of(const Invite& invite, const LinkShape& shape, Clock::duration patience, UserTraffic& traffic, UserTraffic* total = nullptr);

}  // namespace permllm
