#include "cli/chat_commands.h"

#include <fmt/format.h>

namespace permllm {
namespace {

struct Command {
  const char *group, *name, *what;
};
constexpr Command k_commands[] = {
    {"To ask", "/edit [TEXT]", "write a question with your editor ($EDITOR), which begins with the text"},
    {"To ask", "/regenerate", "another answer to the last question, in place of the one that is there"},
    {"To ask", "/system [TEXT]", "the system message from now on; alone: which it is; - takes it away"},
    {"To ask", "/temperature [T]", "0 chooses the likeliest token, up to 2 more freely; alone: which it is"},
    {"To keep", "/save NAME", "the conversation, to load again; under a passphrase, where you give one"},
    {"To keep", "/save NAME.md", "the conversation as Markdown, to read"},
    {"To keep", "/load [NAME]", "goes on with a saved one; alone: which there are"},
    {"To keep", "/reset", "begin another conversation"},
    {"To know", "/cost", "what the last answer took: tokens, seconds, bytes, round trips"},
    {"To know", "/privacy", "what each party sees"},
    {"To know", "/help", "this"},
};

}  // namespace

std::string chat_commands(const Colours& colours) {
  std::string text, group;
  for (const Command& command : k_commands) {
    if (group != command.group) text += colours.strong((group = command.group) + ":") + "\n";
    text += fmt::format("  {:<17}{}\n", command.name, command.what);
  }
  return text;
}

}  // namespace permllm
