// An invite: one file that lets one user in, with all that it needs to take part.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "net/certificates.h"

namespace permllm {

struct Invite {
  std::string provider_address, provider_pin;
  std::string helper_address, helper_pin;
  std::uint64_t tokens = 0;  // of answers that the user may have
  Identity identity;         // the user's

  // The user's: it trusts the two pins.
  Credentials credentials() const;
};

// Errors: file, naming the key of the file; unsupported for another version.
Invite load_invite(const std::filesystem::path& path);
// Makes the file, for its owner alone; never overwrites one.
void save_invite(const Invite& invite, const std::filesystem::path& path);

}  // namespace permllm
