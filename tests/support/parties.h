// Provider, helper and user who trust each other, for tests of links.
#pragma once

#include <openssl/ec.h>
#include <openssl/x509.h>

#include <memory>

#include "net/certificates.h"

namespace permllm::test {

struct Parties {
  Identity provider = make_identity(Role::provider, "acme", 7), helper = make_identity(Role::helper, "neutral", 7);
  Identity user = make_user(provider, "alice", 7);

  Trust trust() const {
    return {{{Role::provider, provider.certificate.pin()}, {Role::helper, helper.certificate.pin()}},
            {provider.certificate},
            nullptr};
  }
  Credentials of(Role role) const {
    return {role == Role::provider ? provider : role == Role::helper ? helper : user, trust()};
  }
};

// The same certificate, written with the other of the two signatures (r, s) and (r, -s) that its issuer made of it at once.
inline Certificate with_other_signature(const Certificate& certificate) {
  const std::unique_ptr<X509, decltype(&X509_free)> copy(X509_dup(certificate.get()), X509_free);
  const ASN1_BIT_STRING* bits = nullptr;
  X509_get0_signature(&bits, nullptr, copy.get());
  const unsigned char* at = ASN1_STRING_get0_data(bits);
  const std::unique_ptr<ECDSA_SIG, decltype(&ECDSA_SIG_free)> signature(
      d2i_ECDSA_SIG(nullptr, &at, ASN1_STRING_length(bits)), ECDSA_SIG_free);
  const std::unique_ptr<EC_GROUP, decltype(&EC_GROUP_free)> group(EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1),
                                                                  EC_GROUP_free);
  BIGNUM* r = BN_dup(ECDSA_SIG_get0_r(signature.get()));
  BIGNUM* s = BN_new();
  BN_sub(s, EC_GROUP_get0_order(group.get()), ECDSA_SIG_get0_s(signature.get()));
  ECDSA_SIG_set0(signature.get(), r, s);
  unsigned char* der = nullptr;
  const int size = i2d_ECDSA_SIG(signature.get(), &der);
  ASN1_STRING_set(const_cast<ASN1_BIT_STRING*>(bits), der, size);  // a copy, and nobody else's
  OPENSSL_free(der);
  return Certificate::parse(Certificate::of(copy.get(), "certificate").pem(), "certificate");
}

}  // namespace permllm::test
