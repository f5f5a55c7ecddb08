#include "service/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>

#include "base/mutex.h"
#include "permllm/version.h"
#include "service/process_limits.h"
#include "session/report.h"

namespace permllm {
namespace {

const prometheus::Histogram::BucketBoundaries k_pass_seconds{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60};

}  // namespace

struct Metrics::State {
  explicit State(Role party) {
    info.Add({{"party", name_of(party)}, {"version", version()}}).Set(1);
    start.Set(std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  }
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& counters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  prometheus::Family<prometheus::Gauge>& gauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }

  prometheus::Family<prometheus::Gauge>& info = gauges("permllm_info", "Which program this is; always 1.");
  prometheus::Gauge& ready =
      gauges("permllm_ready", "1 where /readyz says so, as far as it is known without asking others.").Add({});
  prometheus::Gauge& draining = gauges("permllm_draining", "1 once the process has been told to end.").Add({});
  prometheus::Gauge& open = gauges("permllm_sessions_open", "Sessions under way.").Add({});
  prometheus::Counter& begun = counters("permllm_sessions_begun_total", "Sessions that began.").Add({});
  prometheus::Family<prometheus::Counter>& ended = counters("permllm_sessions_ended_total",
                                                            "Sessions by how they ended: ended in peace, failed (after "
                                                            "they began) or refused (before), and the error's code.");
  prometheus::Counter& session_seconds =
      counters("permllm_session_seconds_total", "Seconds that sessions lasted, added up when they ended.").Add({});
  prometheus::Histogram& passes =
      prometheus::BuildHistogram()
          .Name("permllm_pass_seconds")
          .Help("Time of a pass through the model (a prompt, or a token), with the user's part and the network.")
          .Register(registry)
          .Add({}, k_pass_seconds);
  prometheus::Histogram& prompts =
      prometheus::BuildHistogram()
          .Name("permllm_prompt_seconds")
          .Help("Time of those passes that had a prompt, or a draft: of more rows than one.")
          .Register(registry)
          .Add({}, k_pass_seconds);
  prometheus::Counter& rows =
      counters("permllm_rows_total", "Rows: tokens that went through the model, of prompts, answers and drafts.")
          .Add({});
  prometheus::Counter& tokens = counters("permllm_tokens_total", "Tokens of answers, with drafted ones.").Add({});
  prometheus::Family<prometheus::Gauge>& certificate =
      gauges("permllm_certificate_days_left", "Whole days that this party's certificate holds.");
  prometheus::Family<prometheus::Counter>& offline =
      counters("permllm_offline_bytes_total", "Offline material that came in, by who sent it.");
  prometheus::Counter& offline_of_helper = offline.Add({{"from", "helper"}});
  prometheus::Counter& offline_of_user = offline.Add({{"from", "user"}});
  prometheus::Gauge& model = gauges("permllm_model_bytes", "Bytes of model held for sessions.").Add({});
  prometheus::Family<prometheus::Gauge>& stock =
      gauges("permllm_stock_bytes", "Bytes of offline material that are kept and not used yet.");
  prometheus::Family<prometheus::Gauge>& disk_free =
      gauges("permllm_disk_free_bytes", "Bytes that the disk of the offline material, or of the models, has left.");
  prometheus::Family<prometheus::Gauge>& links =
      gauges("permllm_connections", "Open connections, by whether their handshake is done.");
  prometheus::Gauge& handshaking = links.Add({{"stage", "handshake"}});
  prometheus::Gauge& served = links.Add({{"stage", "served"}});
  prometheus::Counter& connections =
      counters("permllm_connections_total", "Connections whose handshake was done.").Add({});
  prometheus::Family<prometheus::Counter>& refused = counters(
      "permllm_refused_handshakes_total", "Connections that ended before their handshake was done, by reason.");
  prometheus::Counter& crowded = counters("permllm_refused_connections_total",
                                          "Peers that were turned away after their handshake, for want of room.")
                                     .Add({});
  prometheus::Gauge& memory = gauges("process_resident_memory_bytes", "Memory in use.").Add({});
  prometheus::Counter& cpu =
      counters("process_cpu_seconds_total", "CPU time, of the system and of the program.").Add({});
  prometheus::Gauge& files = gauges("process_open_fds", "Open files.").Add({});
  prometheus::Gauge& most_files = gauges("process_max_fds", "The most that may be open.").Add({});
  prometheus::Gauge& start =
      gauges("process_start_time_seconds", "Start of the process, in seconds since 1970.").Add({});

  Mutex mutex;
  std::function<Now()> source GUARDED_BY(mutex);
};

Metrics::Metrics(Role party) : state_(new State(party)) {}

Metrics::~Metrics() = default;

void Metrics::count(const Event& event) {
  State& s = *state_;
  const auto ended = [&](const char* outcome) {
    s.ended.Add({{"outcome", outcome}, {"code", event.error ? name_of(*event.error) : "none"}}).Increment();
  };
  switch (event.kind) {
    case Event::Kind::note:
      break;
    case Event::Kind::connection_failed:
      if (event.session == 0 && event.error != Code::closed) ended("refused");
      break;
    case Event::Kind::session_begins:
      s.begun.Increment();
      s.open.Increment();
      break;
    case Event::Kind::session_ends:
      s.open.Decrement();
      s.session_seconds.Increment(event.seconds);
      ended(event.error ? "failed" : "ended");
      break;
    case Event::Kind::pass:
      s.passes.Observe(event.seconds);
      if (event.rows > 1) s.prompts.Observe(event.seconds);
      s.rows.Increment(static_cast<double>(event.rows));
      s.tokens.Increment(static_cast<double>(event.tokens));
      break;
    case Event::Kind::material:
      (event.from == Role::user ? s.offline_of_user : s.offline_of_helper).Increment(static_cast<double>(event.bytes));
      break;
  }
}

void Metrics::count_connection() { state_->connections.Increment(); }

void Metrics::count_refused_handshake(const char* reason) { state_->refused.Add({{"reason", reason}}).Increment(); }

void Metrics::count_refused_connection() { state_->crowded.Increment(); }

void Metrics::set_model_bytes(double bytes) { state_->model.Set(bytes); }

void Metrics::set_source(std::function<Now()> source) {
  const Lock lock(state_->mutex);
  state_->source = std::move(source);
}

std::string Metrics::text() {
  State& s = *state_;
  const Lock lock(s.mutex);
  const Now now = s.source ? s.source() : Now{};
  s.ready.Set(now.ready);
  s.draining.Set(now.draining);
  s.handshaking.Set(static_cast<double>(now.handshakes));
  s.served.Set(static_cast<double>(now.connections));
  if (now.certificate_days) s.certificate.Add({}).Set(*now.certificate_days);
  if (now.stock) s.stock.Add({}).Set(static_cast<double>(*now.stock));
  if (now.disk_free) s.disk_free.Add({}).Set(static_cast<double>(*now.disk_free));
  s.memory.Set(static_cast<double>(memory_in_use().resident));
  s.cpu.Increment(report_of_this_process().cpu_seconds - s.cpu.Value());
  s.files.Set(static_cast<double>(open_files()));
  s.most_files.Set(static_cast<double>(most_open_files()));
  return prometheus::TextSerializer().Serialize(s.registry.Collect());
}

}  // namespace permllm
