#include "cli/provider.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <set>
#include <thread>

#include "audit/worth.h"
#include "cli/doctor.h"
#include "cli/offer_options.h"
#include "cli/service_command.h"
#include "mpi/join.h"
#include "net/share.h"
#include "net/tls.h"
#include "net/units.h"
#include "provider/service.h"
#include "service/identity.h"
#include "service/settings.h"
#include "wire/plain.h"

namespace permllm {
namespace {

// By the record of the user's invite.
Allowance allowance_of(const LiveDirectory& directory, const Peer& peer) {
  const UserRecord record = directory.record(peer.name);
  if (record.key != peer.key)
    throw Error(Code::mismatch, Reason::invite_revoked, "certificate",
                fmt::format("\"{}\" is not the one of the invite in force", peer.name));
  return {record.tokens, record.rows, record.monthly};
}

// Keys of the users whose invites are in force.
std::set<std::string> invites_in_force(const std::string& identity) {
  std::set<std::string> users;
  for (const auto& path : record_paths(identity)) {
    const UserRecord record = load_record(path);
    if (!record.revoked) users.insert(record.key);
  }
  return users;
}

// Of the matrices of its layers, as they are held.
double layer_bytes_of(const OfferedModel& model) {
  double bytes = 0;
  for (const LayerWeights<IntMatrix>& layer : model.weights.layers) {
    for (const IntMatrix* w : {&layer.qkv, &layer.o, &layer.up, &layer.down})
      bytes += static_cast<double>(w->packed().size());
  }
  return bytes;
}

constexpr std::size_t k_most_sessions = 64;
// Of a provider over several machines that has lost one (EX_TEMPFAIL): to be started again, with all of them.
constexpr int k_machine_lost = 75;
constexpr Clock::duration k_first_pause = std::chrono::seconds(1), k_longest_pause = std::chrono::seconds(10);

// The helper may be away: then it is waited for, unless it had the model before and users may have material in stock.
void register_first(ProviderService& service, ServiceProcess& party) {
  party.progress("registration", 0);
  for (Clock::duration pause = k_first_pause;; pause = std::min(2 * pause, k_longest_pause)) {
    try {
      service.register_model([&](double fraction) { party.progress("registration", fraction); });
      return;
    } catch (const Error& error) {
      if (error.by_peer() || error.reason() != Reason::helper_unreachable) throw;
      party.wait_for(fmt::format("waiting for the helper: {}", plain_words(error)));
      if (service.was_registered()) return;
    }
    std::this_thread::sleep_for(pause);
  }
}

struct ProviderOptions {
  ServiceOptions party;
  std::string model, helper, state, user_bandwidth = "0";
  double grace_seconds = seconds_of(k_default_grace), idle_seconds = 600;
  OfferOptions serve;
  UserLimits limits;
};

// One of several machines, but not the first: it has its rows of the matrices, and no business with users or helpers.
void run_other_machine(const ProviderOptions& options) {
  const Signals ends_with_the_first([](int) {});
  const std::unique_ptr<Machines> machines = join_machines(options.party.patience());
  Executor executor;
  serve_rows(options.model, options.serve, executor, *machines);
}

void run_provider(ProviderOptions& options) {
  if (machine_number() != 0) return run_other_machine(options);
  const LiveDirectory directory(options.party.identity, Role::provider);
  const auto credentials = [&] { return directory.credentials(); };
  ProviderService* serving = nullptr;  // asked once it serves
  ServiceProcess party(Role::provider, options.party, options.model, [&] {
    const std::string disk = serving->disk_trouble();
    if (!disk.empty()) return disk;
    const std::string helper = serving->helper_trouble();
    return helper.empty() ? "" : "waiting for the helper: " + helper;
  });
  const std::unique_ptr<Machines> machines = join_machines(options.party.patience());
  Executor executor;
  credentials();  // refused before the long work
  check_address(options.helper, "--helper", Code::usage);
  check_address(options.party.listen, "--listen", Code::usage);
  parse_bandwidth(options.user_bandwidth, "--user-bandwidth");
  require_peer(options.party.identity, Role::helper);
  const Clock::time_point begin = Clock::now();
  if (machines) {
    party.note("machines", fmt::format("holds the model together with {} more", machines->count() - 1));
    machines->when_lost([&party] {
      party.note("machine_lost",
                 "a machine does not answer: sessions end, and so does the provider, with all machines");
      kill(getpid(), SIGTERM);
    });
  }
  OfferedModel model = offer_model(
      options.model, options.serve, executor, [&](double fraction) { party.progress("load", fraction); },
      machines.get());
  if (!options.state.empty()) keep_record(model, options.state, executor);
  party.note("audit", fmt::format("audit: {}", verdict_of(model.plan, model.weights)));
  if (!options.state.empty()) keep_worth(options.state, model.plan, model.weights);
  const double layer_bytes = layer_bytes_of(model);
  party.metrics().set_model_bytes(layer_bytes);
  const double load_seconds = seconds_since(begin);
  const auto dial_within = [&](Clock::duration patience) {
    return shaped(tls_connect(credentials(), options.helper, Role::helper, Clock::now() + patience),
                  options.party.shape);
  };
  ProviderService service(
      std::move(model), executor, options.party.patience(), [&] { return dial_within(options.party.patience()); },
      party.on_event(), options.state, duration_of(options.grace_seconds), duration_of(options.idle_seconds));
  serving = &service;
  try {
    service.drop_stock_unless([in_force = invites_in_force(options.party.identity)](const std::string& user) {
      return in_force.contains(user);
    });
  } catch (const Error& error) {  // whose a damaged record is is not known: nobody's material goes
    party.note("note", fmt::format("offline material of users without an invite is kept: {}", error.what()));
  }
  service.set_admission([&] { party.admit(); }, [&] { return party.most_sessions(); });
  service.watch_helper([&] { return dial_within(std::chrono::seconds(3)); });
  const Clock::time_point registration = Clock::now();
  register_first(service, party);
  service.keep_registered();
  party.set_drain([&] { service.drain(); });
  TlsListener listener(credentials, options.party.listen);
  BandwidthByUser bandwidth(parse_bandwidth(options.user_bandwidth, "--user-bandwidth"));
  party.serve(listener,
              {[](const Peer& peer) { refuse_unless(peer.role == Role::user, peer, "users"); },
               [&](std::unique_ptr<Link> link, const Peer& peer) {
                 UserLimits limits = options.limits;
                 static_cast<Allowance&>(limits) = allowance_of(directory, peer);
                 // A session goes on with what it had, where the invite is revoked meanwhile.
                 limits.allowance_now = [&directory, peer, last = Allowance(limits)]() mutable {
                   try {
                     last = allowance_of(directory, peer);
                   } catch (const Error&) {
                   }
                   return last;
                 };
                 service.serve(shaped(bandwidth.throttled(std::move(link), peer.key), options.party.shape.at_service()),
                               peer, limits);
               },
               service.room()},
              {{"load_seconds", load_seconds},
               {"layer_bytes", layer_bytes},
               {"registration_seconds", seconds_since(registration)}},
              [&](Metrics::Now& now) {
                now.stock = service.stock_bytes();
                now.disk_free = service.disk_free();
              });
  if (machines && machines->lost()) std::_Exit(k_machine_lost);  // MPI cannot mend what it joined
}

CLI::App* provider_command(CLI::App& parent, const char* description, const std::shared_ptr<ProviderOptions>& options) {
  CLI::App* command = parent.add_subcommand("provider", description);
  command->add_option("--model", options->model, "GGUF file, or ChatGLM-6B's folder");
  add_synthetic_options(*command, options->serve);
  command->add_option("--helper", options->helper, "the helper's address and port");
  command->add_option(
      "--state", options->state,
      "folder of what is kept between starts: the helper gets a model once, offline material lasts (holds secrets)");
  command
      ->add_option("--grace", options->grace_seconds,
                   "seconds that a conversation waits for its user whose connection was lost; 0: it ends")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
  command
      ->add_option("--idle", options->idle_seconds,
                   "seconds that a conversation keeps its cache for the user's next turn")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 86400.0));
  options->party.limits.sessions = k_most_sessions;
  command
      ->add_option("--max-sessions", options->party.limits.sessions,
                   "conversations at once, of all users; 0: as many as connections and memory allow")
      ->capture_default_str();
  command->add_option("--user-sessions", options->limits.sessions, "sessions that a user may have at once")
      ->capture_default_str();
  command
      ->add_option("--user-bandwidth", options->user_bandwidth,
                   "what all connections of a user may carry in each direction (100mbit); 0: no limit")
      ->capture_default_str();
  command->add_option("--user-stock", options->limits.stock, "bytes of offline material that are kept for a user")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(false));
  add_offer_options(*command, options->serve);
  add_service_options(*command, options->party, "127.0.0.1:9464");
  return command;
}

}  // namespace

void add_provider(CLI::App& parent) {
  const auto options = std::make_shared<ProviderOptions>();
  CLI::App* command =
      provider_command(parent, "the model owner: holds the weights, answers without seeing prompts", options);
  for (const char* needed : {"--model", "--helper"}) command->get_option(needed)->required();
  command->callback([options] { run_service(options->party, [&] { run_provider(*options); }); });
  options->party.settings = add_settings(*command);
}

void add_provider_doctor(CLI::App& doctor) {
  const auto options = std::make_shared<ProviderOptions>();
  const auto json = std::make_shared<bool>(false);
  CLI::App* command = provider_command(
      doctor, "a provider's check of its machine and of the link to its helper, with the settings of its service",
      options);
  command->callback([options, json] {
    const ProviderOptions& o = *options;
    diagnose(
        [&](const OnFinding& tell) {
          examine_provider(
              {o.party.identity, o.party.listen, o.helper, o.model, o.state, o.party.shape, o.serve.synthetic}, tell);
        },
        *json);
  });
  add_settings(*command);
  add_json(*command, *json);
}

}  // namespace permllm
