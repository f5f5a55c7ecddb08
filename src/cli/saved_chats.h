// Conversations in a folder of their owner: what /save and /load do.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "user/saved_conversation.h"

namespace permllm {

class SavedChats {
 public:
  // A passphrase that someone types; none: there is nobody to ask. `again`: it is a new one, and asked for twice.
  using Ask = std::function<std::optional<std::string>(bool again)>;
  // folder: one that is there, or empty: `saved` in that of the user's state, made when it is wanted. passphrase_file: of all files, in place of asking;
  // empty: none. Errors: usage (field --saves, --passphrase-file), file.
  SavedChats(const std::string& folder, const std::string& state, const std::string& passphrase_file);
  const std::filesystem::path& folder() const { return folder_; }

  // A name may be a path within the folder. One that ends in .md: Markdown, to read. Any other: to load again, encrypted where there is a passphrase; one
  // that was saved or loaded before is replaced, under the passphrase that it has. Returns what there is to tell. Errors: usage (a place outside), file.
  std::string save(const std::string& name, const SavedConversation& conversation, const Ask& ask);
  SavedConversation load(const std::string& name, const Ask& ask);
  // Names that load() takes.
  std::vector<std::string> names() const;

 private:
  std::filesystem::path place_of(const std::string& name, const char* command) const;
  std::filesystem::path folder_;
  bool own_;  // in that of the state
  std::optional<std::string> passphrase_;
  std::map<std::filesystem::path, std::string> known_;  // what was saved or loaded, and its passphrase
};

}  // namespace permllm
