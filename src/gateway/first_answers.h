// What a provider's models said first to prompts whose answers are not known beforehand. docs/serve.md, "Canaries".
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace permllm {

// Not thread-safe. Other programs may use the same folder: what is kept is read anew each time, and the first answer stays.
class FirstAnswers {
 public:
  using Tokens = std::vector<std::string>;  // bytes as hex; empty: there was none that is sure to come again

  // A file of the folder has those of the provider of this key, which the user trusts by it: 64 hex digits, as Client::Party has it. What a provider calls
  // its models tells them apart within the file. An empty folder: they are in memory.
  FirstAnswers(const std::filesystem::path& folder, const std::string& provider, std::string model);

  // Errors of all: file, where the file is damaged or cannot be read, and of keep, where it cannot be written.
  std::optional<Tokens> find(const std::string& prompt) const;
  void keep(const std::string& prompt, const Tokens& answer);
  // The models of which there are any.
  std::vector<std::string> models() const;

 private:
  using All = std::map<std::string, std::map<std::string, Tokens>>;  // by model and prompt
  All read() const;

  const std::filesystem::path file_;
  const std::string model_;
  All in_memory_;
};

}  // namespace permllm
