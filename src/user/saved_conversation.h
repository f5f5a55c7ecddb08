// A conversation as a file, to go on with another day: JSON, or that encrypted under a passphrase.
//
//   plain:      {"format": "permllm-conversation", "version": 1, "system": TEXT, "messages": [{"role": "user" | "assistant", "content": TEXT}, ...]}
//   encrypted:  header, ciphertext as long as the plain text, tag (16 bytes); AES-256-GCM with the header as its associated data
//   header:     "PERMLLMC" (8), version 1 (1), log2 of scrypt's N (1), its r (1) and p (1), salt (16), nonce (12)
//   key:        scrypt of the passphrase's bytes (RFC 7914), 32 bytes; salt and nonce are drawn afresh for each file, so a key serves one file
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "permllm/client.h"

namespace permllm {

struct SavedConversation {
  std::string system;             // empty: as the model's template has it
  std::vector<Message> messages;  // question and answer by turns, role and content alone
};

inline constexpr int k_saved_conversation_version = 1;
// log2 of N: 128 MB of memory and about half a second for each guess at a passphrase.
inline constexpr int k_scrypt_cost = 17;

// passphrase: empty: not encrypted.
std::string to_file(const SavedConversation& saved, std::string_view passphrase, int scrypt_cost = k_scrypt_cost);
bool is_encrypted(std::string_view file);
// The passphrase of a file that is not encrypted plays no part. Errors: file (naming `name`), for a wrong passphrase, a file that was damaged or changed,
// one of another version, or one that is no conversation.
SavedConversation from_file(std::string_view file, std::string_view passphrase, const std::string& name);

}  // namespace permllm
