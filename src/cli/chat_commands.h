// What a line of chat may be, beside a question: one table, for /help, --help and the man page.
#pragma once

#include <string>

#include "cli/colours.h"

namespace permllm {

inline constexpr const char* k_chat_keys =
    "A line is a question; so is what you paste. Several lines: Alt-Enter between them, or \"\"\" before and behind.\n"
    "Ctrl-C ends an answer, Ctrl-D the program.\n";

// A command a line, in groups, each behind its name.
std::string chat_commands(const Colours& colours);

}  // namespace permllm
