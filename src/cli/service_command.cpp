#include "cli/service_command.h"

#include <fmt/format.h>

#include "base/heap.h"
#include "cli/shared_options.h"
#include "service/identity.h"
#include "service/print_event.h"
#include "service/process_limits.h"

namespace permllm {

void add_service_options(CLI::App& command, ServiceOptions& options, const std::string& status_example) {
  command.add_option("--listen", options.listen, "address and port to listen on; port 0 lets the system choose")
      ->capture_default_str();
  command
      .add_option(
          "--identity", options.identity,
          "this party's directory, made by permllm keygen; what changes in it holds from the next connection on")
      ->required();
  add_patience(command, options.patience_seconds);
  add_limits(command, options.limits);
  command.add_option(
      "--status", options.status,
      "loopback address for /healthz, /readyz and /metrics, like " + status_example + "; off without it");
  add_log_options(command, options.log);
  add_link_shape(command, options.shape);
  command.add_flag("--events", options.events, "print events as JSON lines on standard output");
}

void refuse_unless(bool fits, const Peer& peer, const char* who) {
  if (!fits)
    throw Error(Code::mismatch, Reason::not_trusted, "certificate",
                fmt::format("{} \"{}\": only {} connect here", name_of(peer.role), peer.name, who));
}

void require_peer(const std::string& identity, Role role) {
  for (const Certificate& peer : load_peers(identity)) {
    if (peer.role() == role) return;
  }
  throw Error(
      Code::file, identity + "/peers",
      fmt::format("holds no {0}'s certificate; copy the {0}'s certificate.pem there, like {0}.pem", name_of(role)));
}

void run_service(const ServiceOptions& options, const std::function<void()>& run) {
  keep_to_itself();
  prepare_heap();
  try {
    run();
  } catch (const Error& error) {
    if (!options.events) throw;
    print_event({{"event", "error"},
                 {"code", error.code()},
                 {"reason", error.reason()},
                 {"field", !error.by_peer()        ? error.field()
                           : error.field().empty() ? "peer"
                                                   : "peer: " + error.field()},
                 {"message", error.message()}});
    throw CLI::RuntimeError(error.exit_status());
  }
}

}  // namespace permllm
