// The command `permllm keygen`: makes the key and certificate of a provider or helper.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_keygen(CLI::App& parent);

}  // namespace permllm
