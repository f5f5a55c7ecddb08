#include "app/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <sstream>

#include "app/toml.h"
#include "base/small_file.h"
#include "permllm/error.h"

namespace permllm {
namespace {

constexpr const char* k_config = "--config";

std::string variable_name(const std::string& command, const std::string& flag) {
  std::string name = "PERMLLM_" + command + "_" + flag;
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

// The options that are settings: all flags but --help and those of this file.
std::vector<CLI::Option*> settings_of(CLI::App& command) {
  return command.get_options([](const CLI::Option* option) { return !option->get_envname().empty() && !option->check_lname("config"); });
}

bool takes_settings(CLI::App& command) { return command.get_option_no_throw(k_config) != nullptr; }

std::string text_of(const toml::node& node, const std::string& field) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return fmt::format("{}", number->get());
  if (const auto* real = node.as_floating_point()) return fmt::format("{}", real->get());
  if (const auto* truth = node.as_boolean()) return truth->get() ? "true" : "false";
  throw Error(Code::file, field, "expected a text, a number, true or false");
}

// Fills what neither a flag nor a variable has set. Tables of other commands are checked alike, so that a mistake shows early.
void apply_file(CLI::App& command, const std::string& path) {
  const toml::table file = parse_toml(read_small_file(path), path);
  CLI::App* program = &command;
  while (program->get_parent() != nullptr) program = program->get_parent();
  for (const auto& [name, content] : file) {
    const std::string table_field = fmt::format("{}: {}", path, std::string_view(name));
    const std::vector<CLI::App*> owners =
        program->get_subcommands([&](CLI::App* app) { return app->get_name() == name.str() && takes_settings(*app); });
    if (owners.empty() || !content.is_table()) {
      throw Error(Code::file, table_field, "is not known; settings stand in the table of a command, like [provider]");
    }
    CLI::App* owner = name.str() == command.get_name() ? &command : owners.front();  // `doctor provider` has the settings of `provider`
    const std::vector<CLI::Option*> known = settings_of(*owner);
    for (const auto& [key, value] : *content.as_table()) {
      const std::string field = fmt::format("{}.{}", table_field, std::string_view(key));
      const auto found = std::find_if(known.begin(), known.end(), [&](const CLI::Option* o) { return o->check_lname(std::string(key.str())); });
      if (found == known.end()) throw Error(Code::file, field, fmt::format("is not known; permllm {} --help shows the flags", owner->get_name()));
      const std::string text = text_of(value, field);
      if (owner != &command || !(*found)->empty()) continue;
      try {
        (*found)->add_result((*found)->get_expected_min() == 0 ? (*found)->get_flag_value(std::string(key.str()), text) : text);
        (*found)->run_callback();
      } catch (const CLI::ParseError& error) {
        throw Error(Code::file, field, error.what());
      }
    }
  }
}

void print(CLI::App& command) {
  fmt::print("[{}]\n", command.get_name());
  for (const CLI::Option* option : settings_of(command)) {
    const std::string name = option->get_lnames().front();
    const bool flag = option->get_expected_min() == 0, set = option->count() > 0;
    const std::string text = set ? option->reduced_results().back() : flag ? "false" : option->get_default_str();
    const bool bare = flag || !option->get_type_name().starts_with("TEXT");
    if (!set && (text.empty() || text.find(' ') != std::string::npos)) {  // no value stands for this default
      fmt::print("# {}{}\n", name, text.empty() ? "" : ": " + text);
    } else if (bare) {
      fmt::print("{} = {}\n", name, text);
    } else {
      std::ostringstream quoted;
      quoted << toml::value<std::string>(text);
      fmt::print("{} = {}\n", name, quoted.str());
    }
  }
}

}  // namespace

void add_settings(CLI::App& command) {
  const std::vector<CLI::Option*> options = command.get_options([](CLI::Option*) { return true; });
  for (CLI::Option* option : options) {
    if (option->get_lnames().empty() || option->check_lname("help")) continue;
    option->envname(variable_name(command.get_name(), option->get_lnames().front()));
  }
  // Options are handled in the order in which they were added, after all flags and variables were read.
  command.add_option_function<std::string>(k_config, [&command](const std::string& path) {
    if (command.parsed()) apply_file(command, path);
  }, fmt::format("TOML file with any of these settings, in a table [{}]", command.get_name()))->envname(variable_name(command.get_name(), "config"));
  command.add_flag_callback("--print-config", [&command] {
    print(command);
    throw CLI::Success();
  }, "print the settings that hold, as such a file, and exit");
  const std::string last = settings_of(command).back()->get_lnames().front();
  command.footer(fmt::format("Each flag may be set by a variable, too, like --{} by {}. A flag outweighs the variable, that the file.", last,
                             variable_name(command.get_name(), last)));
}

}  // namespace permllm
