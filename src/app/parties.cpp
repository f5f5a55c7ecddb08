#include "app/parties.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>

#include "app/doctor.h"
#include "app/identity.h"
#include "app/links.h"
#include "app/load.h"
#include "app/log.h"
#include "app/metrics.h"
#include "app/process.h"
#include "app/process_limits.h"
#include "app/server.h"
#include "app/settings.h"
#include "app/signals.h"
#include "app/status.h"
#include "base/heap.h"
#include "engine/helper_service.h"
#include "engine/provider_service.h"
#include "net/share.h"
#include "net/tls.h"
#include "net/units.h"

namespace permllm {
namespace {

// Lines a minute in the log, of what a peer causes behind its handshake: refusals in all and of one peer; sessions of one peer that came to nothing,
// at their beginning and end. An invite bounds how many peers there are.
constexpr std::size_t k_refusals_in_all = 60, k_refusals_of_one = 20, k_empty_sessions_of_one = 60;

// What both commands share.
struct PartyOptions {
  std::string listen = "127.0.0.1:0", identity, status;
  LinkShape shape;
  double patience_seconds = 120;
  Limits limits;
  LogOptions log;
  bool events = false;  // one JSON object a line on standard output, for the program that started this one
  std::shared_ptr<Settings> settings;

  Clock::duration patience() const {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(patience_seconds));
  }
};

constexpr auto k_silence = std::chrono::seconds(2);
const std::vector<std::string> k_reloadable{"log-level", "max-connections", "max-handshakes", "max-per-user", "max-sessions", "max-memory", "drain"};

void add_party_options(CLI::App& command, PartyOptions& options, const std::string& status_example) {
  command.add_option("--listen", options.listen, "address and port to listen on; port 0 lets the system choose")
      ->capture_default_str();
  command.add_option("--identity", options.identity, "this party's directory, made by permllm keygen; what changes in it holds from the next connection on")
      ->required();
  command.add_option("--patience", options.patience_seconds, "seconds to wait for a peer before giving up")
      ->capture_default_str()->check(CLI::PositiveNumber);
  add_limits(command, options.limits);
  command.add_option("--status", options.status, "loopback address for /healthz, /readyz and /metrics, like " + status_example + "; off without it");
  add_log_options(command, options.log);
  add_link_shape(command, options.shape);
  command.add_flag("--events", options.events, "print events as JSON lines on standard output");
}

// A party's process: signals, log, counters, status, and the server once it is there. Made before any other thread.
class Party {
 public:
  // mapped: the folder or file whose bytes are mapped into memory; may be empty. ready: asked by /readyz once the party serves: why it is not ready;
  // may take seconds.
  Party(Role role, PartyOptions& options, const std::string& mapped, std::function<std::string()> ready)
      : role_(role), options_(options), log_(name_of(role), options.log), metrics_(role), mapped_(mapped), ready_(std::move(ready)),
        files_(raise_file_limit()), signals_([this](int number) { handle(number); }) {
    signals_.watch_mapped_files();
    if (options.status.empty()) return;
    metrics_.set_source([this] { return now(); });
    status_.emplace(options.status, [this] { return why_not_ready(); }, [this] { return metrics_.text(); });
    note("status", fmt::format("status on port {}", status_->port()));
    if (options.events) print_event({{"event", "status"}, {"port", status_->port()}});
  }

