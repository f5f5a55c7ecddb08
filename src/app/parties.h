// The commands `permllm provider` and `permllm helper`: listen, and serve each connection in a thread of its own.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_provider(CLI::App& parent);
void add_helper(CLI::App& parent);

}  // namespace permllm
