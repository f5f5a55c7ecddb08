// Certificates and keys as PEM text, and certificates as DER, as a peer shows them: what is accepted is looked at from all sides.
// The first byte of an input says which of the three.
#include <openssl/x509.h>

#include <memory>
#include <span>
#include <string_view>

#include "fuzz/target.h"
#include "net/certificates.h"

namespace permllm::test {
namespace {

struct Pair {
  Identity provider = make_identity(Role::provider, "acme", 36500), user = make_user(provider, "alice", 36500);
};
const Pair& parties() {
  static const Pair pair;
  return pair;
}

void look_at(const Certificate& certificate) {
  PERMLLM_ASSERT(is_party_name(certificate.name()) && certificate.pin().size() == 64);
  PERMLLM_ASSERT(Certificate::parse(certificate.pem(), "again").pem() == certificate.pem());
  certificate.last_day();
  const Identity& provider = parties().provider;
  const Trust trust{
      {{Role::provider, provider.certificate.pin()}}, {provider.certificate}, [](const Peer&) { return ""; }};
  // Nobody is trusted but the two whom it knows, by key or by signature.
  if (trust.judge(certificate).reason.empty()) {
    PERMLLM_ASSERT(certificate.role() == Role::user ? certificate.signed_by(provider.certificate)
                                                    : certificate.pin() == provider.certificate.pin());
  }
}

std::string_view text_of(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void read(int kind, std::span<const std::uint8_t> bytes) {
  if (kind == 0) {
    look_at(Certificate::parse(text_of(bytes), "certificate"));
  } else if (kind == 1) {
    identity_of(parties().user.certificate, text_of(bytes), "key");
  } else {
    const unsigned char* at = bytes.data();
    const std::unique_ptr<X509, decltype(&X509_free)> x509(d2i_X509(nullptr, &at, static_cast<long>(bytes.size())),
                                                           X509_free);
    if (x509) look_at(Certificate::of(x509.get(), "certificate"));
  }
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  std::vector<std::vector<std::uint8_t>> all;
  const auto add = [&](std::uint8_t kind, std::string_view text) { add_seed(all, kind, text); };
  for (const Identity* identity : {&parties().provider, &parties().user}) {
    add(0, identity->certificate.pem());
    unsigned char* der = nullptr;
    const int size = i2d_X509(identity->certificate.get(), &der);
    add(2, {reinterpret_cast<const char*>(der), static_cast<std::size_t>(size)});
    OPENSSL_free(der);
  }
  add(1, key_pem(parties().user));
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size == 0) return 0;
  try {
    test::read(data[0] % 3, {data + 1, size - 1});
  } catch (const Error&) {
  }
  return 0;
}
