// Who is let in: identities, trust, and each wrong combination over real TLS.
#include "net/certificates.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <thread>

#include "net/tls.h"
#include "support/errors.h"
#include "support/parties.h"
#include "wire/frame.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""s;

// What each side says when `client` connects to `server` and waits for a message. Empty: nothing is wrong.
struct Outcome {
  std::string server, client;
};
Outcome meet(const Credentials& server, const Credentials& client, Role expected) {
  TlsListener listener([&] { return server; }, "127.0.0.1:0");
  Outcome outcome;
  std::jthread serving([&] {
    const auto link = listener.accept(Clock::now() + 5s);
    try {
      link->handshake(Clock::now() + 5s);
      link->send({40, 0, 0, {}});
      link->flush();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::mismatch);
      outcome.server = error.what();
    }
  });
  try {
    const auto link = tls_connect(client, "127.0.0.1:" + std::to_string(listener.port()), expected, Clock::now() + 5s);
    link->send({40, 0, 0, Bytes(100)});
    link->receive(Clock::now() + 5s, "a frame", k_max_payload);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::mismatch) << error.what();
    outcome.client = error.what();
  }
  return outcome;
}

// The certificate with another text as the time of its end, which is of the same length.
std::string ending(const Certificate& certificate, std::string_view time) {
  unsigned char* bytes = nullptr;
  const int size = i2d_X509(certificate.get(), &bytes);
  std::string der(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
  OPENSSL_free(bytes);
  const std::string head("\x17\x0d", 2);  // UTCTime of 13 characters
  const std::size_t begin = der.find(head), end = der.find(head, begin + 15);
  der.replace(end + 2, 13, time);
  const auto* from = reinterpret_cast<const unsigned char*>(der.data());
  const std::unique_ptr<X509, decltype(&X509_free)> changed(d2i_X509(nullptr, &from, size), X509_free);
  const std::unique_ptr<BIO, decltype(&BIO_free)> memory(BIO_new(BIO_s_mem()), BIO_free);
  PEM_write_bio_X509(memory.get(), changed.get());
  char* data = nullptr;
  const long length = BIO_get_mem_data(memory.get(), &data);
  return {data, static_cast<std::size_t>(length)};
}

TEST(Certificates, one_whose_dates_are_none_is_refused) {
  const Identity provider = make_identity(Role::provider, "acme", 7);
  EXPECT_EQ(Certificate::parse(ending(provider.certificate, "300102030405Z"), "file").last_day(), "2030-01-02");
  EXPECT_EQ(error_of([&] { Certificate::parse(ending(provider.certificate, "309902030405Z"), "file").days_left(); }),
            "file: its validity is written as no time");
  EXPECT_EQ(error_of([&] { Certificate::parse(ending(provider.certificate, "x\x1b[2Jxxxxxxxx"), "file").days_left(); }),
            "file: its validity is written as no time");
}

void expect_met(const Outcome& outcome) {
  EXPECT_EQ(outcome.server, "");
  EXPECT_EQ(outcome.client, "");
}
// Both sides name their reason.
void expect_refused(const Outcome& outcome, const std::string& server, const std::string& client) {
  EXPECT_NE(outcome.server.find(server), std::string::npos) << outcome.server;
  EXPECT_NE(outcome.client.find(client), std::string::npos) << outcome.client;
}

Credentials with_identity(Credentials credentials, const Identity& identity) {
  credentials.identity = identity;
  return credentials;
}

TEST(Trust, the_right_parties_meet) {
  const Parties p;
  expect_met(meet(p.of(Role::provider), p.of(Role::user), Role::provider));
  expect_met(meet(p.of(Role::helper), p.of(Role::user), Role::helper));
  expect_met(meet(p.of(Role::helper), p.of(Role::provider), Role::helper));
}

TEST(Trust, a_renewed_certificate_is_the_same_party) {
  const Parties p;
  const Identity again = renewed(p.provider, 7);
  EXPECT_NE(again.certificate.pem(), p.provider.certificate.pem());
  EXPECT_EQ(again.certificate.pin(), p.provider.certificate.pin());
  expect_met(meet(with_identity(p.of(Role::provider), again), p.of(Role::user), Role::provider));
  expect_met(meet(p.of(Role::helper), with_identity(p.of(Role::provider), again), Role::helper));
  // Users that were invited before, and after.
  expect_met(meet(p.of(Role::helper), with_identity(p.of(Role::user), make_user(again, "bob", 7)), Role::helper));
}

TEST(Trust, a_pin_outlives_the_certificate_it_was_taken_from) {
  Parties p;
  const Identity old = p.provider;
  p.provider = renewed(old, -1);  // what the others hold has expired, what is shown has not
  expect_met(meet(with_identity(p.of(Role::provider), old), p.of(Role::user), Role::provider));
  expect_met(meet(p.of(Role::helper), p.of(Role::user), Role::helper));
}

TEST(Trust, a_foreign_party_is_refused_by_both_sides) {
  const Parties p, q;
  expect_refused(meet(p.of(Role::provider), with_identity(p.of(Role::user), q.user), Role::provider),
                 "user \"alice\": its certificate was issued by no provider", "does not trust its key or issuer");
  expect_refused(meet(p.of(Role::helper), with_identity(p.of(Role::provider), q.provider), Role::helper),
                 "provider \"acme\": its key sha256:" + q.provider.certificate.pin() + " is not trusted here",
                 "does not trust its key or issuer");
  // The wrong pin: somebody else stands where the provider is expected.
  expect_refused(meet(with_identity(p.of(Role::provider), q.provider), p.of(Role::user), Role::provider),
                 "does not trust its key or issuer", "is not trusted here");
}

TEST(Trust, no_role_can_act_as_another) {
  const Parties p;
  // A user where a provider or helper is expected.
  expect_refused(meet(with_identity(p.of(Role::provider), p.user), p.of(Role::user), Role::provider),
                 "its role does not fit", "says user, expected provider");
  expect_refused(meet(p.of(Role::helper), p.of(Role::user), Role::provider), "its role does not fit",
                 "says helper, expected provider");
  // A user who makes a provider's certificate for its own key.
  const Identity forged = make_identity(Role::provider, "acme", 7);
  expect_refused(meet(p.of(Role::helper), with_identity(p.of(Role::user), forged), Role::helper), "is not trusted here",
                 "does not trust");
  // One whose key is trusted as another role's.
  Parties swapped;
  swapped.helper = p.provider;
  expect_refused(meet(swapped.of(Role::helper), p.of(Role::provider), Role::provider),
                 "its key is trusted as a helper's", "its role does not fit");
  // A certificate that a user issues is none.
  Parties q;
  q.provider.key = q.user.key;
  expect_refused(
      meet(q.of(Role::helper), with_identity(q.of(Role::user), make_user(q.provider, "mallory", 7)), Role::helper),
      "was issued by no provider", "does not trust");
}

TEST(Trust, what_has_expired_is_refused_with_its_date) {
  Parties p;
  p.user = make_user(p.provider, "alice", -1);
  expect_refused(meet(p.of(Role::provider), p.of(Role::user), Role::provider),
                 "its certificate expired on " + p.user.certificate.last_day(), "its certificate has expired");
  p.helper = renewed(p.helper, -1);
  expect_refused(meet(p.of(Role::helper), p.of(Role::provider), Role::helper), "its certificate has expired",
                 "helper \"neutral\": its certificate expired on");
}

TEST(Trust, the_withdrawn_are_refused_with_the_reason) {
  const Parties p;
  Credentials provider = p.of(Role::provider);
  provider.trust.withdrawn = [](const Peer& peer) { return peer.name == "alice" ? "its invite was revoked" : ""; };
  expect_refused(meet(provider, p.of(Role::user), Role::provider), "user \"alice\": its invite was revoked",
                 "its invite is revoked, replaced or unknown");
  expect_met(meet(provider, with_identity(p.of(Role::user), make_user(p.provider, "bob", 7)), Role::provider));
}

TEST(Certificate, round_trips_as_text_and_refuses_what_is_none) {
  const Parties p;
  const Certificate read = Certificate::parse(p.user.certificate.pem(), "file");
  EXPECT_EQ(read.role(), Role::user);
  EXPECT_EQ(read.name(), "alice");
  EXPECT_EQ(read.pem(), p.user.certificate.pem());
  EXPECT_EQ(identity_of(read, key_pem(p.user), "key").certificate.pin(), read.pin());
  for (const std::string& bad :
       {std::string(), std::string("nonsense"), key_pem(p.user), p.user.certificate.pem().substr(0, 200)}) {
    EXPECT_THROW(Certificate::parse(bad, "file"), Error);
    EXPECT_NO_THROW(read.pem());
  }
  for (const std::string& bad : {std::string(), std::string("nonsense"), p.user.certificate.pem(), key_pem(p.helper)}) {
    EXPECT_THROW(identity_of(read, bad, "key"), Error);
  }
}

// Whoever holds a certificate can write it in a second way, without any key.
TEST(Trust, a_certificate_with_the_other_form_of_its_signature_is_the_same_party) {
  const Parties p;
  const Certificate other = with_other_signature(p.user.certificate);
  EXPECT_NE(other.pem(), p.user.certificate.pem());
  EXPECT_TRUE(other.signed_by(p.provider.certificate));
  const Trust::Verdict one = p.trust().judge(p.user.certificate), two = p.trust().judge(other);
  EXPECT_EQ(one.reason + two.reason, "");
  EXPECT_EQ(one.peer.key, two.peer.key);
  EXPECT_EQ(one.peer.key, p.user.certificate.pin());
  EXPECT_NE(one.peer.key, p.trust().judge(make_user(p.provider, "alice", 7).certificate).peer.key);
  expect_met(meet(p.of(Role::provider), with_identity(p.of(Role::user), {other, p.user.key}), Role::provider));
}

TEST(Certificate, names_are_safe_in_file_names) {
  for (const char* good : {"a", "alice", "a.b-c_9"}) EXPECT_TRUE(is_party_name(good)) << good;
  for (const char* bad : {"", ".", "..", "-a", "a/b", "a b", "a\n", "\xc3\xa9"})
    EXPECT_FALSE(is_party_name(bad)) << bad;
  EXPECT_TRUE(is_party_name(std::string(64, 'a')));
  EXPECT_FALSE(is_party_name(std::string(65, 'a')));
}

}  // namespace
}  // namespace permllm::test
