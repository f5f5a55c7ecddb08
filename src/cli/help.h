// How --help is laid out: commands in groups, examples below.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

// program: with all commands.
void arrange_help(CLI::App& program);

}  // namespace permllm
