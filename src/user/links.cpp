#include "user/links.h"

#include <algorithm>

#include "net/tls.h"

namespace permllm {

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
