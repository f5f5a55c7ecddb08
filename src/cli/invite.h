// The command `permllm invite`: lets a user in by a file of its own, says what users have used, grants more, and lets one in no more.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <string>

#include "service/identity.h"
#include "user/invite.h"

namespace permllm {

// Issues a certificate of the provider whose directory this is and writes the record of it. helper: its certificate. Errors: usage for
// a name that is none or has an invite in force; file.
Invite make_invite(const std::filesystem::path& directory, const std::string& name, const Certificate& helper,
                   const std::string& provider_address, const std::string& helper_address, std::uint64_t tokens,
                   int days, std::uint64_t rows = UserRecord::k_no_limit, bool monthly = false);
// Errors: usage when there is none of this name.
void revoke_invite(const std::filesystem::path& directory, const std::string& name);

void add_invite(CLI::App& parent);

}  // namespace permllm
