// The user's links, metered.
#pragma once

#include <memory>

#include "net/meter.h"
#include "net/shaped.h"
#include "user/invite.h"
#include "user/user_client.h"

namespace permllm {

// What the user's three links carried.
struct UserTraffic {
  Traffic online, offline, helper;
};
// The links of the user who holds the invite, metered. traffic outlives them, as does `total`, where the same is counted once more.
UserLinks links_of(const Invite& invite, const LinkShape& shape, Clock::duration patience, UserTraffic& traffic,
                   UserTraffic* total = nullptr);

}  // namespace permllm
