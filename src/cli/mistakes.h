// What a person typed that cannot be meant.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace permllm {

// Every option of every command whose value is a number from 0 refuses others: CLI11 reads -1 as the largest number, and one that is too large as
// another. To be called when the program has all its commands.
void check_numbers(CLI::App& program);
// After a parse that failed: the command or flag that may have been meant, as a sentence; empty: none is near.
std::string meant_instead(const CLI::App& program);

}  // namespace permllm
