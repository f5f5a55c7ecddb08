// The library names its own options in errors ("chat_format"); a person at the command line has flags.
#pragma once

#include <CLI/CLI.hpp>

#include "permllm/error.h"

namespace permllm {

// An error of usage, or of an address to listen on, whose field is an option of the command, with the option's flag as its field ("--chat-format"). Others as they are.
Error with_flag(const Error& error, const CLI::App& command);

}  // namespace permllm
