#include "cli/helper.h"

#include <filesystem>
#include <memory>
#include <optional>

#include "cli/doctor.h"
#include "cli/service_command.h"
#include "helper/service.h"
#include "net/tls.h"
#include "service/identity.h"
#include "service/settings.h"

namespace permllm {
namespace {

// Of a helper for another of its pool: they are near each other.
constexpr Clock::duration k_dial_patience = std::chrono::seconds(5);

struct HelperOptions {
  ServiceOptions party;
  std::string store, pool;
};

// In a pool the helpers of one identity trust each other as well.
Credentials credentials_of(const LiveDirectory& directory, bool pool) {
  Credentials credentials = directory.credentials();
  if (pool) credentials.trust.pins.push_back({Role::helper, credentials.identity.certificate.pin()});
  return credentials;
}

void run_helper(HelperOptions& helper) {
  ServiceOptions& options = helper.party;
  ServiceProcess party(Role::helper, options, helper.store, [] { return ""; });
  Executor executor;
  const LiveDirectory directory(options.identity, Role::helper);
  const bool pool = !helper.pool.empty();
  if (pool) check_address(helper.pool, "--pool", Code::usage);
  if (pool && helper.store.empty())
    throw Error(Code::usage, "--pool", "takes --store, the folder that the helpers of the pool share");
  const auto credentials = [&] { return credentials_of(directory, pool); };
  TlsListener listener(credentials, options.listen);
  require_peer(options.identity, Role::provider);
  std::optional<HelperPool> others;
  if (pool) {
    others.emplace(helper.store, helper.pool, [&](const std::string& address) -> std::unique_ptr<Link> {
      return tls_connect(credentials(), address, Role::helper, Clock::now() + k_dial_patience);
    });
  }
  HelperService service(executor, options.patience(), party.on_event(), helper.store, std::move(others));
  service.set_admission([&] { party.admit(); });
  party.serve(listener,
              {[&](const Peer& peer) {
                 const bool of_the_pool = pool && peer.key == directory.credentials().identity.certificate.pin();
                 refuse_unless(peer.role != Role::helper || of_the_pool, peer, "providers and users");
               },
               [&](std::unique_ptr<Link> link, const Peer& peer) {
                 service.serve(
                     shaped(std::move(link), peer.role == Role::user ? options.shape.at_service() : options.shape,
                            peer.role == Role::provider),
                     peer);
               },
               HelperService::room()},
              {}, [&](Metrics::Now& now) {
                std::error_code error;
                const auto disk = std::filesystem::space(helper.store, error);
                if (!helper.store.empty() && !error) now.disk_free = disk.available;
              });
}

CLI::App* helper_command(CLI::App& parent, const char* description, const std::shared_ptr<HelperOptions>& options) {
  CLI::App* command = parent.add_subcommand("helper", description);
  command->add_option("--store", options->store,
                      "folder of the models, which outlast the process; without it they live in memory");
  command->add_option("--pool", options->pool,
                      "this helper is one of several on its store, behind a balancer: where the others reach it");
  add_service_options(*command, options->party, "127.0.0.1:9465");
  return command;
}

}  // namespace

void add_helper(CLI::App& parent) {
  const auto options = std::make_shared<HelperOptions>();
  CLI::App* command = helper_command(parent, "the neutral party: deals randomness before requests", options);
  command->callback([options] { run_service(options->party, [&] { run_helper(*options); }); });
  options->party.settings = add_settings(*command);
}

void add_helper_doctor(CLI::App& doctor) {
  const auto options = std::make_shared<HelperOptions>();
  const auto json = std::make_shared<bool>(false);
  CLI::App* command =
      helper_command(doctor, "a helper's check of its machine and store, with the settings of its service", options);
  command->callback([options, json] {
    diagnose(
        [&](const OnFinding& tell) {
          examine_helper({options->party.identity, options->party.listen, options->store}, tell);
        },
        *json);
  });
  add_settings(*command);
  add_json(*command, *json);
}

}  // namespace permllm
