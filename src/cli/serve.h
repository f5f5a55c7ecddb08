// The command `permllm serve`: the user's gateway.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_serve(CLI::App& parent);

}  // namespace permllm
