// The command `permllm provider`, and with the same settings `permllm doctor provider`.
#pragma once

#include <CLI/CLI.hpp>

namespace permllm {

void add_provider(CLI::App& parent);
void add_provider_doctor(CLI::App& doctor);

}  // namespace permllm
