#include "net/certificates.h"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "rand/seed.h"

namespace permllm {
namespace {

using Key = std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)>;
using Certificate = std::unique_ptr<X509, void (*)(X509*)>;

constexpr long k_valid_seconds = 7 * 24 * 3600;

Key make_key() {
  Key key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  PERMLLM_ASSERT(key != nullptr);
  return key;
}

void add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  PERMLLM_ASSERT(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

// A certificate for `key` with common name `name`; self-signed when issuer is null.
Certificate make_certificate(const char* name, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key) {
  Certificate certificate(X509_new(), X509_free);
  X509* x = certificate.get();
  PERMLLM_ASSERT(x != nullptr);
  X509_set_version(x, X509_VERSION_3);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), random_number() >> 1);
  X509_gmtime_adj(X509_getm_notBefore(x), -300);
  X509_gmtime_adj(X509_getm_notAfter(x), k_valid_seconds);
  X509_set_pubkey(x, key);
  X509_NAME* subject = X509_get_subject_name(x);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
  X509_set_issuer_name(x, issuer == nullptr ? subject : X509_get_subject_name(issuer));
  if (issuer == nullptr) {
    add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
    add_extension(x, x, NID_key_usage, "critical,keyCertSign");
  } else {
    add_extension(x, issuer, NID_basic_constraints, "critical,CA:FALSE");
    add_extension(x, issuer, NID_key_usage, "critical,digitalSignature");
  }
  PERMLLM_ASSERT(X509_sign(x, issuer_key, EVP_sha256()) > 0);
  return certificate;
}

template <class Write>
std::string pem(Write write) {
  std::unique_ptr<BIO, decltype(&BIO_free)> memory(BIO_new(BIO_s_secmem()), BIO_free);
  PERMLLM_ASSERT(memory != nullptr && write(memory.get()) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &data);
  return std::string(data, static_cast<std::size_t>(size));
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in || text.str().empty()) throw Error(Code::file, path.string(), "cannot be read");
  return text.str();
}

void write_file(const std::filesystem::path& path, const std::string& text) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const bool written = file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (file >= 0) close(file);
  if (!written) throw Error(Code::file, path.string(), "cannot be written");
}

}  // namespace

Identity load_identity(const std::filesystem::path& directory) {
  return {read_file(directory / "certificate.pem"), read_file(directory / "key.pem"), read_file(directory / "ca.pem")};
}

void save_identity(const Identity& identity, const std::filesystem::path& directory) {
  write_file(directory / "certificate.pem", identity.certificate);
  write_file(directory / "key.pem", identity.key);
  write_file(directory / "ca.pem", identity.authority);
}

Authority::Authority() : key_(make_key()), certificate_(nullptr, X509_free) {
  certificate_ = make_certificate("permllm authority", key_.get(), nullptr, key_.get());
}

Authority::~Authority() = default;

Identity Authority::issue(Role role) const {
  const Key key = make_key();
  const Certificate certificate = make_certificate(name_of(role), key.get(), certificate_.get(), key_.get());
  const auto text = [](X509* x) { return pem([&](BIO* out) { return PEM_write_bio_X509(out, x); }); };
  return {text(certificate.get()), pem([&](BIO* out) {
            return PEM_write_bio_PrivateKey(out, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
          }),
          text(certificate_.get())};
}

}  // namespace permllm
