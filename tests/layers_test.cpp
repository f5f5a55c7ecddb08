// Who may include whom: the folders of src stand in an order, and none includes one above it. The linker checks the same by storey (CMakeLists.txt).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

namespace {

// From below.
const std::vector<std::string> k_order{"base",     "ring",   "rand",    "wire",       "net",     "he",    "protocol",
                                       "template", "model",  "plan",    "page",       "session", "audit", "user",
                                       "provider", "helper", "service", "structured", "gateway", "mpi",   "cli"};

std::size_t rank_of(const std::string& folder) {
  return static_cast<std::size_t>(std::find(k_order.begin(), k_order.end(), folder) - k_order.begin());
}

// Why a file of one folder may not include one of another; empty: it may.
std::string objection(const std::string& from, const std::string& to) {
  const std::array<std::string, 3> parties{"user", "provider", "helper"};
  const auto is_party = [&](const std::string& folder) {
    return std::find(parties.begin(), parties.end(), folder) != parties.end();
  };
  if (rank_of(from) == k_order.size()) return from + " has no place in the order";
  if (rank_of(to) == k_order.size()) return to + " has no place in the order";
  if (rank_of(to) > rank_of(from)) return to + " stands above " + from;
  if (from != to && is_party(from) && is_party(to)) return "the parties know nothing of each other";
  if (from == "gateway" && to != "user" && is_party(to)) return "the gateway is the user's";
  if (to == "cli" && from != "cli") return "nothing includes the command line";
  return "";
}

TEST(Layers, objections) {
  EXPECT_EQ(objection("cli", "base"), "");
  EXPECT_EQ(objection("gateway", "user"), "");
  for (const auto& [from, to] : {std::pair{"base", "ring"},
                                 {"wire", "net"},
                                 {"user", "service"},
                                 {"helper", "provider"},
                                 {"provider", "user"},
                                 {"gateway", "helper"},
                                 {"gateway", "provider"},
                                 {"service", "cli"},
                                 {"app", "base"},
                                 {"base", "app"}}) {
    EXPECT_NE(objection(from, to), "") << from << " " << to;
  }
}

TEST(Layers, no_folder_includes_one_above_it_and_no_party_another) {
  const std::filesystem::path source = std::filesystem::path(PERMLLM_SOURCE_DIR) / "src";
  const std::regex include("^ *# *include *\"(([a-z_]+)/.*)\".*");
  std::size_t files = 0, includes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(source)) {
    if (!entry.is_regular_file()) continue;
    ++files;
    const std::string folder = std::filesystem::relative(entry.path(), source).begin()->string();
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      std::smatch match;
      if (!std::regex_match(line, match, include) || match[2] == "permllm") continue;
      ++includes;
      EXPECT_EQ(objection(folder, match[2]), "") << entry.path() << ": " << line;
      EXPECT_TRUE(std::filesystem::exists(source / match[1].str())) << entry.path() << ": " << line;
    }
  }
  EXPECT_GT(files, 200u);
  EXPECT_GT(includes, 600u);
}

// clang knows what the mutex of base/mutex.h guards, and nothing of the library's.
TEST(Layers, no_mutex_is_unchecked) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(PERMLLM_SOURCE_DIR "/src")) {
    if (!entry.is_regular_file() || entry.path().filename() == "mutex.h") continue;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      EXPECT_EQ(line.find("std::mutex"), std::string::npos) << entry.path() << ": " << line;
      EXPECT_EQ(line.find("std::shared_mutex"), std::string::npos) << entry.path() << ": " << line;
    }
  }
}

}  // namespace
