#include "cli/saved_chats.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/small_file.h"
#include "permllm/error.h"
#include "user/user_state.h"

namespace permllm {
namespace {

constexpr std::size_t k_most_bytes = 64 << 20;
constexpr unsigned k_own = 0600;

std::filesystem::path folder_of(const std::string& folder, const std::string& state) {
  if (folder.empty()) return std::filesystem::canonical(user_folder(state)) / "saved";
  if (type_of(folder) != std::filesystem::file_type::directory)
    throw Error(Code::usage, "--saves", fmt::format("{} is no folder", folder));
  return std::filesystem::canonical(folder);
}

std::string markdown(const SavedConversation& conversation) {
  std::string text;
  for (const Message& message : conversation.messages)
    text += fmt::format("## {}\n\n{}\n\n", message.role == "user" ? "Question" : "Answer", message.content);
  return text;
}

}  // namespace

SavedChats::SavedChats(const std::string& folder, const std::string& state, const std::string& passphrase_file)
    : folder_(folder_of(folder, state)), own_(folder.empty()) {
  if (passphrase_file.empty()) return;
  std::string text = read_small_file(passphrase_file, true);
  while (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
  if (text.empty()) throw Error(Code::usage, "--passphrase-file", fmt::format("{} is empty", passphrase_file));
  passphrase_ = std::move(text);
}

std::filesystem::path SavedChats::place_of(const std::string& name, const char* command) const {
  const std::filesystem::path place = (folder_ / name).lexically_normal();
  const std::filesystem::path within = place.lexically_relative(folder_);
  if (within.empty() || *within.begin() == ".." || *within.begin() == ".") {
    const bool reads = std::string_view(command) == "/load";
    throw Error(Code::usage, command,
                fmt::format("{} {} alone; name another folder with --saves when chat begins",
                            reads ? "reads from" : "writes into", folder_.string()));
  }
  return place;
}

std::string SavedChats::save(const std::string& name, const SavedConversation& conversation, const Ask& ask) {
  const std::filesystem::path place = place_of(name, "/save");
  if (own_) make_private_folder(folder_);
  if (place.extension() == ".md") {
    write_new_file(place, markdown(conversation), k_own);
    return fmt::format("(saved in {})\n", place.string());
  }
  const auto known = known_.find(place);
  if (known == known_.end() && is_there(place))
    throw Error(Code::file, place.string(), "exists and is not overwritten; /load it to go on with it");
  const std::string passphrase = passphrase_             ? *passphrase_
                                 : known != known_.end() ? known->second
                                                         : ask(true).value_or("");
  const std::string file = to_file(conversation, passphrase);
  known == known_.end() ? write_new_file(place, file, k_own) : replace_file(place, file, k_own);
  known_[place] = passphrase;
  return fmt::format("(saved in {}, {})\n", place.string(), passphrase.empty() ? "not encrypted" : "encrypted");
}

SavedConversation SavedChats::load(const std::string& name, const Ask& ask) {
  const std::filesystem::path place = place_of(name, "/load");
  const std::string file = read_small_file(place, false, k_most_bytes);
  std::string passphrase;
  if (is_encrypted(file)) {
    const std::optional<std::string> given = passphrase_ ? passphrase_ : ask(false);
    if (!given) throw Error(Code::file, place.string(), "is encrypted; --passphrase-file names its passphrase");
    passphrase = *given;
  } else if (passphrase_) {  // another may have put it in the place of one that was
    throw Error(Code::file, place.string(),
                "is not encrypted, and --passphrase-file says that saved conversations are; begin chat without it to "
                "read this one");
  }
  SavedConversation conversation = from_file(file, passphrase, place.string());
  known_[place] = passphrase;
  return conversation;
}

std::vector<std::string> SavedChats::names() const {
  std::vector<std::string> all;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, none)) {
    if (entry.is_regular_file(none) && entry.path().extension() != ".md") all.push_back(entry.path().filename());
  }
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace permllm
