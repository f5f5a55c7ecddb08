// The command `permllm plan`: what serving a model will take, before anything is spent.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_plan(CLI::App& parent);

}  // namespace permllm
