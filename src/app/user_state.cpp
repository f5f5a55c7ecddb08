#include "app/user_state.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "permllm/error.h"

namespace permllm {
namespace {

std::filesystem::path usual_folder() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const std::string state = variable("XDG_STATE_HOME"); !state.empty()) return std::filesystem::path(state) / "permllm";
  if (const std::string home = variable("HOME"); !home.empty()) return std::filesystem::path(home) / ".local/state/permllm";
  throw Error(Code::usage, "--state", "name a folder: there is no HOME");
}

}  // namespace

void add_user_state(CLI::App& command, std::string& state) {
  command.add_option("--state", state, "folder of what is kept between conversations: which offline material is there and which is used (holds secrets; "
                                       "by default permllm in the user's folder for state)");
}

std::filesystem::path user_folder(const std::string& state) {
  std::filesystem::path folder = state.empty() ? usual_folder() : std::filesystem::path(state);
  make_private_folder(folder);
  return folder;
}

Ledger user_ledger(const std::string& state) { return Ledger(user_folder(state) / "ledger.sqlite"); }

}  // namespace permllm
