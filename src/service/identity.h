// A party's directory: certificate.pem, key.pem, peers/*.pem (certificates of the parties that it trusts) and, of a provider,
// users/NAME.toml (one for each invite).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "net/certificates.h"

namespace permllm {

// Makes the directory with a new key. Errors: usage for a name that is none; file when there is a key already.
Identity create_identity(const std::filesystem::path& directory, Role role, const std::string& name, int days);
// Errors: file, naming what is missing, damaged or open to others; usage when it is the directory of another role.
Identity load_identity(const std::filesystem::path& directory, Role role);
// The identity and whom it trusts, as the files are now: the peers; their users, too, at a helper; at a provider, the users that it
// invited and has not revoked. Errors: as load_identity.
Credentials load_credentials(const std::filesystem::path& directory, Role role);
// Errors: file.
std::vector<Certificate> load_peers(const std::filesystem::path& directory);

// What a provider remembers of an invite.
struct UserRecord {
  std::string name;
  std::string
      key;  // Peer::key; empty: a record of version 1, which knew the user by its certificate and lets nobody in any more
  std::uint64_t tokens = 0;         // of answers, that are granted
  std::uint64_t rows = k_no_limit;  // likewise (docs/operations.md, "Tokens and rows")
  bool monthly = false;             // both in each month, not ever
  std::string last_day;             // of the invite, like 2027-01-31; the certificate may end sooner
  bool revoked = false;             // also where there is no key
  static constexpr std::uint64_t k_no_limit = UINT64_MAX, k_most = 1'000'000'000'000'000;
  bool ended() const;
};
// Days of UTC, like 2027-01-31: this one, and so many after another.
std::string today();
std::string day_after(const std::string& day, int days);
std::filesystem::path record_path(const std::filesystem::path& directory, const std::string& name);
// Of all records, in order.
std::vector<std::filesystem::path> record_paths(const std::filesystem::path& directory);
// Also of earlier versions. Errors: file, naming the key.
UserRecord load_record(const std::filesystem::path& path);
void save_record(const std::filesystem::path& directory, const UserRecord& record);

// A party's directory under a running service: what was read of its files holds until they change, and the next call sees that. Thread-safe.
class LiveDirectory {
 public:
  LiveDirectory(std::filesystem::path directory, Role role);
  ~LiveDirectory();
  // As load_credentials. The identity is the same object as long as no file of identity and peers has changed.
  Credentials credentials() const;
  // As load_record of record_path.
  UserRecord record(const std::string& name) const;

 private:
  struct Records;
  struct State;
  const std::filesystem::path directory_;
  const Role role_;
  const std::shared_ptr<Records> records_;  // credentials ask it, too, wherever they are
  const std::unique_ptr<State> state_;
};

}  // namespace permllm
