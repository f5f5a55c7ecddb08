// What --help prints, as man pages and as completions of shells.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

// `permllm completions SHELL` and, for packages, `permllm man FOLDER`. program: with all other commands.
void add_pages(CLI::App& program);

}  // namespace permllm
