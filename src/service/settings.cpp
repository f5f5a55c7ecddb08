#include "service/settings.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <sstream>

#include "base/nearest.h"
#include "base/small_file.h"
#include "base/text.h"
#include "base/toml.h"
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
  return command.get_options(
      [](const CLI::Option* option) { return !option->get_envname().empty() && !option->check_lname("config"); });
}

std::string name_of(const CLI::Option& option) { return option.get_lnames().front(); }

bool takes_settings(CLI::App& command) { return command.get_option_no_throw(k_config) != nullptr; }

std::string text_of(const toml::node& node, const std::string& field) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return fmt::format("{}", number->get());
  if (const auto* real = node.as_floating_point()) return fmt::format("{}", real->get());
  if (const auto* truth = node.as_boolean()) return truth->get() ? "true" : "false";
  throw Error(Code::file, field, "expected a text, a number, true or false");
}

// The texts of this command's settings in a file, by option. Tables of other commands are checked alike, so that a mistake shows early.
Settings::Texts read_file(CLI::App& command, const std::string& path) {
  Settings::Texts all;
  const toml::table file = parse_toml(read_small_file(path), path);
  CLI::App* program = &command;
  while (program->get_parent() != nullptr) program = program->get_parent();
  for (const auto& [name, content] : file) {
    const std::string table_field = fmt::format("{}: {}", path, std::string_view(name));
    const std::vector<CLI::App*> owners = program->get_subcommands(
        [&, &name = name](CLI::App* app) { return app->get_name() == name.str() && takes_settings(*app); });
    if (owners.empty() || !content.is_table()) {
      throw Error(Code::file, table_field, "is not known; settings stand in the table of a command, like [provider]");
    }
    CLI::App* owner = name.str() == command.get_name()
                          ? &command
                          : owners.front();  // `doctor provider` has the settings of `provider`
    const std::vector<CLI::Option*> known = settings_of(*owner);
    for (const auto& [key, value] : *content.as_table()) {
      const std::string field = fmt::format("{}.{}", table_field, std::string_view(key));
      const auto found = std::find_if(known.begin(), known.end(), [&key = key](const CLI::Option* o) {
        return o->check_lname(std::string(key.str()));
      });
      if (found == known.end()) {
        std::vector<std::string> names;
        for (const CLI::Option* option : known) names.push_back(name_of(*option));
        const std::string near = nearest(key.str(), names);
        throw Error(Code::file, field,
                    fmt::format("is not known; permllm {} --help shows the flags{}", owner->get_name(),
                                near.empty() ? "" : "; the nearest is " + near));
      }
      const std::string text = text_of(value, field);
      if (owner == &command)
        all[*found] = (*found)->get_expected_min() == 0 ? (*found)->get_flag_value(std::string(key.str()), text) : text;
    }
  }
  return all;
}

void set(const CLI::App& command, const std::string& path, CLI::Option& option, const std::string& text) {
  option.clear();
  try {
    option.add_result(text);
    option.run_callback();
  } catch (const CLI::ParseError& error) {
    throw Error(Code::file, fmt::format("{}: {}.{}", path, command.get_name(), name_of(option)), error.what());
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

// Of all commands below.
void add_variables(const CLI::App& program, std::vector<std::string>& names) {
  for (const CLI::Option* option : program.get_options()) {
    if (!option->get_envname().empty()) names.push_back(option->get_envname());
  }
  for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; }))
    add_variables(*command, names);
}

// They are told, not refused: another release may know them.
void tell_of_unknown_variables(const CLI::App& command) {
  const CLI::App* program = &command;
  while (program->get_parent() != nullptr) program = program->get_parent();
  std::vector<std::string> known{"PERMLLM_SIMD"};
  add_variables(*program, known);
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry), name = text.substr(0, text.find('='));
    if (!name.starts_with("PERMLLM_") || std::find(known.begin(), known.end(), name) != known.end()) continue;
    const std::string near = nearest(name, known);
    fmt::print(stderr, "permllm: the variable {} is no setting{}\n", for_terminal(name),
               near.empty() ? "" : "; the nearest is " + near);
  }
}

}  // namespace

void Settings::apply(const std::string& path) {
  path_ = path;
  for (CLI::Option* option : settings_of(command_)) {
    if (!option->empty()) given_.insert(option);
  }
  file_ = read_file(command_, path);
  for (const auto& [option, text] : file_) {
    if (!given_.contains(option)) set(command_, path, *option, text);
  }
}

std::string Settings::Reloaded::changes() const {
  return changed.empty() ? "no setting is new" : fmt::format("{}", fmt::join(changed, ", "));
}
std::string Settings::Reloaded::restarts() const {
  return need_a_restart.empty() ? "" : fmt::format("; a restart is needed for {}", fmt::join(need_a_restart, ", "));
}

Settings::Reloaded Settings::reload(const std::vector<std::string>& names) {
  Reloaded reloaded;
  if (path_.empty()) return reloaded;
  const Texts file = read_file(command_, path_);
  const auto text_in = [](const Texts& texts, CLI::Option* option) {
    const auto found = texts.find(option);
    return found == texts.end() ? option->get_default_str() : found->second;
  };
  std::vector<CLI::Option*> changed;
  for (CLI::Option* option : settings_of(command_)) {
    if (given_.contains(option) || text_in(file, option) == text_in(file_, option)) continue;
    const std::string name = name_of(*option);
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      reloaded.need_a_restart.push_back(name);
    } else {
      changed.push_back(option);
      reloaded.changed.push_back(fmt::format("{} = {}", name, text_in(file, option)));
    }
  }
  try {
    for (CLI::Option* option : changed) set(command_, path_, *option, text_in(file, option));
  } catch (const Error&) {
    for (CLI::Option* option : changed) set(command_, path_, *option, text_in(file_, option));
    throw;
  }
  for (CLI::Option* option : changed) file_[option] = text_in(file, option);
  return reloaded;
}

std::shared_ptr<Settings> add_settings(CLI::App& command) {
  const auto all = std::make_shared<Settings>(command);
  const std::vector<CLI::Option*> options = command.get_options([](CLI::Option*) { return true; });
  for (CLI::Option* option : options) {
    if (option->get_lnames().empty() || option->check_lname("help")) continue;
    option->envname(variable_name(command.get_name(), option->get_lnames().front()));
  }
  command.preparse_callback([&command](std::size_t) { tell_of_unknown_variables(command); });
  // Options are handled in the order in which they were added, after all flags and variables were read.
  command
      .add_option_function<std::string>(
          k_config,
          [&command, all](const std::string& path) {
            if (command.parsed()) all->apply(path);
          },
          fmt::format("TOML file with any of these settings, in a table [{}]", command.get_name()))
      ->envname(variable_name(command.get_name(), "config"));
  command.add_flag_callback(
      "--print-config",
      [&command] {
        print(command);
        throw CLI::Success();
      },
      "print the settings that hold, as such a file, and exit");
  const std::string last = settings_of(command).back()->get_lnames().front();
  command.footer(fmt::format(
      "Each flag may be set by a variable, too, like --{} by {}. A flag outweighs the variable, that the file.", last,
      variable_name(command.get_name(), last)));
  return all;
}

}  // namespace permllm
