#include <malloc.h>
#include <sys/resource.h>

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
#include "cli/demo.h"
#include "cli/doctor.h"
#include "cli/flag.h"
#include "cli/generate.h"
#include "cli/help.h"
#include "cli/helper.h"
#include "cli/inspect.h"
#include "cli/invite.h"
#include "cli/keygen.h"
#include "cli/pages.h"
#include "cli/plan.h"
#include "cli/provider.h"
#include "cli/serve.h"
#include "cli/stock.h"
#include "cli/store.h"
#include "permllm/error.h"
#include "permllm/version.h"
#include "service/identity.h"
#include "user/invite.h"
#include "wire/frame.h"
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
  std::string version =
      std::string("permllm ") + permllm::version() + ", wire version " + std::to_string(permllm::k_wire_version);
#ifdef PERMLLM_COMMIT
  version += ", commit " PERMLLM_COMMIT;
#endif
  app.set_version_flag("--version", version);
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
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const permllm::Error& error) {
    const auto commands = app.get_subcommands();
    const permllm::Error told = commands.empty() ? error : permllm::with_flag(error, *commands[0]);
    std::fprintf(stderr, "permllm: %s\n", permllm::for_terminal(permllm::for_person(told)).c_str());
    return told.exit_status();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "permllm: %s\n", permllm::for_terminal(error.what()).c_str());
    return 1;
  }
}
