// The command `permllm inspect`: what a model file holds and what a session with it will cost.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_inspect(CLI::App& parent);

}  // namespace permllm
