// What a user keeps between conversations: the ledger of its chains, with their seeds.
#pragma once

#include <filesystem>
#include <string>

#include "session/ledger.h"

namespace permllm {

// ConversationOptions::next_prompt where a person or a page asks: as long as most further questions are.
inline constexpr std::size_t k_next_prompt = 32;

// The folder of that name, made where there is none; empty: permllm in the user's folder for state (XDG base directories). Errors: those of
// make_private_folder.
std::filesystem::path user_folder(const std::string& state);
// The ledger in it. Errors: likewise, and the ledger's.
Ledger user_ledger(const std::string& state);
// The keys for the check of products in it. Errors: those of user_folder.
std::filesystem::path user_products(const std::string& state);

}  // namespace permllm
