#include "net/certificates.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cctype>
#include <ctime>

#include "rand/seed.h"

namespace permllm {
namespace {

std::shared_ptr<EVP_PKEY> make_key() {
  std::shared_ptr<EVP_PKEY> key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  PERMLLM_ASSERT(key != nullptr);
  return key;
}

void add_extension(X509* certificate, int nid, const char* value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value);
  PERMLLM_ASSERT(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

// A certificate for `key`; self-signed when issuer is null.
Certificate make_certificate(Role role, const std::string& name, int days, EVP_PKEY* key, const Identity* issuer) {
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(X509_new(), X509_free);
  X509* x = certificate.get();
  PERMLLM_ASSERT(x != nullptr && is_party_name(name));
  X509_set_version(x, X509_VERSION_3);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), random_number() >> 1);
  X509_gmtime_adj(X509_getm_notBefore(x), -300);  // clocks differ
  X509_time_adj_ex(X509_getm_notAfter(x), days, 0, nullptr);
  X509_set_pubkey(x, key);
  X509_NAME* subject = X509_get_subject_name(x);
  const auto text = [](const char* value) { return reinterpret_cast<const unsigned char*>(value); };
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, text(name_of(role)), -1, -1, 0);
  X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_ASC, text(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(x, issuer == nullptr ? subject : X509_get_subject_name(issuer->certificate.get()));
  add_extension(x, NID_basic_constraints, role == Role::provider ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE");
  add_extension(x, NID_key_usage,
                role == Role::provider ? "critical,digitalSignature,keyCertSign" : "critical,digitalSignature");
  PERMLLM_ASSERT(X509_sign(x, issuer == nullptr ? key : issuer->key.get(), EVP_sha256()) > 0);
  return Certificate::of(x, "certificate");
}

std::string hex(const unsigned char* bytes, unsigned size) {
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;

Bio bio_of(std::string_view text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), BIO_free); }

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<std::size_t>(size));
}

// An entry of the subject, or nothing when there is none or more than one.
std::string entry(X509* x509, int nid) {
  X509_NAME* subject = X509_get_subject_name(x509);
  const int place = X509_NAME_get_index_by_NID(subject, nid, -1);
  if (place < 0 || X509_NAME_get_index_by_NID(subject, nid, place) >= 0) return "";
  const ASN1_STRING* value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, place));
  return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                     static_cast<std::size_t>(ASN1_STRING_length(value)));
}

// Never asks for a pass phrase on the terminal.
int no_pass_phrase(char*, int, int, void*) { return -1; }

}  // namespace

bool is_party_name(std::string_view name) {
  const auto letter = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 && static_cast<unsigned char>(c) < 128;
  };
  return !name.empty() && name.size() <= 64 && letter(name.front()) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || c == '.' || c == '-' || c == '_'; });
}

Certificate Certificate::parse(std::string_view pem, const std::string& field) {
  const std::unique_ptr<X509, decltype(&X509_free)> x509(
      PEM_read_bio_X509(bio_of(pem).get(), nullptr, no_pass_phrase, nullptr), X509_free);
  if (x509 == nullptr) throw Error(Code::file, field, "is no certificate (PEM, -----BEGIN CERTIFICATE-----)");
  return of(x509.get(), field);
}

Certificate Certificate::of(X509* x509, const std::string& field) {
  Certificate certificate;
  X509_up_ref(x509);
  certificate.x509_ = std::shared_ptr<X509>(x509, X509_free);
  const std::string role = entry(x509, NID_commonName);
  const auto roles = {Role::provider, Role::user, Role::helper};
  const auto found = std::find_if(roles.begin(), roles.end(), [&](Role r) { return role == name_of(r); });
  if (found == roles.end()) throw Error(Code::file, field, "its common name is no role: provider, helper or user");
  certificate.role_ = *found;
  certificate.name_ = entry(x509, NID_organizationName);
  if (!is_party_name(certificate.name_)) throw Error(Code::file, field, "its organisation is no party's name");
  if (X509_get0_pubkey(x509) == nullptr) throw Error(Code::file, field, "its key is of no kind that is known");
  if (ASN1_TIME_check(X509_get0_notBefore(x509)) != 1 || ASN1_TIME_check(X509_get0_notAfter(x509)) != 1) {
    throw Error(Code::file, field, "its validity is written as no time");
  }
  return certificate;
}

std::string Certificate::pin() const {
  unsigned char* der = nullptr;
  const int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x509_.get()), &der);
  PERMLLM_ASSERT(size > 0);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  PERMLLM_ASSERT(EVP_Digest(der, static_cast<std::size_t>(size), digest, &length, EVP_sha256(), nullptr) == 1);
  OPENSSL_free(der);
  return hex(digest, length);
}

std::string Certificate::pem() const {
  const Bio memory(BIO_new(BIO_s_mem()), BIO_free);
  PERMLLM_ASSERT(PEM_write_bio_X509(memory.get(), x509_.get()) == 1);
  return text_of(memory.get());
}

