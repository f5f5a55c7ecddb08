// permllm store: what a helper keeps on its disk.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_store(CLI::App& parent);

}  // namespace permllm
