// The command `permllm bench`: the whole protocol at a model's full shape, three processes, over simulated networks.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_bench(CLI::App& parent);

}  // namespace permllm
