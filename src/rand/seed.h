// Secret seeds, the one entropy source, and their derivation (HKDF-SHA256, RFC 5869).
#pragma once

#include <openssl/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace permllm {

// 32 secret bytes, zeroed when dropped.
class Seed {
 public:
  static constexpr std::size_t k_bytes = 32;
  Seed() : bytes_{} {}
  explicit Seed(std::span<const std::uint8_t, k_bytes> bytes);
  Seed(const Seed&) = default;
  Seed& operator=(const Seed&) = default;
  ~Seed();
  std::span<const std::uint8_t, k_bytes> bytes() const { return bytes_; }

 private:
  std::array<std::uint8_t, k_bytes> bytes_;
};

// Reads the operating system's entropy: the only function of the project that does.
void entropy(std::span<std::uint8_t> out);
Seed random_seed();
std::uint64_t random_number();

// HKDF-SHA256 of `seed`: `domain` names the purpose (rand/domains.h), `binding` what the result is bound to.
Seed derive(const Seed& seed, std::string_view domain, std::string_view binding);

// SHA-256 of domain, length-prefixed, and the data.
using Digest = std::array<std::uint8_t, 32>;
Digest hash(std::string_view domain, std::span<const std::uint8_t> data);
// The same of data that comes piece by piece.
class Hashing {
 public:
  explicit Hashing(std::string_view domain);
  void add(std::span<const std::uint8_t> data);
  Digest end();

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const;
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};
std::string hex(std::span<const std::uint8_t> bytes);
// The hash in 64 hex digits.
std::string hash_hex(std::string_view domain, std::span<const std::uint8_t> data);

}  // namespace permllm
