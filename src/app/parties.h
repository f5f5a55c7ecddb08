// The commands `permllm provider` and `permllm helper`: listen, and serve each connection in a thread of its own. With the same settings, `permllm
// doctor provider` and `permllm doctor helper`.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_provider(CLI::App& parent);
void add_helper(CLI::App& parent);
void add_provider_doctor(CLI::App& doctor);
void add_helper_doctor(CLI::App& doctor);

}  // namespace permllm
