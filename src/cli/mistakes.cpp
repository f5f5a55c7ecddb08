#include "cli/mistakes.h"

#include <fmt/format.h>

#include <charconv>

#include "base/nearest.h"

namespace permllm {
namespace {

std::string why_no_number(const std::string& text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::result_out_of_range) return fmt::format("{} is larger than any number here", text);
  // A unit may follow, and what is no number at all the option itself tells.
  return text.find('-') == std::string::npos ? "" : fmt::format("{} is no number from 0", text);
}

}  // namespace

void check_numbers(CLI::App& program) {
  for (CLI::Option* option : program.get_options([](const CLI::Option* o) { return o->get_expected_min() > 0; })) {
    // Before what changes the text, like a unit's factor.
    if (option->get_type_name().starts_with("UINT"))
      option->transform(CLI::Validator([](std::string& text) { return why_no_number(text); }, ""));
  }
  for (CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; })) check_numbers(*command);
}

std::string meant_instead(const CLI::App& program) {
  const std::vector<std::string> unknown = program.remaining(true);
  if (unknown.empty()) return {};
  const CLI::App* command = &program;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  const std::string word = unknown.front().substr(0, unknown.front().find('='));
  std::vector<std::string> known;
  if (word.starts_with("-")) {
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
  } else {
    for (const CLI::App* sub : command->get_subcommands([](const CLI::App*) { return true; }))
      known.push_back(sub->get_name());
  }
  const std::string near = nearest(word, known);
  return near.empty() ? "" : fmt::format("{} is not known; did you mean {}?", word, near);
}

}  // namespace permllm
