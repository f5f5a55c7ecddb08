#include "cli/colours.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>

namespace permllm {
namespace {

bool shows_colours(int file) {
  const char *none = std::getenv("NO_COLOR"), *terminal = std::getenv("TERM");
  return isatty(file) != 0 && (none == nullptr || *none == '\0') && terminal != nullptr && *terminal != '\0' &&
         std::string_view(terminal) != "dumb";
}

}  // namespace

Colours::Colours(std::string_view when, int file) : on_(when == "always" || (when != "never" && shows_colours(file))) {}

// The line end stays outside, so that a colour never reaches into the next line.
std::string Colours::with(std::string_view code, std::string_view text) const {
  if (!on_ || text.empty()) return std::string(text);
  const std::string_view words = text.substr(0, text.find_last_not_of('\n') + 1);
  return fmt::format("\x1b[{}m{}\x1b[0m{}", code, words, text.substr(words.size()));
}

void add_color(CLI::App& command, std::string& when) {
  command.add_option("--color", when, "auto (where a terminal is, unless NO_COLOR is set), always or never")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "always", "never"}));
}

}  // namespace permllm
