#include "service/service_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

#include "base/small_file.h"
#include "service/identity.h"
#include "service/print_event.h"
#include "service/process_limits.h"

namespace permllm {
namespace {

// Lines a minute in the log, of what a peer causes behind its handshake: refusals in all and of one peer; sessions of one peer that came to nothing,
// at their beginning and end. An invite bounds how many peers there are.
constexpr std::size_t k_refusals_in_all = 60, k_refusals_of_one = 20, k_empty_sessions_of_one = 60;

constexpr auto k_silence = std::chrono::seconds(2);
const std::vector<std::string> k_reloadable{"log-level",    "max-connections", "max-handshakes", "max-per-user",
                                            "max-sessions", "max-memory",      "drain"};

}  // namespace

ServiceProcess::ServiceProcess(Role role, ServiceOptions& options, const std::string& mapped,
                               std::function<std::string()> ready)
    : role_(role),
      options_(options),
      log_(name_of(role), options.log),
      metrics_(role),
      mapped_(mapped),
      ready_(std::move(ready)),
      files_(raise_file_limit()),
      refusals_(k_refusals_in_all, k_refusals_of_one),
      empty_sessions_(SIZE_MAX, k_empty_sessions_of_one),
      signals_([this](int number) { handle(number); }) {
  signals_.watch_mapped_files();
  if (options.status.empty()) return;
  metrics_.set_source([this] { return now(); });
  status_.emplace(
      options.status, [this] { return why_not_ready(); }, [this] { return metrics_.text(); });
  note("status", fmt::format("status on port {}", status_->port()));
  if (options.events) print_event({{"event", "status"}, {"port", status_->port()}});
}

void ServiceProcess::note(const char* event, const std::string& text) { log_.write(Log::Level::info, event, text); }
OnEvent ServiceProcess::on_event() {
  return [this](const Event& event) {
    metrics_.count(event);
    write(event);
  };
}

void ServiceProcess::progress(const char* what, double fraction) {
  set_state(fmt::format("{}: {:.0f} %", what, fraction * 100));
  if (options_.events) print_event({{"event", "progress"}, {"what", what}, {"fraction", fraction}});
  const Clock::time_point now = Clock::now();
  if (what != doing_) doing_ = what, begun_ = told_ = now;
  if (now - told_ < k_silence || fraction < 0.02) return;
  told_ = now;
  const double seconds = seconds_between(begun_, now);
  note("progress", fmt::format("{} of the model: {:.0f} %, about {:.0f} s left", what, fraction * 100,
                               seconds * (1 / fraction - 1)));
}

void ServiceProcess::wait_for(const std::string& what) {
  {
    const Lock lock(mutex_);
    if (state_ == what) return;
  }
  set_state(what);
  log_.write(Log::Level::warn, "waiting", what);
  if (options_.events) print_event({{"event", "progress"}, {"what", what}, {"fraction", 0}});
}

void ServiceProcess::admit() const {
  if (draining_) throw Error(Code::resource, Reason::busy, name_of(role_), "is shutting down");
  const std::string reason = short_of_memory();
  if (!reason.empty()) throw Error(Code::resource, Reason::busy, name_of(role_), reason);
}

void ServiceProcess::serve(TlsListener& listener, Server::Handler handler, nlohmann::json facts,
                           std::function<void(Metrics::Now&)> of_disk) {
  Server server(listener, std::move(handler), limits(), log_, metrics_);
  {
    const Lock lock(mutex_);
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
    const Lock lock(mutex_);
    server_ = nullptr;
  }
  note("end", "ends");
  if (!all_ended) std::_Exit(0);  // a thread that computes cannot be hurried
}

void ServiceProcess::set_state(const std::string& state) {
  const Lock lock(mutex_);
  if (state == state_) return;
  state_ = state;
  notify_manager("STATUS=" + state);
}

Limits ServiceProcess::limits() {
  const Lock lock(mutex_);
  Limits limits = options_.limits;
  // A link takes four descriptors; a provider's session has another link, to the helper.
  const std::size_t most = std::max<std::size_t>(4, (files_ - std::min<std::size_t>(files_, 64)) / 8);
  if (limits.connections > most) {
    log_.write(
        Log::Level::warn, "few_files",
        fmt::format("{} open files are allowed, enough for {} connections, not {}", files_, most, limits.connections));
    limits.connections = most;
  }
  memory_limit_ = limits.memory;
  session_limit_ = limits.sessions;
  return limits;
}

std::string ServiceProcess::short_of_memory() const {
  return exceeds_memory(memory_limit_) ? "the process has as much memory as it may" : "";
}

std::string ServiceProcess::own_state() {
  if (draining_) return "shutting down";
  const Lock lock(mutex_);
  return server_ == nullptr ? (state_.empty() ? "starting" : state_) : short_of_memory();
}

std::string ServiceProcess::why_not_ready() {
  const std::string state = own_state();
  return state.empty() ? ready_() : state;
}

Metrics::Now ServiceProcess::now() {
  Metrics::Now now;
  now.ready = own_state().empty();
  now.draining = draining_;
  try {
    const std::filesystem::path path = std::filesystem::path(options_.identity) / "certificate.pem";
    now.certificate_days = Certificate::parse(read_small_file(path), path.string()).days_left();
  } catch (const Error&) {
    // Nothing is told of it.
  }
  const Lock lock(mutex_);
  if (server_ != nullptr) {
    const Server::Count count = server_->count();
    now.handshakes = count.handshakes;
    now.connections = count.served;
    of_disk_(now);
  }
  return now;
}

void ServiceProcess::write(const Event& event) {
  nlohmann::ordered_json fields = nlohmann::ordered_json::object();
  // The first half alone: enough to find a session at the other parties, not enough to join it.
  if (event.session != 0) fields["session"] = fmt::format("{:08x}", event.session >> 32);
  if (event.error) fields["code"] = name_of(*event.error);
  if (event.reason != Reason::none) fields["reason"] = name_of(event.reason);
  switch (event.kind) {
    case Event::Kind::note:
      if (event.peer.empty()) return note("note", event.text);
      return log_.write(Log::Level::info, "note", event.text, fields, refusals_, event.peer);
    case Event::Kind::connection_failed:
      // Nobody else tells the owner that the material of a session found no room.
      if (event.reason == Reason::disk_full)
        return log_.write(Log::Level::error, "disk_full", event.text, fields, refusals_, event.peer);
      // A peer that leaves before a session is no refusal; of a session's further connections the session tells itself.
      if (event.session != 0 || event.error == Code::closed)
        return log_.write(Log::Level::debug, "connection_fails", event.text, fields);
      return log_.write(Log::Level::warn, "connection_fails", event.text, fields, refusals_, event.peer);
    case Event::Kind::session_begins:
      return log_.write(Log::Level::info, "session_begins", event.text, fields, empty_sessions_, event.peer);
    case Event::Kind::session_ends: {
      fields["seconds"] = event.seconds;
      const Log::Level level = event.error ? Log::Level::warn : Log::Level::info;
      const char* name = event.error ? "session_fails" : "session_ends";
      if (!event.worked) return log_.write(level, name, event.text, fields, empty_sessions_, event.peer);
      empty_sessions_.give_back(event.peer);  // its beginning
      return log_.write(level, name, event.text, fields);
    }
    case Event::Kind::pass:
    case Event::Kind::material:
      return;  // counted alone: lines would tell a prompt's length
  }
}

void ServiceProcess::handle(int number) {
  if (number == SIGBUS) {
    log_.write(
        Log::Level::error, "file_lost",
        fmt::format(
            "{} cannot be read any more: it was cut short or its disk fails (SIGBUS). The {} ends; start it again{}",
            mapped_.empty() ? "a mapped file" : "a file of " + mapped_, name_of(role_),
            role_ == Role::helper
                ? ", and it names the models that are damaged, which their providers send again when they are started"
                : " once the file is whole"));
    std::_Exit(1);
  }
  if (number == SIGHUP) return reload();
  const Lock lock(mutex_);
  if (draining_.exchange(true) || server_ == nullptr) {
    log_.write(Log::Level::info, "end", "ends at once");
    std::_Exit(0);
  }
  notify_manager("STOPPING=1\nSTATUS=waiting for sessions to end");
  log_.write(Log::Level::info, "drain",
             fmt::format("no new sessions; those under way have {} s to end", options_.limits.drain_seconds));
  drain_();
  server_->drain();
}

void ServiceProcess::reload() {
  notify_reloading();
  try {
    Settings::Reloaded reloaded;
    {
      const Lock lock(mutex_);
      reloaded = options_.settings->reload(k_reloadable);
    }
    log_.set_level(options_.log.level);
    const Limits now = limits();
    const Credentials credentials = load_credentials(options_.identity, role_);
    {
      const Lock lock(mutex_);
      if (server_ != nullptr) server_->set_limits(now);
    }
    log_.write(
        reloaded.need_a_restart.empty() ? Log::Level::info : Log::Level::warn, "reload",
        fmt::format("reloaded: {}; certificate until {}, {} trusted keys{}", reloaded.changes(),
                    credentials.identity.certificate.last_day(), credentials.trust.pins.size(), reloaded.restarts()));
  } catch (const Error& error) {
    log_.write(Log::Level::error, "reload_fails", fmt::format("not reloaded: {}", error.what()),
               {{"code", name_of(error.code())}});
  }
  const Lock lock(mutex_);
  if (server_ != nullptr && !draining_) notify_manager("READY=1");
}

}  // namespace permllm
