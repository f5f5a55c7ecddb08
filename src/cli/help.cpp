#include "cli/help.h"

#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

#include "cli/chat_commands.h"

namespace permllm {
namespace {

struct Arranged {
  const char *group, *command, *examples;  // an example a line
};
constexpr const char *k_try = "To try it", *k_ask = "To ask a provider", *k_serve = "To serve a model",
                     *k_know = "To know before";

constexpr Arranged k_arranged[] = {
    {k_try, "demo",
     "permllm demo MODEL.gguf --prompt \"Why is the sky blue?\"\n"
     "permllm demo MODEL.gguf --profile open --draft 4 --rtt 10ms --bandwidth 1gbit"},
    {k_try, "generate", "permllm generate MODEL.gguf --prompt \"Why is the sky blue?\""},
    {k_ask, "chat",
     "permllm chat --invite alice.invite\n"
     "permllm chat --invite alice.invite --saves talks --temperature 0.7\n"
     "echo \"Why is the sky blue?\" | permllm chat --invite alice.invite --json"},
    {k_ask, "serve",
     "permllm serve --invite alice.invite                 a page and an API at http://127.0.0.1:8080\n"
     "permllm serve --demo MODEL.gguf                     the same, with all three parties on this machine"},
    {k_ask, "stock", "permllm stock --invite alice.invite"},
    {k_ask, "doctor", "permllm doctor --invite alice.invite"},
    {k_serve, "keygen",
     "permllm keygen --role helper --out helper\n"
     "permllm keygen --role provider --out provider"},
    {k_serve, "helper", "permllm helper --identity helper --listen 0.0.0.0:7001"},
    {k_serve, "provider",
     "permllm provider --identity provider --listen 0.0.0.0:7002 --helper helper.example:7001 --model MODEL.gguf"},
    {k_serve, "invite",
     "permllm invite alice --identity provider --provider-address provider.example:7002 --helper-address "
     "helper.example:7001 --tokens 100000 --rows 1000000\n"
     "permllm invite --list --identity provider --state state"},
    {k_serve, "store", "permllm store DIR"},
    {k_know, "inspect", "permllm inspect MODEL.gguf --loss"},
    {k_know, "audit", "permllm audit MODEL.gguf --rows 3000"},
    {k_know, "plan", "permllm plan MODEL.gguf --users 16"},
    {k_know, "audit",
     "permllm audit MODEL.gguf --plot limit.svg\n"
     "permllm audit MODEL.gguf --base BASE.gguf"},
    {k_know, "bench",
     "permllm bench MODEL.gguf --profile fast --rtt 10ms --bandwidth 1gbit\n"
     "permllm bench MODEL.gguf --sweep rtt=0,1,10 profile=all"},
};

}  // namespace

void arrange_help(CLI::App& program) {
  for (const Arranged& of : k_arranged) {
    CLI::App* command = program.get_subcommand(of.command);
    command->group(of.group);
    std::string footer = "Examples:\n  ";
    for (const char* c = of.examples; *c != '\0'; ++c) footer += *c == '\n' ? std::string("\n  ") : std::string(1, *c);
    if (std::string_view(of.command) == "chat") footer += "\n\n" + chat_commands(Colours("never", STDOUT_FILENO));
    command->footer(footer);
  }
  program.footer(
      "Begin with: permllm demo MODEL.gguf\nOf a command: permllm COMMAND --help. Documents: docs/guide.md, or "
      "/usr/share/doc/permllm.");
}

}  // namespace permllm
