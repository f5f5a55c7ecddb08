#include "user/user_state.h"

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
  if (const std::string state = variable("XDG_STATE_HOME"); !state.empty())
    return std::filesystem::path(state) / "permllm";
  if (const std::string home = variable("HOME"); !home.empty())
    return std::filesystem::path(home) / ".local/state/permllm";
  throw Error(Code::usage, "state", "name a folder: there is no HOME");
}

}  // namespace

std::filesystem::path user_folder(const std::string& state) {
  std::filesystem::path folder = state.empty() ? usual_folder() : std::filesystem::path(state);
  make_private_folder(folder);
  return folder;
}

std::filesystem::path user_products(const std::string& state) { return user_folder(state) / "products"; }

Ledger user_ledger(const std::string& state) { return Ledger(user_folder(state) / "ledger.sqlite"); }

}  // namespace permllm
