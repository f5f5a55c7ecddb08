// The command `permllm generate`: the clear-text reference engine. No privacy: model and prompt in one process.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_generate(CLI::App& parent);

}  // namespace permllm