  Log& log() { return log_; }
  Metrics& metrics() { return metrics_; }
  void note(const char* event, const std::string& text) { log_.write(Log::Level::info, event, text); }
  OnEvent on_event() {
    return [this](const Event& event) {
      metrics_.count(event);
      write(event);
    };
  }
  // What the party is at before it serves.
  void progress(const char* what, double fraction) {
    set_state(fmt::format("{}: {:.0f} %", what, fraction * 100));
    if (options_.events) print_event({{"event", "progress"}, {"what", what}, {"fraction", fraction}});
    const Clock::time_point now = Clock::now();
    if (what != doing_) doing_ = what, begun_ = told_ = now;
    if (now - told_ < k_silence || fraction < 0.02) return;
    told_ = now;
    const double seconds = std::chrono::duration<double>(now - begun_).count();
    note("progress", fmt::format("{} of the model: {:.0f} %, about {:.0f} s left", what, fraction * 100, seconds * (1 / fraction - 1)));
  }
  // A new session. Errors: resource.
  void admit() const {
    if (draining_) throw Error(Code::resource, name_of(role_), "is shutting down; try again in a moment");
    const std::string reason = short_of_memory();
    if (!reason.empty()) throw Error(Code::resource, name_of(role_), reason + "; try again later");
  }
  std::size_t most_sessions() const { return session_limit_; }
  // Serves until a signal ends it. facts: of the ready event. of_disk: adds what /metrics says of it.
  void serve(TlsListener& listener, Server::Handler handler, nlohmann::json facts, std::function<void(Metrics::Now&)> of_disk) {
    Server server(listener, std::move(handler), limits(), log_, metrics_);
    {
      const std::lock_guard lock(mutex_);
      server_ = &server;
      of_disk_ = std::move(of_disk);
      state_.clear();
    }
    log_.write(Log::Level::info, "ready", fmt::format("listening on port {}", listener.port()));
    if (options_.events) {
      facts["event"] = "ready";
      facts["port"] = listener.port();
      print_event(facts);
    }
    notify_manager("READY=1\nSTATUS=serving");
    const bool all_ended = server.run();
    {
      const std::lock_guard lock(mutex_);
      server_ = nullptr;
    }
    note("end", "ends");
    if (!all_ended) std::_Exit(0);  // a thread that computes cannot be hurried
  }

 private:
  void set_state(const std::string& state) {
    const std::lock_guard lock(mutex_);
    if (state == state_) return;
    state_ = state;
    notify_manager("STATUS=" + state);
  }
  Limits limits() {  // as asked for, as far as the system has files for it
    const std::lock_guard lock(mutex_);
    Limits limits = options_.limits;
    // A link takes four descriptors; a provider's session has another link, to the helper.
    const std::size_t most = std::max<std::size_t>(4, (files_ - std::min<std::size_t>(files_, 64)) / 8);
    if (limits.connections > most) {
      log_.write(Log::Level::warn, "few_files", fmt::format("{} open files are allowed, enough for {} connections, not {}", files_, most, limits.connections));
      limits.connections = most;
    }
    memory_limit_ = limits.memory;
    session_limit_ = limits.sessions;
    return limits;
  }
  std::string short_of_memory() const { return exceeds_memory(memory_limit_) ? "the process has as much memory as it may"  : ""; }

  // Why not, as far as this process knows without asking others.
  std::string own_state() {
    if (draining_) return "shutting down";
    const std::lock_guard lock(mutex_);
    return server_ == nullptr ? (state_.empty() ? "starting" : state_) : short_of_memory();
  }
  std::string why_not_ready() {
    const std::string state = own_state();
    return state.empty() ? ready_() : state;
  }
  Metrics::Now now() {
    Metrics::Now now;
    now.ready = own_state().empty();
    now.draining = draining_;
    const std::lock_guard lock(mutex_);
    if (server_ != nullptr) {
      const Server::Count count = server_->count();
      now.handshakes = count.handshakes;
      now.connections = count.served;
      of_disk_(now);
    }
    return now;
  }

