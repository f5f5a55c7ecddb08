// TOML files with errors that name the file and the key.
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace permllm {

// A table whose keys are all known: each is asked for by name, and the rest refused.
class TomlTable {
 public:
  // Errors: file, with the line, when the text is no TOML.
  static TomlTable parse(const std::string& text, const std::filesystem::path& path);

  // Each marks its key as known. Errors: file, when the key is missing or of another kind.
  std::string text(const char* key);
  std::uint64_t number(const char* key);
  TomlTable table(const char* key);
  // Errors: file, naming the first key that nobody asked for.
  void no_more() const;
  // "FILE: table.key"
  std::string field(const char* key) const;

 private:
  TomlTable(toml::table table, std::string prefix) : table_(std::move(table)), prefix_(std::move(prefix)) {}
  const toml::node& node(const char* key, const char* kind);

  toml::table table_;
  std::string prefix_;  // of the keys in errors
  std::vector<std::string> known_;
};

// A parse, or an Error as above.
toml::table parse_toml(const std::string& text, const std::filesystem::path& path);

}  // namespace permllm
