// Colours of what this program itself says, where a terminal shows them. What others wrote has none.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

namespace permllm {

class Colours {
 public:
  // when: auto, always or never. auto: the file is a terminal that is not "dumb", and NO_COLOR (no-color.org) is not set.
  Colours(std::string_view when, int file);
  std::string faint(std::string_view text) const { return with("2", text); }
  std::string strong(std::string_view text) const { return with("1", text); }
  std::string good(std::string_view text) const { return with("32", text); }
  std::string doubtful(std::string_view text) const { return with("33", text); }
  std::string bad(std::string_view text) const { return with("31", text); }

 private:
  std::string with(std::string_view code, std::string_view text) const;
  bool on_ = false;
};

void add_color(CLI::App& command, std::string& when);

}  // namespace permllm
