// Settings of a command: each of its flags is also an environment variable and a key of a TOML file.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace permllm {

class Settings {
 public:
  using Texts = std::map<CLI::Option*, std::string>;
  explicit Settings(CLI::App& command) : command_(command) {}
  // Fills from a file what neither a flag nor a variable has set. Errors: those of add_settings.
  void apply(const std::string& path);
  const std::string& path() const { return path_; }  // of that file; empty: none

  struct Reloaded {
    std::vector<std::string> changed;  // as "log-level = debug"
    std::vector<std::string>
        need_a_restart;  // names of settings that are not among `names` and have another value in the file
    // Both in words; the second is empty where no restart is needed.
    std::string changes() const;
    std::string restarts() const;
  };
  // Reads the file again, where there is one, and sets `names` to what it says now, or to their default, as far as neither flag nor
  // variable outweighs it. Errors: as above; nothing is changed then.
  Reloaded reload(const std::vector<std::string>& names);

 private:
  CLI::App& command_;
  std::string path_;
  std::set<CLI::Option*> given_;  // by a flag or a variable
  Texts file_;                    // what holds of the file
};

// To be called when the command has all its options. --prompt-slots of `provider` is PERMLLM_PROVIDER_PROMPT_SLOTS and, in the file that
// --config names, prompt-slots of the table [provider]; a flag outweighs the variable, which outweighs the file. --print-config prints
// what holds, as such a file, and exits. A variable PERMLLM_* that no command knows is told on standard error. Errors: file for a table or key that is not known, or a value of another kind.
std::shared_ptr<Settings> add_settings(CLI::App& command);

}  // namespace permllm
