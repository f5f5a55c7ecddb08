#include "rand/seed.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <sys/random.h>

#include <cstring>
#include <memory>

#include "permllm/error.h"

namespace permllm {

Seed::Seed(std::span<const std::uint8_t, k_bytes> bytes) { std::memcpy(bytes_.data(), bytes.data(), k_bytes); }

Seed::~Seed() { OPENSSL_cleanse(bytes_.data(), k_bytes); }

void entropy(std::span<std::uint8_t> out) {
  while (!out.empty()) {
    const ssize_t got = getrandom(out.data(), out.size(), 0);
    if (got < 0) throw Error(Code::resource, "entropy", "the operating system gave no random bytes");
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

Seed random_seed() {
  std::array<std::uint8_t, Seed::k_bytes> bytes;
  entropy(bytes);
  Seed seed{bytes};
  OPENSSL_cleanse(bytes.data(), bytes.size());
  return seed;
}

std::uint64_t random_number() {
  std::uint64_t number = 0;
  entropy({reinterpret_cast<std::uint8_t*>(&number), sizeof number});
  return number;
}

Seed derive(const Seed& seed, std::string_view domain, std::string_view binding) {
  std::unique_ptr<EVP_PKEY_CTX, decltype(&EVP_PKEY_CTX_free)> context(EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, nullptr),
                                                                      EVP_PKEY_CTX_free);
  const std::string info = std::string(domain) + '\0' + std::string(binding);
  std::array<std::uint8_t, Seed::k_bytes> out;
  std::size_t length = out.size();
  PERMLLM_ASSERT(context != nullptr && EVP_PKEY_derive_init(context.get()) == 1);
  PERMLLM_ASSERT(EVP_PKEY_CTX_set_hkdf_md(context.get(), EVP_sha256()) == 1);
  PERMLLM_ASSERT(EVP_PKEY_CTX_set1_hkdf_key(context.get(), seed.bytes().data(), Seed::k_bytes) == 1);
  PERMLLM_ASSERT(EVP_PKEY_CTX_add1_hkdf_info(context.get(), reinterpret_cast<const unsigned char*>(info.data()),
                                             static_cast<int>(info.size())) == 1);
  PERMLLM_ASSERT(EVP_PKEY_derive(context.get(), out.data(), &length) == 1 && length == out.size());
  Seed derived{out};
  OPENSSL_cleanse(out.data(), out.size());
  return derived;
}

void Hashing::Free::operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }

Hashing::Hashing(std::string_view domain) : context_(EVP_MD_CTX_new()) {
  const std::uint64_t length = domain.size();
  PERMLLM_ASSERT(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  EVP_DigestUpdate(context_.get(), &length, sizeof length);
  EVP_DigestUpdate(context_.get(), domain.data(), domain.size());
}

void Hashing::add(std::span<const std::uint8_t> data) { EVP_DigestUpdate(context_.get(), data.data(), data.size()); }

Digest Hashing::end() {
  Digest digest;
  EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
  return digest;
}

Digest hash(std::string_view domain, std::span<const std::uint8_t> data) {
  Hashing hashing(domain);
  hashing.add(data);
  return hashing.end();
}

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string digits;
  for (const std::uint8_t byte : bytes) {
    digits += "0123456789abcdef"[byte >> 4];
    digits += "0123456789abcdef"[byte & 15];
  }
  return digits;
}

std::string hash_hex(std::string_view domain, std::span<const std::uint8_t> data) { return hex(hash(domain, data)); }

}  // namespace permllm
