// Settings of a command: each of its flags is also an environment variable and a key of a TOML file.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

// To be called when the command has all its options. --prompt-slots of `provider` is PERMLLM_PROVIDER_PROMPT_SLOTS and, in the file that
// --config names, prompt-slots of the table [provider]; a flag outweighs the variable, which outweighs the file. --print-config prints
// what holds, as such a file, and exits. Errors: file for a table or key that is not known, or a value of another kind.
void add_settings(CLI::App& command);

}  // namespace permllm
