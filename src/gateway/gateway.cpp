#include "gateway/gateway.h"

#include <fmt/format.h>

#include <thread>

#include "base/clock.h"
#include "gateway/guard.h"
#include "gateway/reports.h"
#include "gateway/web_assets.h"
#include "service/http_server.h"

namespace permllm {
namespace {

using httplib::Request;
using httplib::Response;
using openai::Json;
using openai::Refusal;

constexpr auto k_ping = std::chrono::seconds(2);
constexpr auto k_look = std::chrono::milliseconds(250);  // between two looks whether a peer is still there
constexpr std::size_t k_most_watchers = 16;              // of the activity
constexpr const char* k_page_policy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri "
    "'none'; form-action 'none'; frame-ancestors 'none'";
constexpr const char* k_no_page = "PermLLM is here; this build has no page. See docs/serve.md.\n";

void put(Response& response, const Json& json) {
  response.status = 200;
  response.set_content(openai::dump(json) + "\n", "application/json");
}
void put(Response& response, const Refusal& refusal) {
  response.status = refusal.status;
  if (refusal.status == 401) response.set_header("WWW-Authenticate", "Bearer");
  if (!refusal.allow.empty()) response.set_header("Allow", refusal.allow);
  if (refusal.retry_after > 0) response.set_header("Retry-After", fmt::format("{}", refusal.retry_after));
  response.set_content(openai::dump(body_of(refusal)) + "\n", "application/json");
}

// What the HTTP library refuses by itself.
Refusal of_status(int status) {
  switch (status) {
    case 404:
      return openai::invalid("there is nothing at this path", "", "", status);
    case 413:
      return openai::invalid("the body is too large", "", "body_too_large", status);
    case 414:
      return openai::invalid("the path is too long", "", "", status);
    default:
      return status >= 500
                 ? Refusal{status, "server_error", "this program made a mistake"}
                 : openai::invalid("the request is not well formed, too long, or came too slowly", "", "", status);
  }
}

HttpLimits limits_for(const GatewayOptions& options) {
  HttpLimits limits;
  limits.answering = options.desk.max_requests + k_most_watchers + 16;
  return limits;
}

}  // namespace

struct Gateway::State {
  State(const Client& with, const GatewayOptions& how, Log& to)
      : client(with),
        options(how),
        log(to),
        model(openai::slug(with.model().name)),
        fingerprint("fp_" + with.model().id.substr(0, 12)),
        created(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                    .count()),
        backend(backend_of(with)),
        desk(*backend, how.desk, to),
        canaries(desk, *backend, how.canaries, to),
        server(limits_for(how)) {}

  void listen();
  void set_up_door();  // who is let in, how refusals look, what is counted
  void set_up_routes();
  void answer(const Request& request, Response& response, bool chat);
  void answer_whole(const std::shared_ptr<AnswerDesk::Ticket>& ticket, const Request& request, Response& response);
  void answer_stream(const std::shared_ptr<AnswerDesk::Ticket>& ticket, const Request& request, Response& response);
  void watch(Response& response);
  void asset(const Request& request, Response& response, const std::string& name);
  Json model_json() const {
    return {{"id", model},
            {"object", "model"},
            {"created", created},
            {"owned_by", "provider"},
            {"context_length", client.model().context}};
  }
  bool serves(const std::string& name) const {
    return name.empty() || name == model || name == "permllm" || name == "default";
  }
  Refusal no_model() const {
    return openai::invalid(fmt::format("there is no such model here; this server has \"{}\"", model), "model",
                           "model_not_found", 404);
  }