  void write(const Event& event) {
    nlohmann::ordered_json fields = nlohmann::ordered_json::object();
    // The first half alone: enough to find a session at the other parties, not enough to join it.
    if (event.session != 0) fields["session"] = fmt::format("{:08x}", event.session >> 32);
    if (event.error) fields["code"] = name_of(*event.error);
    switch (event.kind) {
      case Event::Kind::note:
        if (event.peer.empty()) return note("note", event.text);
        return log_.write(Log::Level::info, "note", event.text, fields, refusals_, event.peer);
      case Event::Kind::connection_failed:
        // A peer that leaves before a session is no refusal; of a session's further connections the session tells itself.
        if (event.session != 0 || event.error == Code::closed) return log_.write(Log::Level::debug, "connection_fails", event.text, fields);
        return log_.write(Log::Level::warn, "connection_fails", event.text, fields, refusals_, event.peer);
      case Event::Kind::session_begins: return log_.write(Log::Level::info, "session_begins", event.text, fields, empty_sessions_, event.peer);
      case Event::Kind::session_ends: {
        fields["seconds"] = event.seconds;
        const Log::Level level = event.error ? Log::Level::warn : Log::Level::info;
        const char* name = event.error ? "session_fails" : "session_ends";
        if (!event.worked) return log_.write(level, name, event.text, fields, empty_sessions_, event.peer);
        empty_sessions_.give_back(event.peer);  // its beginning
        return log_.write(level, name, event.text, fields);
      }
      case Event::Kind::pass:
      case Event::Kind::material: return;  // counted alone: lines would tell a prompt's length
    }
  }

  void handle(int number) {
    if (number == SIGBUS) {
      log_.write(Log::Level::error, "file_lost",
                 fmt::format("{} cannot be read any more: it was cut short or its disk fails (SIGBUS). The {} ends; start it again{}",
                             mapped_.empty() ? "a mapped file" : "a file of " + mapped_, name_of(role_),
                             role_ == Role::helper ? ", and it names the models that are damaged, which their providers send again when they are started" : " once the file is whole"));
      std::_Exit(1);
    }
    if (number == SIGHUP) return reload();
    const std::lock_guard lock(mutex_);
    if (draining_.exchange(true) || server_ == nullptr) {
      log_.write(Log::Level::info, "end", "ends at once");
      std::_Exit(0);
    }
    notify_manager("STOPPING=1\nSTATUS=waiting for sessions to end");
    log_.write(Log::Level::info, "drain", fmt::format("no new sessions; those under way have {} s to end", options_.limits.drain_seconds));
    server_->drain();
  }
  void reload() {
    notify_reloading();
    try {
      Settings::Reloaded reloaded;
      {
        const std::lock_guard lock(mutex_);
        reloaded = options_.settings->reload(k_reloadable);
      }
      log_.set_level(options_.log.level);
      const Limits now = limits();
      const Credentials credentials = load_credentials(options_.identity, role_);
      {
        const std::lock_guard lock(mutex_);
        if (server_ != nullptr) server_->set_limits(now);
      }
      log_.write(reloaded.need_a_restart.empty() ? Log::Level::info : Log::Level::warn, "reload",
                 fmt::format("reloaded: {}; certificate until {}, {} trusted keys{}", reloaded.changes(), credentials.identity.certificate.last_day(),
                             credentials.trust.pins.size(), reloaded.restarts()));
    } catch (const Error& error) {
      log_.write(Log::Level::error, "reload_fails", fmt::format("not reloaded: {}", error.what()), {{"code", name_of(error.code())}});
    }
    const std::lock_guard lock(mutex_);
    if (server_ != nullptr && !draining_) notify_manager("READY=1");
  }

