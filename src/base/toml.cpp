#include "base/toml.h"

#include <fmt/format.h>

#include <algorithm>

#include "permllm/error.h"

namespace permllm {

toml::table parse_toml(const std::string& text, const std::filesystem::path& path) {
  try {
    return toml::parse(text, path.string());
  } catch (const toml::parse_error& error) {
    // The library's text may quote the file, which may hold a key.
    throw Error(Code::file, fmt::format("{}: line {}", path.string(), error.source().begin.line), "is not TOML");
  }
}

TomlTable TomlTable::parse(const std::string& text, const std::filesystem::path& path) {
  return TomlTable(parse_toml(text, path), path.string() + ": ");
}

std::string TomlTable::field(const char* key) const { return prefix_ + key; }

const toml::node& TomlTable::node(const char* key, const char* kind) {
  known_.emplace_back(key);
  const toml::node* found = table_.get(key);
  if (found == nullptr) throw Error(Code::file, field(key), fmt::format("is missing, expected {}", kind));
  return *found;
}

std::string TomlTable::text(const char* key) {
  if (const auto* value = node(key, "a text").as_string()) return value->get();
  throw Error(Code::file, field(key), "is no text in quotes");
}

std::uint64_t TomlTable::number(const char* key) {
  const auto* value = node(key, "a number").as_integer();
  if (value != nullptr && value->get() >= 0) return static_cast<std::uint64_t>(value->get());
  throw Error(Code::file, field(key), "is no whole number from 0");
}

TomlTable TomlTable::table(const char* key) {
  if (const auto* value = node(key, "a table").as_table()) return TomlTable(*value, field(key) + ".");
  throw Error(Code::file, field(key), "is no table");
}

void TomlTable::no_more() const {
  for (const auto& [key, value] : table_) {
    if (std::find(known_.begin(), known_.end(), key.str()) == known_.end()) {
      throw Error(Code::file, field(std::string(key.str()).c_str()), "is not known; remove it");
    }
  }
}

}  // namespace permllm
