// Who a party is: a certificate with its role as common name, signed by an authority that all three trust.
#pragma once

#include <openssl/types.h>

#include <filesystem>
#include <memory>
#include <string>

#include "permllm/error.h"

namespace permllm {

// PEM texts.
struct Identity {
  std::string certificate, key, authority;
};

// Reads certificate.pem, key.pem and ca.pem of a directory. Errors: file.
Identity load_identity(const std::filesystem::path& directory);
// Writes them; the key's file is readable by its owner alone.
void save_identity(const Identity& identity, const std::filesystem::path& directory);

// A throw-away certificate authority (P-256), made on the spot; its key is never written.
class Authority {
 public:
  Authority();
  ~Authority();
  Identity issue(Role role) const;

 private:
  std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key_;
  std::unique_ptr<X509, void (*)(X509*)> certificate_;
};

}  // namespace permllm
