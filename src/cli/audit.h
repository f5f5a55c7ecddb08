// The command `permllm audit`: what users of a model can take of it, measured on a simulation of what they see.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_audit(CLI::App& parent);

}  // namespace permllm
