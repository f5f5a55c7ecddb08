// What a user keeps between conversations: the ledger of its chains, with their seeds.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "engine/ledger.h"

namespace permllm {

// ConversationOptions::next_prompt where a person or a page asks: as long as most further questions are.
inline constexpr std::size_t k_next_prompt = 32;

// --state
void add_user_state(CLI::App& command, std::string& state);
// The folder of that name, made where there is none; empty: permllm in the user's folder for state (XDG base directories). Errors: those of
// make_private_folder.
std::filesystem::path user_folder(const std::string& state);
// The ledger in it. Errors: likewise, and the ledger's.
Ledger user_ledger(const std::string& state);

}  // namespace permllm