  const Client& client;
  const GatewayOptions options;
  Log& log;
  const std::string model, fingerprint;
  const std::int64_t created;
  const Clock::time_point start = Clock::now();
  GatewayMetrics metrics;
  const std::unique_ptr<Backend> backend;
  AnswerDesk desk;
  Canaries canaries;
  std::atomic<std::size_t> watchers = 0;
  std::optional<GatewayGuard> guard;
  HttpServer server;
  int port = 0;
  std::jthread thread;
};

void Gateway::check(const GatewayOptions& options) {
  const ListenAddress listen(options.listen);
  if (!options.key_file.empty()) ApiKeys::of_file(options.key_file);
  if (!options.canaries.file.empty()) {
    if (options.canaries.rate == 0)
      throw Error(Code::usage, "--canary-file", "is for --canaries, which says how often one is asked");
    read_canaries(options.canaries.file);
  }
  if (!listen.loopback && options.key_file.empty()) {
    throw Error(
        Code::usage, "--listen",
        fmt::format("{} can be reached from other machines: --key-file has to name a file of keys", listen.host));
  }
}

void Gateway::State::listen() {
  const ListenAddress address(options.listen);
  port = server.bind(address.host, address.port, "--listen");
  guard.emplace(address, static_cast<std::uint16_t>(port), options.hosts,
                options.key_file.empty() ? ApiKeys() : ApiKeys::of_file(options.key_file), HttpLimits().body_bytes);
  set_up_door();
  set_up_routes();
  thread = std::jthread([this] { server.listen_after_bind(); });
  while (!server.is_running()) std::this_thread::yield();  // a stop before that would be lost
}

void Gateway::State::set_up_door() {
  server.set_default_headers({{"Cache-Control", "no-store"},
                              {"X-Content-Type-Options", "nosniff"},
                              {"Referrer-Policy", "no-referrer"},
                              {"Cross-Origin-Resource-Policy", "same-origin"}});
  server.set_pre_routing_handler([this](const Request& request, Response& response) {
    const auto fault = HttpServer::fault(request);
    const auto refusal = fault ? openai::invalid(fault->why, "", "", fault->status) : guard->refuse(request);
    if (!refusal) return httplib::Server::HandlerResponse::Unhandled;
    put(response, *refusal);
    return httplib::Server::HandlerResponse::Handled;
  });
  server.set_expect_100_continue_handler([this](const Request& request, Response& response) {
    const auto refusal = guard->refuse(request);
    if (refusal) put(response, *refusal);
    return refusal ? refusal->status : 100;
  });
  server.set_error_handler(httplib::Server::Handler([](const Request&, Response& response) {
    if (response.body.empty()) put(response, of_status(response.status));
  }));
  server.set_exception_handler(
      [](const Request&, Response& response, const std::exception_ptr&) { put(response, of_status(500)); });
  // Before the answer leaves, so that whoever has it finds it counted; the library's logger comes behind the last byte.
  server.set_post_routing_handler([this](const Request& request, Response& response) {
    const std::string route = GatewayGuard::route_of(request.path);
    response.set_header("Date", HttpServer::date());
    metrics.count(route, response.status);
    log.write(response.status >= 500 ? Log::Level::warn : Log::Level::debug, "request", route,
              {{"status", response.status}});
  });
}

void Gateway::State::set_up_routes() {
  const auto handler = [](auto body) {
    return [body](const Request& request, Response& response) {
      HttpServer::gone(request);
      try {
        body(request, response);
      } catch (const Error& error) {
        put(response, openai::refusal_of(error));
      }
    };
  };
  server.Post("/v1/chat/completions", handler([this](const Request& q, Response& r) { answer(q, r, true); }));
  server.Post("/v1/completions", handler([this](const Request& q, Response& r) { answer(q, r, false); }));
  server.Post("/tokenize", handler([this](const Request& q, Response& r) {
                const openai::Text text = openai::parse_text(q.body);
                const auto tokens = text.content ? client.tokenize(*text.content)
                                                 : client.tokenize(text.messages, options.desk.conversation);
                put(r, Json{{"tokens", tokens}, {"count", tokens.size()}});
              }));
  server.Get("/v1/models", handler([this](const Request&, Response& r) {
               put(r, Json{{"object", "list"}, {"data", Json::array({model_json()})}});
             }));
  server.Get("/v1/models/(.+)", handler([this](const Request& q, Response& r) {
               serves(q.matches[1]) ? put(r, model_json()) : put(r, no_model());
             }));
  server.Get("/health", handler([this](const Request& q, Response& r) {
               constexpr const char* names[] = {"unknown", "reachable", "unreachable"};
               Json health{{"status", "ok"}};  // which whoever watches over the program may know
               if (guard->admits(q)) health["provider"] = names[static_cast<int>(desk.keeper().provider())];
               put(r, health);
             }));
  server.Get("/metrics", handler([this](const Request&, Response& r) {
               r.set_content(metrics.text(client, desk, canaries), "text/plain; version=0.0.4; charset=utf-8");
             }));
  server.Get("/v1/privacy", handler([this](const Request&, Response& r) { put(r, privacy_of(client, model)); }));
  server.Get("/v1/activity", handler([this](const Request&, Response& r) { watch(r); }));
  server.Get("/", handler([this](const Request& q, Response& r) { asset(q, r, "index.html"); }));
  server.Get("/assets/(.+)", handler([this](const Request& q, Response& r) { asset(q, r, q.matches[1]); }));
}

void Gateway::State::asset(const Request& request, Response& response, const std::string& name) {
  response.set_header("Content-Security-Policy", k_page_policy);
  const WebAsset* found = find_web_asset(name);
  if (found == nullptr) {
    if (name == "index.html") return response.set_content(k_no_page, "text/plain; charset=utf-8");
    return put(response, of_status(404));
  }
  const std::string tag = fmt::format("\"{}\"", found->hash);
  response.headers.erase("Cache-Control");
  response.set_header("Cache-Control", "no-cache");
  response.set_header("ETag", tag);
  if (request.get_header_value("If-None-Match") == tag) {
    response.status = 304;
  } else {
    response.set_content(found->bytes.data(), found->bytes.size(), content_type_of(name));
  }
}

void Gateway::State::answer(const Request& request, Response& response, bool chat) {
  openai::Request asked = chat ? openai::parse_chat(request.body) : openai::parse_completion(request.body);
  if (!serves(asked.model)) return put(response, no_model());
  const std::string key = request.get_header_value("Idempotency-Key");
  if (key.size() > 255) throw Error(Code::usage, "Idempotency-Key", "expected at most 255 characters");
  const std::size_t owner = guard->keys().find(request.get_header_value("Authorization")).value_or(0);
  const bool stream = asked.stream;
  const auto ticket = desk.ask(owner, std::move(asked), openai::Shape(chat, model, fingerprint), key,
                               sha256(request.path + '\n' + request.body));
  canaries.asked();
  stream ? answer_stream(ticket, request, response) : answer_whole(ticket, request, response);
}

void Gateway::State::answer_whole(const std::shared_ptr<AnswerDesk::Ticket>& ticket, const Request& request,
                                  Response& response) {
  AnswerJob& job = **ticket;
  while (!job.done()) {
    job.wait(SIZE_MAX, Clock::now() + k_look);
    if (HttpServer::gone(request)) return put(response, openai::invalid("the connection was closed", "", "", 499));
  }
  if (const auto failure = job.failure()) return put(response, *failure);
  const AnswerJob::Result result = job.result();
  put(response, job.shape.whole(result.text, result.finish, result.usage, result.calls, result.logprobs));
}

void Gateway::State::answer_stream(const std::shared_ptr<AnswerDesk::Ticket>& ticket, const Request& request,
                                   Response& response) {
  AnswerJob& job = **ticket;
  // What fails at once is told by a status.
  for (const Clock::time_point end = Clock::now() + k_ping;
       Clock::now() < end && !job.done() && job.wait(0, std::min(end, Clock::now() + k_look), 0).empty() &&
       job.calls(0).empty();) {
    if (HttpServer::gone(request)) return put(response, openai::invalid("the connection was closed", "", "", 499));
  }
  if (const auto failure = job.failure()) return put(response, *failure);
  struct Sent {
    bool begun = false;
    std::size_t bytes = 0, calls = 0;
    Clock::time_point last = Clock::now();
  };
  const auto write = [](httplib::DataSink& sink, const std::string& text) {
    return sink.write(text.data(), text.size());
  };
  response.status = 200;
  response.set_chunked_content_provider("text/event-stream", [ticket, write, sent = std::make_shared<Sent>()](
                                                                 std::size_t, httplib::DataSink& sink) {
    AnswerJob& made = **ticket;
    const openai::Shape& shape = made.shape;
    const bool usage = made.request.include_usage;
    if (!std::exchange(sent->begun, true) && shape.chat()) write(sink, openai::event(shape.first_chunk(usage)));
    const std::string text = made.wait(sent->bytes, std::min(sent->last + k_ping, Clock::now() + k_look), sent->calls);
    if (!text.empty()) {
      sent->bytes += text.size();
      sent->last = Clock::now();
      return write(sink, openai::event(shape.text_chunk(text, usage)));
    }
    if (const auto calls = made.calls(sent->calls); !calls.empty()) {
      std::string events;
      for (const openai::Call& call : calls) events += shape.call_events(sent->calls++, call, usage);
      sent->last = Clock::now();
      return write(sink, events);
    }
    if (!made.done()) {
      if (Clock::now() < sent->last + k_ping) return true;
      sent->last = Clock::now();
      return write(sink, ": ping\n\n");
    }
    if (const auto failure = made.failure()) {
      write(sink, openai::event(body_of(*failure)));
    } else {
      const AnswerJob::Result result = made.result();
      std::string end = openai::event(shape.last_chunk(result.finish, usage, result.usage, result.logprobs));
      if (usage) end += openai::event(shape.usage_chunk(result.usage));
      write(sink, end + "data: [DONE]\n\n");
    }
    sink.done();
    return true;
  });
}

void Gateway::State::watch(Response& response) {
  if (watchers.fetch_add(1) >= k_most_watchers) {
    --watchers;
    return put(response, Refusal{429, "rate_limit_error", "as many watch the activity as may", "", "queue_full", 5});
  }
  struct Watch {
    explicit Watch(State& of) : state(of) {}
    ~Watch() { --state.watchers; }
    State& state;
    Json said;
    Clock::time_point last{};
  };
  response.set_chunked_content_provider(
      "text/event-stream", [watch = std::make_shared<Watch>(*this)](std::size_t, httplib::DataSink& sink) {
        State& s = watch->state;
        if (watch->last != Clock::time_point{}) std::this_thread::sleep_for(k_look);
        Json now = activity_of(s.client, s.desk, s.canaries, s.options.desk.stock);
        if (now == watch->said && Clock::now() < watch->last + std::chrono::seconds(5)) return true;
        watch->said = now;
        watch->last = Clock::now();
        now["uptime"] = seconds_between(s.start, watch->last);
        const std::string event = openai::event(now);
        return sink.write(event.data(), event.size());
      });
}

Gateway::Gateway(const Client& client, const GatewayOptions& options, Log& log) {
  check(options);
  state_ = std::make_unique<State>(client, options, log);
  state_->listen();
}

Gateway::~Gateway() {
  drain({});
  state_->server.end();
}

std::uint16_t Gateway::port() const { return static_cast<std::uint16_t>(state_->port); }
void Gateway::drain(Clock::duration patience) { state_->desk.drain(patience); }

}  // namespace permllm
