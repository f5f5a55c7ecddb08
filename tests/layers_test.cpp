// A lower layer never includes a higher one.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>

namespace {

TEST(Layers, a_lower_layer_never_includes_a_higher_one) {
  const std::map<std::string, int> rank{{"base", 0}, {"ring", 1}, {"rand", 1}, {"wire", 2}, {"net", 2}, {"he", 3}, {"protocol", 3},
                                        {"offline", 4}, {"model", 4}, {"engine", 5}, {"app", 6}};
  const std::filesystem::path source = std::filesystem::path(PERMLLM_SOURCE_DIR) / "src";
  const std::regex include("^#include \"([a-z]+)/.*");
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(source)) {
    if (!entry.is_regular_file()) continue;
    ++files;
    const std::string layer = std::filesystem::relative(entry.path(), source).begin()->string();
    ASSERT_TRUE(rank.contains(layer)) << entry.path() << " is in no layer";
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      std::smatch match;
      if (!std::regex_match(line, match, include) || match[1] == "permllm") continue;
      ASSERT_TRUE(rank.contains(match[1])) << entry.path() << ": " << line;
      EXPECT_LE(rank.at(match[1]), rank.at(layer)) << entry.path() << ": " << line;
    }
  }
  EXPECT_GT(files, 40u);
}

}  // namespace
