// Provider, helper and user who trust each other, for tests of links.
#pragma once

#include "net/certificates.h"

namespace permllm::test {

struct Parties {
  Identity provider = make_identity(Role::provider, "acme", 7), helper = make_identity(Role::helper, "neutral", 7);
  Identity user = make_user(provider, "alice", 7);

  Trust trust() const {
    return {{{Role::provider, provider.certificate.pin()}, {Role::helper, helper.certificate.pin()}}, {provider.certificate}, nullptr};
  }
  Credentials of(Role role) const { return {role == Role::provider ? provider : role == Role::helper ? helper : user, trust()}; }
};

}  // namespace permllm::test
