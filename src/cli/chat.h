// The command `permllm chat`: the user by itself, who asks line by line.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_chat(CLI::App& parent);

}  // namespace permllm
