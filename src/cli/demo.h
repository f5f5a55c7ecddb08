// The command `permllm demo`: all three parties on this machine, as three processes joined by TLS on loopback. This process
// is the user.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_demo(CLI::App& parent);

}  // namespace permllm
