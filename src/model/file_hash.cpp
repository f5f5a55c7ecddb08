#include "model/file_hash.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <memory>

#include "base/mapped_file.h"
#include "permllm/error.h"

namespace permllm {

std::string sha256_hex(std::span<const FileBytes> files) {
  constexpr std::size_t k_step = std::size_t{16} << 20;
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  PERMLLM_ASSERT(context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1);
  for (const FileBytes& file : files) {
    for (std::size_t at = 0; at < file.bytes.size(); at += k_step) {
      const auto step = file.bytes.subspan(at, std::min(k_step, file.bytes.size() - at));
      PERMLLM_ASSERT(EVP_DigestUpdate(context.get(), step.data(), step.size()) == 1);
      if (file.mapped) let_go(step);
    }
  }
  std::uint8_t digest[32];
  PERMLLM_ASSERT(EVP_DigestFinal_ex(context.get(), digest, nullptr) == 1);
  std::string hex;
  for (const std::uint8_t byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

}  // namespace permllm
