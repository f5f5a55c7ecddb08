#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/audit.h"
#include "cli/bench.h"
#include "cli/chat.h"
#include "cli/colours.h"
#include "cli/demo.h"
#include "cli/doctor.h"
#include "cli/flag.h"
#include "cli/generate.h"
#include "cli/help.h"
#include "cli/helper.h"
#include "cli/inspect.h"
#include "cli/invite.h"
#include "cli/keygen.h"
#include "cli/mistakes.h"
#include "cli/pages.h"
#include "cli/plan.h"
#include "cli/provider.h"
#include "cli/serve.h"
#include "cli/speaks.h"
#include "cli/stock.h"
#include "cli/store.h"
#include "permllm/error.h"
#include "service/identity.h"
#include "user/invite.h"
#include "wire/plain.h"

// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  // Core files would hold prompts, seeds or weights.
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
#if defined(__SSE2__)
  // Numbers too small for the usual format count as 0: their slow path would tell of values in time. Threads inherit it.
  _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
  // Messages of a pass are large and short-lived: their memory is kept rather than given back and faulted in again.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);

  CLI::App app{
      "permllm: answers from a language model whose owner never sees the prompt, and whose weights never leave "
      "the owner"};
  app.set_version_flag("--version", permllm::what_it_speaks(), "which release this is, and what it speaks");
  app.require_subcommand(1);
  permllm::add_demo(app);
  permllm::add_bench(app);
  permllm::add_generate(app);
  permllm::add_inspect(app);
  permllm::add_plan(app);
  permllm::add_audit(app);
  permllm::add_provider(app);
  permllm::add_helper(app);
  permllm::add_keygen(app);
  permllm::add_invite(app);
  permllm::add_chat(app);
  permllm::add_serve(app);
  permllm::add_stock(app);
  permllm::add_doctor(app);
  permllm::add_store(app);
  permllm::add_pages(app);
  permllm::arrange_help(app);
  permllm::check_numbers(app);
  const std::string name = permllm::Colours("auto", STDERR_FILENO).bad("permllm: ");
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) == 0) return 0;
    if (const std::string meant = permllm::meant_instead(app); !meant.empty())
      std::fprintf(stderr, "%s\n", permllm::for_terminal(meant).c_str());
    return 2;
  } catch (const permllm::Error& error) {
    const auto commands = app.get_subcommands();
    const permllm::Error told = commands.empty() ? error : permllm::with_flag(error, *commands[0]);
    std::fprintf(stderr, "%s%s\n", name.c_str(), permllm::for_terminal(permllm::for_person(told)).c_str());
    return told.exit_status();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s%s\n", name.c_str(), permllm::for_terminal(error.what()).c_str());
    return 1;
  }
}
