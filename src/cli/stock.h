// The command `permllm stock`: the user's offline material, made ahead for nobody's prompt.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_stock(CLI::App& parent);

}  // namespace permllm
