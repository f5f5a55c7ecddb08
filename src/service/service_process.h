// A party's process: signals, log, counters, status, and the server once it is there.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "net/shaped.h"
#include "service/log.h"
#include "service/metrics.h"
#include "service/server.h"
#include "service/settings.h"
#include "service/signals.h"
#include "service/status.h"
#include "session/event.h"

namespace permllm {

// Settings that provider and helper share.
struct ServiceOptions {
  std::string listen = "127.0.0.1:0", identity, status;
  LinkShape shape;
  double patience_seconds = 120;
  Limits limits;
  LogOptions log;
  bool events = false;  // one JSON object a line on standard output, for the program that started this one
  std::shared_ptr<Settings> settings;

  Clock::duration patience() const { return duration_of(patience_seconds); }
};

// To be made before the process has any other thread.
class ServiceProcess {
 public:
  // mapped: the folder or file whose bytes are mapped into memory; may be empty. ready: asked by /readyz once the party serves: why it is not ready;
  // may take seconds.
  ServiceProcess(Role role, ServiceOptions& options, const std::string& mapped, std::function<std::string()> ready);

  Metrics& metrics() { return metrics_; }
  void note(const char* event, const std::string& text);
  OnEvent on_event();
  // What the party is at before it serves.
  void progress(const char* what, double fraction);
  // What it waits for before it serves, in words for /readyz, the manager and the log.
  void wait_for(const std::string& what);
  // Called when a signal begins the end, beside admit's refusals. To be set before serve.
  void set_drain(std::function<void()> drain) { drain_ = std::move(drain); }
  // A new session. Errors: resource.
  void admit() const;
  std::size_t most_sessions() const { return session_limit_; }
  // Serves until a signal ends it. facts: of the ready event. of_disk: adds what /metrics says of it.
  void serve(TlsListener& listener, Server::Handler handler, nlohmann::json facts,
             std::function<void(Metrics::Now&)> of_disk);

 private:
  void set_state(const std::string& state);
  // The limits in force: those of the options, or fewer connections where the system allows too few open files.
  Limits limits();
  std::string short_of_memory() const;
  // Why the party is not ready, as far as this process knows without asking others; empty: it is.
  std::string own_state();
  std::string why_not_ready();
  Metrics::Now now();
  void write(const Event& event);
  void handle(int number);
  void reload();

  const Role role_;
  ServiceOptions& options_;
  Log log_;
  Metrics metrics_;
  const std::string mapped_;
  const std::function<std::string()> ready_;
  std::function<void()> drain_ = [] {};
  const std::size_t files_;
  std::atomic<bool> draining_ = false;
  std::atomic<std::size_t> memory_limit_ = 0, session_limit_ = 0;
  LineBound refusals_, empty_sessions_;
  std::string doing_;  // of progress, since when, and when the log was told
  Clock::time_point begun_{}, told_{};
  Mutex mutex_;                           // of the options that are reloaded, too
  std::string state_ GUARDED_BY(mutex_);  // before the server is there
  Server* server_ GUARDED_BY(mutex_) = nullptr;
  std::function<void(Metrics::Now&)> of_disk_ GUARDED_BY(mutex_);
  Signals signals_;
  std::optional<StatusServer> status_;
};

}  // namespace permllm
