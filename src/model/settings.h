// A GGUF file's settings: keys that begin with its architecture.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "model/gguf.h"
#include "permllm/error.h"

namespace permllm {

// Errors: file, naming the key.
inline double checked(const std::string& key, double value, double least, double most) {
  if (!(value >= least && value <= most))
    throw Error(Code::file, key, fmt::format("{}, expected {} to {}", value, least, most));
  return value;
}

// Errors of all: file, naming the key, and those of Gguf; refusals: unsupported.
class Settings {
 public:
  Settings(const Gguf& file, std::string architecture) : file_(file), prefix_(std::move(architecture) + ".") {}
  std::string key(const std::string& name) const { return prefix_ + name; }
  bool has(const std::string& name) const { return file_.has(key(name)); }
  std::size_t count(const std::string& name, std::uint64_t least, std::uint64_t most) const {
    const std::uint64_t value = file_.number(key(name));
    if (value < least || value > most)
      throw Error(Code::file, key(name), fmt::format("{}, expected {} to {}", value, least, most));
    return value;
  }
  std::size_t count(const std::string& name, std::uint64_t least, std::uint64_t most, std::size_t absent) const {
    return has(name) ? count(name, least, most) : absent;
  }
  double real(const std::string& name, double least, double most) const {
    return checked(key(name), file_.real(key(name)), least, most);
  }
  double real(const std::string& name, double least, double most, double absent) const {
    return has(name) ? real(name, least, most) : absent;
  }
  std::string text(const std::string& name, const std::string& absent) const {
    return has(name) ? file_.string(key(name)) : absent;
  }
  bool flag(const std::string& name, bool absent) const { return has(name) ? file_.boolean(key(name)) : absent; }
  // Whether each of `size` layers is meant: a list, or a number of which every multiple, counted from 1, is not.
  std::vector<bool> pattern(const std::string& name, std::size_t size, std::size_t absent) const {
    const auto found = file_.metadata().find(key(name));
    std::vector<bool> flags;
    const auto from = [&](const auto& list) {
      for (const auto entry : list) flags.push_back(entry != 0);
    };
    if (found != file_.metadata().end())
      std::visit(
          [&](const auto& value) {
            using Value = std::decay_t<decltype(value)>;
            if constexpr (std::is_same_v<Value, std::vector<bool>> ||
                          std::is_same_v<Value, std::vector<std::int64_t>> ||
                          std::is_same_v<Value, std::vector<std::uint64_t>>)
              from(value);
          },
          found->second);
    if (flags.empty()) {
      const std::size_t every = count(name, 1, 1000, absent);
      for (std::size_t l = 0; l < size; ++l) flags.push_back((l + 1) % every != 0);
    }
    if (flags.size() != size)
      throw Error(Code::file, key(name),
                  fmt::format("{} entries, expected one for each of {} layers", flags.size(), size));
    return flags;
  }

  // A setting that changes what the model says has to be what it is without the key.
  void refuse_unless(const std::string& name, double neutral) const {
    const auto found = file_.metadata().find(key(name));
    if (found == file_.metadata().end()) return;
    const bool same = std::visit(
        [&](const auto& value) {
          if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>)
            return static_cast<double>(value) == neutral;
          return false;
        },
        found->second);
    if (!same) throw Error(Code::unsupported, key(name), fmt::format("is supported as {} only", neutral));
  }

  // Each key below `group` that is not among `known` might change what the model says.
  void refuse_others(const std::string& group, std::initializer_list<std::string_view> known) const {
    const std::string begin = key(group);
    for (auto entry = file_.metadata().lower_bound(begin);
         entry != file_.metadata().end() && entry->first.starts_with(begin); ++entry) {
      if (std::find(known.begin(), known.end(), std::string_view(entry->first).substr(begin.size())) == known.end())
        throw Error(
            Code::unsupported, entry->first,
            fmt::format("is not known in a model of architecture {:.40}", file_.string("general.architecture")));
    }
  }

 private:
  const Gguf& file_;
  std::string prefix_;
};

}  // namespace permllm
