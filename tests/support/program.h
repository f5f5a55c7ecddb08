// The program as a person runs it.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "base/temporary_directory.h"

namespace permllm::test {

struct Result {
  int status;
  std::string out, error;
};

// Arguments are quoted for the shell: none holds a quote. before: what the shell does ahead of the program, like "echo x | ".
inline Result run(const std::vector<std::string>& arguments, const std::string& before = "") {
  const auto errors = std::filesystem::temp_directory_path() / ("permllm-e2e-" + std::to_string(getpid()));
  std::string command = before + PERMLLM_BINARY;
  for (const std::string& argument : arguments) command += " '" + argument + "'";
  command += " 2>" + errors.string();
  FILE* pipe = popen(command.c_str(), "r");
  Result result;
  std::array<char, 4096> chunk;
  for (std::size_t got; (got = fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) result.out.append(chunk.data(), got);
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  std::ifstream in(errors);
  result.error.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  std::filesystem::remove(errors);
  return result;
}

// The same for what has to succeed; and nothing prints a key.
inline Result permllm(const std::vector<std::string>& arguments, const std::string& before = "") {
  const Result result = run(arguments, before);
  EXPECT_EQ(result.status, 0) << result.error;
  EXPECT_EQ((result.out + result.error).find("PRIVATE KEY"), std::string::npos);
  return result;
}

inline std::vector<nlohmann::json> events(const std::string& out) {
  std::vector<nlohmann::json> all;
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
  return all;
}

// A directory of its own for each test.
class Scratch {
 public:
  const std::filesystem::path& path() const { return folder_.path(); }
  std::filesystem::path operator/(const std::string& name) const { return folder_.path() / name; }

 private:
  TemporaryDirectory folder_;
};

inline void write_text(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }
inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace permllm::test