std::string Certificate::last_day() const {
  std::tm time{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(x509_.get()), &time) != 1) return "unknown";
  return fmt::format("{:04}-{:02}-{:02}", time.tm_year + 1900, time.tm_mon + 1, time.tm_mday);
}

int Certificate::days_left() const {
  int days = 0, seconds = 0;
  PERMLLM_ASSERT(ASN1_TIME_diff(&days, &seconds, nullptr, X509_get0_notAfter(x509_.get())) == 1);
  return days - (seconds < 0 ? 1 : 0);
}

bool Certificate::begun() const { return X509_cmp_current_time(X509_get0_notBefore(x509_.get())) < 0; }

bool Certificate::ended() const { return X509_cmp_current_time(X509_get0_notAfter(x509_.get())) <= 0; }

bool Certificate::signed_by(const Certificate& issuer) const {
  return X509_verify(x509_.get(), X509_get0_pubkey(issuer.x509_.get())) == 1;
}

Identity make_identity(Role role, const std::string& name, int days) {
  PERMLLM_ASSERT(role != Role::user);
  auto key = make_key();
  return {make_certificate(role, name, days, key.get(), nullptr), key};
}

Identity make_user(const Identity& provider, const std::string& name, int days) {
  PERMLLM_ASSERT(provider.certificate.role() == Role::provider);
  auto key = make_key();
  return {make_certificate(Role::user, name, days, key.get(), &provider), key};
}

Identity renewed(const Identity& identity, int days) {
  PERMLLM_ASSERT(identity.certificate.role() != Role::user);
  return {make_certificate(identity.certificate.role(), identity.certificate.name(), days, identity.key.get(), nullptr),
          identity.key};
}

std::string key_pem(const Identity& identity) {
  const Bio memory(BIO_new(BIO_s_secmem()), BIO_free);  // cleared when freed
  PERMLLM_ASSERT(PEM_write_bio_PrivateKey(memory.get(), identity.key.get(), nullptr, nullptr, 0, nullptr, nullptr) ==
                 1);
  return text_of(memory.get());
}

Identity identity_of(const Certificate& certificate, std::string_view key_pem, const std::string& field) {
  const std::shared_ptr<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio_of(key_pem).get(), nullptr, no_pass_phrase, nullptr),
                                      EVP_PKEY_free);
  if (key == nullptr)
    throw Error(Code::file, field, "is no private key (PEM, -----BEGIN PRIVATE KEY-----, without a pass phrase)");
  if (X509_check_private_key(certificate.get(), key.get()) != 1)
    throw Error(Code::file, field, "is not the key of the certificate beside it");
  return {certificate, key};
}

Trust::Verdict Trust::judge(const Certificate& certificate) const {
  Verdict verdict;
  verdict.peer = {certificate.role(), certificate.name(), certificate.pin(), ""};
  const std::string who = fmt::format("{} \"{}\"", name_of(certificate.role()), certificate.name());
  const auto refuse = [&](int error, std::string reason) {
    verdict.x509_error = error;
    verdict.reason = who + ": " + std::move(reason);
    return verdict;
  };
  // Who it is comes first: a stranger is not told about dates.
  if (certificate.role() == Role::user) {
    const auto issuer =
        std::find_if(issuers.begin(), issuers.end(), [&](const Certificate& i) { return certificate.signed_by(i); });
    if (issuer == issuers.end())
      return refuse(X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT,
                    "its certificate was issued by no provider that is trusted here");
    verdict.peer.provider = issuer->pin();
  } else {
    const std::string& key = verdict.peer.key;
    const auto pin = std::find_if(pins.begin(), pins.end(), [&](const Pin& p) { return p.key == key; });
    if (pin == pins.end())
      return refuse(X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, fmt::format("its key sha256:{} is not trusted here", key));
    if (pin->role != certificate.role())
      return refuse(X509_V_ERR_CERT_REJECTED, fmt::format("its key is trusted as a {}'s", name_of(pin->role)));
    if (!certificate.signed_by(certificate))
      return refuse(X509_V_ERR_CERT_REJECTED, "its certificate is not signed by its key");
    if (certificate.role() == Role::provider) verdict.peer.provider = key;
  }
  if (!certificate.begun())
    return refuse(X509_V_ERR_CERT_NOT_YET_VALID, "its certificate is not valid yet; compare the clocks");
  const bool by_invite = certificate.role() == Role::user && ended;
  if (!by_invite && certificate.ended())
    return refuse(X509_V_ERR_CERT_HAS_EXPIRED, fmt::format("its certificate expired on {}", certificate.last_day()));
  if (certificate.role() == Role::user && withdrawn) {
    if (std::string reason = withdrawn(verdict.peer); !reason.empty())
      return refuse(X509_V_ERR_CERT_REVOKED, std::move(reason));
  }
  if (by_invite) {
    if (const std::string day = ended(verdict.peer); !day.empty())
      return refuse(X509_V_ERR_CERT_HAS_EXPIRED, fmt::format("its invite ended on {}", day));
  }
  return verdict;
}

}  // namespace permllm
