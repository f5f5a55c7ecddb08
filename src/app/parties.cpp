#include "app/parties.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <list>
#include <thread>

#include "app/doctor.h"
#include "app/identity.h"
#include "app/links.h"
#include "app/load.h"
#include "app/process.h"
#include "app/settings.h"
#include "engine/helper_service.h"
#include "engine/provider_service.h"
#include "net/tls.h"

namespace permllm {
namespace {

// What both commands share.
struct PartyOptions {
  std::string listen = "127.0.0.1:0", identity;
  LinkShape shape;
  double patience_seconds = 120;
  bool events = false;  // one JSON object a line on standard output, for the program that started this one

  Clock::duration patience() const {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(patience_seconds));
  }
};

void add_party_options(CLI::App& command, PartyOptions& options) {
  command.add_option("--listen", options.listen, "address and port to listen on; port 0 lets the system choose")
      ->capture_default_str();
  command.add_option("--identity", options.identity, "this party's directory, made by permllm keygen; read again for each connection")
      ->required();
  command.add_option("--patience", options.patience_seconds, "seconds to wait for a peer before giving up")
      ->capture_default_str()->check(CLI::PositiveNumber);
  add_link_shape(command, options.shape);
  command.add_flag("--events", options.events, "print events as JSON lines on standard output");
}

// Reports what happens: as events for a program, as lines for a person. Neither ever holds content.
class Reporter {
 public:
  Reporter(const char* party, bool events) : party_(party), events_(events) {}
  void note(const std::string& text) const {
    if (events_) {
      print_event({{"event", "note"}, {"text", text}});
    } else {
      std::string plain = text;  // it may quote a peer
      std::replace_if(plain.begin(), plain.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
      std::fputs(fmt::format("{}: {}\n", party_, plain).c_str(), stderr);
    }
  }
  void progress(const char* what, double fraction) const {
    if (events_) print_event({{"event", "progress"}, {"what", what}, {"fraction", fraction}});
  }
  void ready(std::uint16_t port, nlohmann::json facts) const {
    if (events_) {
      facts["event"] = "ready";
      facts["port"] = port;
      print_event(facts);
    } else {
      std::fputs(fmt::format("{}: listening on port {}\n", party_, port).c_str(), stderr);
    }
  }

 private:
  const char* party_;
  bool events_;
};

constexpr auto k_handshake_patience = std::chrono::seconds(10);

// Accepts connections until the process is ended; each is served in its own thread.
template <class Serve>
void serve_forever(TlsListener& listener, const LinkShape& shape, const Reporter& reporter, Serve serve) {
  struct Connection {
    std::atomic<bool> done = false;
    std::jthread thread;
  };
  std::list<Connection> connections;
  for (;;) {
    std::erase_if(connections, [](const Connection& connection) { return connection.done.load() || !connection.thread.joinable(); });
    try {
      std::unique_ptr<TlsLink> link = listener.accept(Clock::now() + std::chrono::hours(24));
      Connection& connection = connections.emplace_back();
      connection.thread = std::jthread([&, link = std::move(link)]() mutable {
        try {
          const Peer peer = link->handshake(Clock::now() + k_handshake_patience);
          serve(shaped(std::move(link), shape, peer.role == Role::provider), peer);
        } catch (const std::exception& error) {
          reporter.note(fmt::format("a connection was refused: {}", error.what()));
        }
        connection.done = true;
      });
    } catch (const std::exception& error) {
      const auto* known = dynamic_cast<const Error*>(&error);
      if (known != nullptr && known->code() == Code::timeout) continue;
      // Too many connections: no descriptor, thread or memory for this one. The next ones may do better.
      reporter.note(error.what());
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

void refuse_unless(bool fits, const Peer& peer, const char* who) {
  if (!fits) throw Error(Code::mismatch, "certificate", fmt::format("{} \"{}\": only {} connect here", name_of(peer.role), peer.name, who));
}

// One user's connections have the same.
std::uint64_t number_of(const Peer& peer) { return std::hash<std::string>{}(peer.fingerprint); }

// Without any there is nobody to work with.
void require_peer(const std::string& identity, Role role) {
  for (const Certificate& peer : load_peers(identity)) {
    if (peer.role() == role) return;
  }
  throw Error(Code::file, identity + "/peers", fmt::format("holds no {0}'s certificate; copy the {0}'s certificate.pem there, like {0}.pem", name_of(role)));
}

// Runs a party; with --events its error goes to the program that started it.
void run_party(const PartyOptions& options, const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    if (!options.events) throw;
    print_event({{"event", "error"}, {"code", static_cast<int>(error.code())}, {"message", error.what()}});
    throw CLI::RuntimeError(error.exit_status());
  }
}

struct HelperOptions {
  PartyOptions party;
  std::string store;
};

void run_helper(const HelperOptions& helper) {
  const PartyOptions& options = helper.party;
  const Reporter reporter("helper", options.events);
  Executor executor;
  TlsListener listener([&] { return load_credentials(options.identity, Role::helper); }, options.listen);
  require_peer(options.identity, Role::provider);
  HelperService service(executor, options.patience(), [&](const std::string& text) { reporter.note(text); }, helper.store);
  reporter.ready(listener.port(), {});
  serve_forever(listener, options.shape, reporter,
                [&](std::unique_ptr<Link> link, const Peer& peer) {
    refuse_unless(peer.role != Role::helper, peer, "providers and users");
    service.serve(std::move(link), peer.role, number_of(peer));
  });
}

// Of answers, by the record of the user's invite.
std::uint64_t allowance_of(const std::string& identity, const Peer& peer) {
  const UserRecord record = load_record(record_path(identity, peer.name));
  if (record.fingerprint != peer.fingerprint) throw Error(Code::mismatch, "certificate", fmt::format("\"{}\" is not the one of the invite in force", peer.name));
  return record.tokens;
}

struct ProviderOptions {
  PartyOptions party;
  std::string model, helper, state;
  ServeOptions serve;
  UserLimits limits;
};

void run_provider(const ProviderOptions& options) {
  const Reporter reporter("provider", options.party.events);
  Executor executor;
  const auto credentials = [&] { return load_credentials(options.party.identity, Role::provider); };
  credentials();  // refused before the long work
  require_peer(options.party.identity, Role::helper);
  const Clock::time_point begin = Clock::now();
  OfferedModel model = offer_model(options.model, options.serve, executor, [&](double fraction) { reporter.progress("load", fraction); });
  if (!options.state.empty()) keep_record(model, options.state, executor);
  double layer_bytes = 0;
  for (const LayerWeights<IntMatrix>& layer : model.weights.layers) {
    for (const IntMatrix* w : {&layer.qkv, &layer.o, &layer.up, &layer.down}) layer_bytes += static_cast<double>(w->packed().size());
  }
  const double load_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const auto dial_within = [&](Clock::duration patience) {
    return shaped(tls_connect(credentials(), options.helper, Role::helper, Clock::now() + patience), options.party.shape);
  };
  const auto dial = [&] { return dial_within(options.party.patience()); };
  ProviderService service(std::move(model), executor, options.party.patience(), dial,
                          [&](const std::string& text) { reporter.note(text); }, options.state);
  service.watch_helper([&] { return dial_within(k_handshake_patience / 2); });
  const Clock::time_point registration = Clock::now();
  service.register_model([&](double fraction) { reporter.progress("registration", fraction); });
  TlsListener listener(credentials, options.party.listen);
  reporter.ready(listener.port(), {{"load_seconds", load_seconds}, {"layer_bytes", layer_bytes},
                                   {"registration_seconds", std::chrono::duration<double>(Clock::now() - registration).count()}});
  serve_forever(listener, options.party.shape, reporter, [&](std::unique_ptr<Link> link, const Peer& peer) {
    refuse_unless(peer.role == Role::user, peer, "users");
    UserLimits limits = options.limits;
    limits.tokens = allowance_of(options.party.identity, peer);
    service.serve(std::move(link), peer.fingerprint, limits);
  });
}

CLI::App* provider_command(CLI::App& parent, const char* description, const std::shared_ptr<ProviderOptions>& options) {
  CLI::App* command = parent.add_subcommand("provider", description);
  command->add_option("--model", options->model, "GGUF file, or ChatGLM-6B's folder");
  add_synthetic_options(*command, options->serve);
  command->add_option("--helper", options->helper, "the helper's address and port");
  command->add_option("--state", options->state, "folder of what is kept between starts: the helper gets a model once, offline material lasts (holds secrets)");
  command->add_option("--user-sessions", options->limits.sessions, "sessions that a user may have at once")->capture_default_str();
  command->add_option("--user-stock", options->limits.stock, "bytes of offline material that are kept for a user")
      ->capture_default_str()->transform(CLI::AsSizeValue(false));
  add_serve_options(*command, options->serve);
  add_party_options(*command, options->party);
  return command;
}

CLI::App* helper_command(CLI::App& parent, const char* description, const std::shared_ptr<HelperOptions>& options) {
  CLI::App* command = parent.add_subcommand("helper", description);
  command->add_option("--store", options->store, "folder of the models, which outlast the process; without it they live in memory");
  add_party_options(*command, options->party);
  return command;
}

}  // namespace

void add_provider(CLI::App& parent) {
  const auto options = std::make_shared<ProviderOptions>();
  CLI::App* command = provider_command(parent, "the model owner: holds the weights, answers without seeing prompts", options);
  for (const char* needed : {"--model", "--helper"}) command->get_option(needed)->required();
  command->callback([options] { run_party(options->party, [&] { run_provider(*options); }); });
  add_settings(*command);
}

void add_helper(CLI::App& parent) {
  const auto options = std::make_shared<HelperOptions>();
  CLI::App* command = helper_command(parent, "the neutral party: deals randomness before requests", options);
  command->callback([options] { run_party(options->party, [&] { run_helper(*options); }); });
  add_settings(*command);
}

void add_provider_doctor(CLI::App& doctor) {
  const auto options = std::make_shared<ProviderOptions>();
  const auto json = std::make_shared<bool>(false);
  CLI::App* command = provider_command(doctor, "a provider's check of its machine and of the link to its helper, with the settings of its service", options);
  command->callback([options, json] {
    const ProviderOptions& o = *options;
    diagnose([&](const OnFinding& tell) { examine_provider({o.party.identity, o.party.listen, o.helper, o.model, o.state, o.party.shape, o.serve.synthetic}, tell); }, *json);
  });
  add_settings(*command);
  add_json(*command, *json);
}

void add_helper_doctor(CLI::App& doctor) {
  const auto options = std::make_shared<HelperOptions>();
  const auto json = std::make_shared<bool>(false);
  CLI::App* command = helper_command(doctor, "a helper's check of its machine and store, with the settings of its service", options);
  command->callback([options, json] {
    diagnose([&](const OnFinding& tell) { examine_helper({options->party.identity, options->party.listen, options->store}, tell); }, *json);
  });
  add_settings(*command);
  add_json(*command, *json);
}

}  // namespace permllm