  const Role role_;
  PartyOptions& options_;
  Log log_;
  Metrics metrics_;
  const std::string mapped_;
  const std::function<std::string()> ready_;
  const std::size_t files_;
  std::atomic<bool> draining_ = false;
  std::atomic<std::size_t> memory_limit_ = 0, session_limit_ = 0;
  LineBound refusals_{k_refusals_in_all, k_refusals_of_one}, empty_sessions_{SIZE_MAX, k_empty_sessions_of_one};
  std::string doing_;  // of progress, since when, and when the log was told
  Clock::time_point begun_{}, told_{};
  std::mutex mutex_;  // of the options that are reloaded and of what follows
  std::string state_;          // before the server is there
  Server* server_ = nullptr;
  std::function<void(Metrics::Now&)> of_disk_;
  Signals signals_;
  std::optional<StatusServer> status_;
};

void refuse_unless(bool fits, const Peer& peer, const char* who) {
  if (!fits) throw Error(Code::mismatch, "certificate", fmt::format("{} \"{}\": only {} connect here", name_of(peer.role), peer.name, who));
}

// Without any there is nobody to work with.
void require_peer(const std::string& identity, Role role) {
  for (const Certificate& peer : load_peers(identity)) {
    if (peer.role() == role) return;
  }
  throw Error(Code::file, identity + "/peers", fmt::format("holds no {0}'s certificate; copy the {0}'s certificate.pem there, like {0}.pem", name_of(role)));
}

// Runs a party; with --events its error goes to the program that started it.
void run_party(const PartyOptions& options, const std::function<void()>& run) {
  keep_to_itself();
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

void run_helper(HelperOptions& helper) {
  PartyOptions& options = helper.party;
  Party party(Role::helper, options, helper.store, [] { return ""; });
  Executor executor;
  const LiveDirectory directory(options.identity, Role::helper);
  TlsListener listener([&] { return directory.credentials(); }, options.listen);
  require_peer(options.identity, Role::provider);
  HelperService service(executor, options.patience(), party.on_event(), helper.store);
  service.set_admission([&] { party.admit(); });
  party.serve(listener, {[](const Peer& peer) { refuse_unless(peer.role != Role::helper, peer, "providers and users"); },
                         [&](std::unique_ptr<Link> link, const Peer& peer) {
    service.serve(shaped(std::move(link), options.shape, peer.role == Role::provider), peer);
  }, HelperService::room()}, {}, [&](Metrics::Now& now) {
    std::error_code error;
    const auto disk = std::filesystem::space(helper.store, error);
    if (!helper.store.empty() && !error) now.disk_free = disk.available;
  });
}

// Of answers, by the record of the user's invite.
std::uint64_t allowance_of(const LiveDirectory& directory, const Peer& peer) {
  const UserRecord record = directory.record(peer.name);
  if (record.key != peer.key) throw Error(Code::mismatch, "certificate", fmt::format("\"{}\" is not the one of the invite in force", peer.name));
  return record.tokens;
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

Clock::duration seconds(double number) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(number)); }

constexpr std::size_t k_most_sessions = 64;

struct ProviderOptions {
  PartyOptions party;
  std::string model, helper, state, user_bandwidth = "0";
  double grace_seconds = std::chrono::duration<double>(k_default_grace).count(), idle_seconds = 600;
  ServeOptions serve;
  UserLimits limits;
};

void run_provider(ProviderOptions& options) {
  const LiveDirectory directory(options.party.identity, Role::provider);
  const auto credentials = [&] { return directory.credentials(); };
  ProviderService* serving = nullptr;  // asked once it serves
  Party party(Role::provider, options.party, options.model, [&] {
    const std::string disk = serving->disk_trouble();
    return disk.empty() ? serving->helper_trouble() : disk;
  });
  Executor executor;
  credentials();  // refused before the long work
  parse_bandwidth(options.user_bandwidth, "--user-bandwidth");
  require_peer(options.party.identity, Role::helper);
  const Clock::time_point begin = Clock::now();
  OfferedModel model = offer_model(options.model, options.serve, executor, [&](double fraction) { party.progress("load", fraction); });
  if (!options.state.empty()) keep_record(model, options.state, executor);
  double layer_bytes = 0;
  for (const LayerWeights<IntMatrix>& layer : model.weights.layers) {
    for (const IntMatrix* w : {&layer.qkv, &layer.o, &layer.up, &layer.down}) layer_bytes += static_cast<double>(w->packed().size());
  }
  party.metrics().set_model_bytes(layer_bytes);
  const double load_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const auto dial_within = [&](Clock::duration patience) {
    return shaped(tls_connect(credentials(), options.helper, Role::helper, Clock::now() + patience), options.party.shape);
  };
  ProviderService service(std::move(model), executor, options.party.patience(), [&] { return dial_within(options.party.patience()); },
                          party.on_event(), options.state, seconds(options.grace_seconds), seconds(options.idle_seconds));
  serving = &service;
  try {
    service.drop_stock_unless([in_force = invites_in_force(options.party.identity)](const std::string& user) { return in_force.contains(user); });
  } catch (const Error& error) {  // whose a damaged record is is not known: nobody's material goes
    party.note("note", fmt::format("offline material of users without an invite is kept: {}", error.what()));
  }
  service.set_admission([&] { party.admit(); }, [&] { return party.most_sessions(); });
  service.watch_helper([&] { return dial_within(std::chrono::seconds(3)); });
  const Clock::time_point registration = Clock::now();
  party.progress("registration", 0);
  service.register_model([&](double fraction) { party.progress("registration", fraction); });
  TlsListener listener(credentials, options.party.listen);
  BandwidthByUser bandwidth(parse_bandwidth(options.user_bandwidth, "--user-bandwidth"));
  party.serve(listener, {[](const Peer& peer) { refuse_unless(peer.role == Role::user, peer, "users"); },
                         [&](std::unique_ptr<Link> link, const Peer& peer) {
    UserLimits limits = options.limits;
    limits.tokens = allowance_of(directory, peer);
    service.serve(shaped(bandwidth.throttled(std::move(link), peer.key), options.party.shape), peer, limits);
  }, service.room()}, {{"load_seconds", load_seconds}, {"layer_bytes", layer_bytes},
       {"registration_seconds", std::chrono::duration<double>(Clock::now() - registration).count()}}, [&](Metrics::Now& now) {
    now.stock = service.stock_bytes();
    now.disk_free = service.disk_free();
  });
}

CLI::App* provider_command(CLI::App& parent, const char* description, const std::shared_ptr<ProviderOptions>& options) {
  CLI::App* command = parent.add_subcommand("provider", description);
  command->add_option("--model", options->model, "GGUF file, or ChatGLM-6B's folder");
  add_synthetic_options(*command, options->serve);
  command->add_option("--helper", options->helper, "the helper's address and port");
  command->add_option("--state", options->state, "folder of what is kept between starts: the helper gets a model once, offline material lasts (holds secrets)");
  command->add_option("--grace", options->grace_seconds, "seconds that a conversation waits for its user whose connection was lost; 0: it ends")
      ->capture_default_str()->check(CLI::Range(0.0, 3600.0));
  command->add_option("--idle", options->idle_seconds, "seconds that a conversation keeps its cache for the user's next turn")
      ->capture_default_str()->check(CLI::Range(1.0, 86400.0));
  options->party.limits.sessions = k_most_sessions;
  command->add_option("--max-sessions", options->party.limits.sessions, "conversations at once, of all users; 0: as many as connections and memory allow")
      ->capture_default_str();
  command->add_option("--user-sessions", options->limits.sessions, "sessions that a user may have at once")->capture_default_str();
  command->add_option("--user-bandwidth", options->user_bandwidth, "what all connections of a user may carry in each direction (100mbit); 0: no limit")
      ->capture_default_str();
  command->add_option("--user-stock", options->limits.stock, "bytes of offline material that are kept for a user")
      ->capture_default_str()->transform(CLI::AsSizeValue(false));
  add_serve_options(*command, options->serve);
  add_party_options(*command, options->party, "127.0.0.1:9464");
  return command;
}

CLI::App* helper_command(CLI::App& parent, const char* description, const std::shared_ptr<HelperOptions>& options) {
  CLI::App* command = parent.add_subcommand("helper", description);
  command->add_option("--store", options->store, "folder of the models, which outlast the process; without it they live in memory");
  add_party_options(*command, options->party, "127.0.0.1:9465");
  return command;
}

}  // namespace

void add_provider(CLI::App& parent) {
  const auto options = std::make_shared<ProviderOptions>();
  CLI::App* command = provider_command(parent, "the model owner: holds the weights, answers without seeing prompts", options);
  for (const char* needed : {"--model", "--helper"}) command->get_option(needed)->required();
  command->callback([options] { run_party(options->party, [&] { run_provider(*options); }); });
  options->party.settings = add_settings(*command);
}

void add_helper(CLI::App& parent) {
  const auto options = std::make_shared<HelperOptions>();
  CLI::App* command = helper_command(parent, "the neutral party: deals randomness before requests", options);
  command->callback([options] { run_party(options->party, [&] { run_helper(*options); }); });
  options->party.settings = add_settings(*command);
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
