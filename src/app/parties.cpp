#include "app/parties.h"

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <list>
#include <thread>

#include "app/identity.h"
#include "app/links.h"
#include "app/load.h"
#include "app/process.h"
#include "app/settings.h"
#include "base/heap.h"
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
      std::fputs(fmt::format("{}: {}\n", party_, text).c_str(), stderr);
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
    std::erase_if(connections, [](const Connection& connection) { return connection.done.load(); });
    try {
      std::unique_ptr<TlsLink> link = listener.accept(Clock::now() + std::chrono::hours(24));
      Connection& connection = connections.emplace_back();
      connection.thread = std::jthread([&, link = std::move(link)]() mutable {
        try {
          const Peer peer = link->handshake(Clock::now() + k_handshake_patience);
          serve(shaped(std::move(link), shape, peer.role == Role::provider), peer);
        } catch (const Error& error) {
          reporter.note(fmt::format("a connection was refused: {}", error.what()));
        }
        link.reset();
        trim_heap();
        connection.done = true;
      });
    } catch (const Error& error) {
      if (error.code() == Code::timeout) continue;
      reporter.note(error.what());  // too many connections: the next ones may do better
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
  prepare_heap();
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

struct ProviderOptions {
  PartyOptions party;
  std::string model, helper, state;
  ServeOptions serve;
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
  const auto dial = [&]() -> std::unique_ptr<Link> {
    return shaped(tls_connect(credentials(), options.helper, Role::helper, Clock::now() + options.party.patience()),
                  options.party.shape);
  };
  ProviderService service(std::move(model), executor, options.party.patience(), dial,
                          [&](const std::string& text) { reporter.note(text); });
  const Clock::time_point registration = Clock::now();
  service.register_model([&](double fraction) { reporter.progress("registration", fraction); });
  TlsListener listener(credentials, options.party.listen);
  reporter.ready(listener.port(), {{"load_seconds", load_seconds}, {"layer_bytes", layer_bytes},
                                   {"registration_seconds", std::chrono::duration<double>(Clock::now() - registration).count()}});
  serve_forever(listener, options.party.shape, reporter, [&](std::unique_ptr<Link> link, const Peer& peer) {
    refuse_unless(peer.role == Role::user, peer, "users");
    service.serve(std::move(link), number_of(peer));
  });
}

}  // namespace

void add_provider(CLI::App& parent) {
  const auto options = std::make_shared<ProviderOptions>();
  CLI::App* command = parent.add_subcommand("provider", "the model owner: holds the weights, answers without seeing prompts");
  command->add_option("--model", options->model, "GGUF file, or ChatGLM-6B's folder")->required();
  add_synthetic_options(*command, options->serve);
  command->add_option("--helper", options->helper, "the helper's address and port")->required();
  command->add_option("--state", options->state, "folder of what is kept between starts: with it, the helper gets a model once (holds secrets)");
  add_serve_options(*command, options->serve);
  add_party_options(*command, options->party);
  command->callback([options] { run_party(options->party, [&] { run_provider(*options); }); });
  add_settings(*command);
}

void add_helper(CLI::App& parent) {
  const auto options = std::make_shared<HelperOptions>();
  CLI::App* command = parent.add_subcommand("helper", "the neutral party: deals randomness before requests");
  command->add_option("--store", options->store, "folder of the models, which outlast the process; without it they live in memory");
  add_party_options(*command, options->party);
  command->callback([options] { run_party(options->party, [&] { run_helper(*options); }); });
  add_settings(*command);
}

}  // namespace permllm
