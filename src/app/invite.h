// An invite: one file that lets one user in, with all that it needs to take part.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <string>

#include "app/identity.h"

namespace permllm {

struct Invite {
  std::string provider_address, provider_pin;
  std::string helper_address, helper_pin;
  std::uint64_t tokens = 0;  // of answers that the user may have
  Identity identity;         // the user's

  // The user's: it trusts the two pins.
  Credentials credentials() const;
};

// Issues a certificate of the provider whose directory this is and writes the record of it. helper: its certificate. Errors: usage for
// a name that is none or has an invite in force; file.
Invite make_invite(const std::filesystem::path& directory, const std::string& name, const Certificate& helper, const std::string& provider_address,
                   const std::string& helper_address, std::uint64_t tokens, int days);
// Errors: usage when there is none of this name.
void revoke_invite(const std::filesystem::path& directory, const std::string& name);

// Errors: file, naming the key of the file; unsupported for another version.
Invite load_invite(const std::filesystem::path& path);
// Makes the file, for its owner alone; never overwrites one.
void save_invite(const Invite& invite, const std::filesystem::path& path);

// The command `permllm invite`.
void add_invite(CLI::App& parent);

}  // namespace permllm
