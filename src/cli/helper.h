// The command `permllm helper`, and with the same settings `permllm doctor helper`.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_helper(CLI::App& parent);
void add_helper_doctor(CLI::App& doctor);

}  // namespace permllm
