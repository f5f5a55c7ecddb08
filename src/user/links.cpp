#include "user/links.h"

#include <algorithm>

#include "net/shaped.h"
#include "net/tls.h"
#include "net/units.h"

namespace permllm {

bool LinkShape::none() const {
  return parse_duration(rtt, "rtt") == Clock::duration::zero() && parse_bandwidth(bandwidth, "bandwidth") == 0;
}

std::unique_ptr<Link> shaped(std::unique_ptr<Link> link, const LinkShape& shape, bool set_up) {
  if (shape.none()) return link;
  return std::make_unique<Shaped>(std::move(link), parse_duration(shape.rtt, "rtt"),
                                  set_up ? 0.0 : parse_bandwidth(shape.bandwidth, "bandwidth"));
}

namespace {

// Once a peer's machine answers, the rest of a connection takes no longer.
constexpr auto k_connect_patience = std::chrono::seconds(10);

}  // namespace

UserLinks links_of(const Invite& invite, const LinkShape& shape, Clock::duration patience, UserTraffic& traffic,
                   UserTraffic* total) {
  const auto dial = [&](const std::string& address, Role role, Traffic UserTraffic::*part) {
    return [credentials = invite.credentials(), shape, patience, address, role, &counted = traffic.*part,
            all = total ? &(total->*part) : nullptr]() -> std::unique_ptr<Link> {
      auto link = shaped(tls_connect(credentials, address, role,
                                     Clock::now() + std::min<Clock::duration>(patience, k_connect_patience)),
                         shape);
      return std::make_unique<Meter>(std::move(link), counted, all);
    };
  };
  return {dial(invite.provider_address, Role::provider, &UserTraffic::online),
          dial(invite.provider_address, Role::provider, &UserTraffic::offline),
          dial(invite.helper_address, Role::helper, &UserTraffic::helper), k_default_grace};
}

}  // namespace permllm
