#include "cli/pages.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "permllm/error.h"
#include "permllm/version.h"

namespace permllm {
namespace {

std::vector<const CLI::App*> commands_of(const CLI::App& program) {
  return program.get_subcommands([](const CLI::App* command) { return !command->get_group().empty(); });
}
std::vector<const CLI::Option*> options_of(const CLI::App& command) {
  return command.get_options([](const CLI::Option* option) { return !option->get_group().empty(); });
}
bool takes_value(const CLI::Option& option) { return option.get_expected_max() > 0; }

// `with` before each of `what`.
std::string escaped(std::string_view text, std::string_view what, std::string_view with) {
  std::string all;
  for (const char c : text) {
    if (what.find(c) != std::string_view::npos) all += with;
    all += c;
  }
  return all;
}

// --- Completions --------------------------------------------------------------------------------------------------------

std::vector<std::string> flags_of(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : options_of(command)) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

std::string bash(const CLI::App& program) {
  std::vector<std::string> names;
  std::string cases;
  for (const CLI::App* command : commands_of(program)) {
    names.push_back(command->get_name());
    cases += fmt::format("    {}) flags=\"{}\" ;;\n", command->get_name(), fmt::join(flags_of(*command), " "));
  }
  return fmt::format(R"(_permllm() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} flags=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{} --help --version" -- "$word"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{}  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
  esac
}}
complete -o default -F _permllm permllm
)",
                     fmt::join(names, " "), cases);
}

// A text between single quotes.
std::string in_quotes(std::string_view text) {
  std::string all = "'";
  for (const char c : text) all += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return all + "'";
}

std::string zsh(const CLI::App& program) {
  std::string names, cases;
  for (const CLI::App* command : commands_of(program)) {
    names += "    " + in_quotes(escaped(command->get_name(), ":", "\\") + ":" + command->get_description()) + "\n";
    cases += fmt::format("    {}) _arguments", command->get_name());
    for (const CLI::Option* option : options_of(*command)) {
      for (const std::string& name : option->get_lnames()) {
        const std::string what = escaped(option->get_description(), "[]:\\", "\\");
        cases += " \\\n      " +
                 in_quotes(fmt::format("--{}[{}]{}", name, what, takes_value(*option) ? ":value:_files" : ""));
      }
    }
    cases += " \\\n      '*:file:_files' ;;\n";
  }
  return fmt::format(R"(#compdef permllm
_permllm() {{
  local -a commands
  commands=(
{}  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{}  esac
}}
if [ "$funcstack[1]" = _permllm ]; then _permllm "$@"; else compdef _permllm permllm; fi
)",
                     names, cases);
}

std::string fish(const CLI::App& program) {
  std::string all;
  for (const CLI::App* command : commands_of(program)) {
    all += fmt::format("complete -c permllm -n __fish_use_subcommand -f -a {} -d {}\n", command->get_name(),
                       in_quotes(escaped(command->get_description(), "\\", "\\")));
    for (const CLI::Option* option : options_of(*command)) {
      for (const std::string& name : option->get_lnames()) {
        all += fmt::format("complete -c permllm -n '__fish_seen_subcommand_from {}' -l {}{} -d {}\n",
                           command->get_name(), name, takes_value(*option) ? " -r" : "",
                           in_quotes(escaped(option->get_description(), "\\", "\\")));
      }
    }
  }
  return all;
}

// --- Man pages ----------------------------------------------------------------------------------------------------------

// A line of text: nothing in it is a request to the formatter.
std::string roff(std::string_view text) {
  std::string all = escaped(escaped(text, "\\", "\\"), "-", "\\");
  for (char& c : all) c = c == '\n' ? ' ' : c;
  return all.starts_with('.') || all.starts_with('\'') ? "\\&" + all : all;
}

std::string heading(const std::string& name, const std::string& what) {
  return fmt::format(".TH {} 1 \"\" \"permllm {}\" \"PermLLM\"\n.SH NAME\n{} \\- {}\n", roff(name), roff(version()),
                     roff(name), roff(what));
}

std::string page_of(const CLI::App& command) {
  std::string positionals, options;
  for (const CLI::Option* option : options_of(command)) {
    const std::string type = option->get_type_name().substr(0, option->get_type_name().find_first_of(":["));
    if (option->get_positional()) positionals += fmt::format(" {}", roff(option->get_name(true)));
    std::string value = takes_value(*option) && !option->get_positional() && !type.empty()
                            ? fmt::format(" \\fI{}\\fR", roff(type))
                            : "";
    options += fmt::format(".TP\n\\fB{}\\fR{}\n{}", roff(option->get_name(true, true)), value,
                           roff(option->get_description()));
    if (takes_value(*option) && !option->get_default_str().empty())
      options += fmt::format(" (default: {})", roff(option->get_default_str()));
    options += "\n";
  }
  // The footer: lines behind headings that end with a colon.
  std::istringstream lines(command.get_footer());
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("  ")) {
      options += ".P\n" + roff(line.substr(2)) + "\n";
    } else if (line.ends_with(':')) {
      std::transform(line.begin(), line.end(), line.begin(), [](unsigned char c) { return std::toupper(c); });
      options += ".SH " + roff(line.substr(0, line.size() - 1)) + "\n";
    }
  }
  return heading("permllm-" + command.get_name(), command.get_description()) +
         fmt::format(
             ".SH SYNOPSIS\n\\fBpermllm {}\\fR [\\fIOPTIONS\\fR]{}\n.SH OPTIONS\n{}.SH SEE ALSO\n.BR permllm (1)\n",
             roff(command.get_name()), positionals, options);
}

std::string page_of_all(const CLI::App& program) {
  std::string text = heading("permllm", "private answers of a language model by three parties") +
                     fmt::format(".SH DESCRIPTION\n{}\n.SH COMMANDS\n", roff(program.get_description()));
  for (const CLI::App* command : commands_of(program))
    text += fmt::format(".TP\n.BR permllm\\-{} (1)\n{}\n", roff(command->get_name()), roff(command->get_description()));
  return text + ".SH FILES\nThe documents are in /usr/share/doc/permllm.\n";
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream out(path);
  out << text;
  out.close();
  if (!out) throw Error(Code::file, path.string(), "cannot be written");
}

}  // namespace

void add_pages(CLI::App& program) {
  CLI::App* completions = program.add_subcommand("completions", "what a shell needs to complete commands and options");
  const auto shell = std::make_shared<std::string>();
  completions->add_option("shell", *shell, "bash, zsh or fish: eval \"$(permllm completions bash)\"")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completions->callback([&program, shell] {
    fmt::print("{}", *shell == "bash" ? bash(program) : *shell == "zsh" ? zsh(program) : fish(program));
  });

  CLI::App* man = program.add_subcommand("man", "writes the man pages into a folder")->group("");
  const auto folder = std::make_shared<std::string>();
  man->add_option("folder", *folder, "made where it is not there")->required();
  man->callback([&program, folder] {
    std::filesystem::create_directories(*folder);
    write(std::filesystem::path(*folder) / "permllm.1", page_of_all(program));
    for (const CLI::App* command : commands_of(program))
      write(std::filesystem::path(*folder) / ("permllm-" + command->get_name() + ".1"), page_of(*command));
  });
}

}  // namespace permllm
