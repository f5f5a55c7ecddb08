#include "gateway/gateway.h"

#include <fmt/format.h>

#include <thread>

#include "base/clock.h"
#include "gateway/dialect.h"
#include "gateway/embeddings.h"
#include "gateway/guard.h"
#include "gateway/ollama.h"
#include "gateway/openai_chat.h"
#include "gateway/reports.h"
#include "gateway/web_assets.h"
#include "permllm/version.h"
#include "service/http_server.h"

namespace permllm {
namespace {

using gateway::Dialect;
using gateway::dialect_of;
using gateway::Json;
using gateway::Refusal;
using httplib::Request;
using httplib::Response;

constexpr auto k_ping = std::chrono::seconds(2);
constexpr auto k_look = std::chrono::milliseconds(250);  // between two looks whether a peer is still there
constexpr std::size_t k_most_watchers = 16;              // of the activity
constexpr const char* k_page_policy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri "
    "'none'; form-action 'none'; frame-ancestors 'none'";
constexpr const char* k_no_page = "PermLLM is here; this build has no page. See docs/serve.md.\n";

void put(Response& response, const Json& json) {
  response.status = 200;
  response.set_content(gateway::dump(json) + "\n", "application/json");
}
// In the shape of the interface that the path belongs to.
void put(Response& response, const std::string& path, const Refusal& refusal) {
  response.status = refusal.status;
  if (refusal.status == 401) response.set_header("WWW-Authenticate", "Bearer");
  if (!refusal.allow.empty()) response.set_header("Allow", refusal.allow);
  if (refusal.retry_after > 0) response.set_header("Retry-After", fmt::format("{}", refusal.retry_after));
  response.set_content(gateway::dump(dialect_of(path).error(refusal)) + "\n", "application/json");
}

// What the HTTP library refuses by itself.
Refusal of_status(int status) {
  switch (status) {
    case 404:
      return gateway::invalid("there is nothing at this path", "", "", status);
    case 413:
      return gateway::invalid("the body is too large", "", "body_too_large", status);
    case 414:
      return gateway::invalid("the path is too long", "", "", status);
    default:
      return status >= 500
                 ? Refusal{status, "server_error", "this program made a mistake"}
                 : gateway::invalid("the request is not well formed, too long, or came too slowly", "", "", status);
  }
}

Refusal closed() { return gateway::invalid("the connection was closed", "", "", 499); }

HttpLimits limits_for(const GatewayOptions& options, std::size_t models) {
  HttpLimits limits;
  limits.answering = models * options.desk.max_requests + k_most_watchers + 16;
  return limits;
}

}  // namespace

// An invite, under its model's name.
struct Served {
  Served(const Client& with, std::string name, const GatewayOptions& how, Log& log)
      : client(with),
        model(std::move(name)),
        fingerprint("fp_" + with.model().id.substr(0, 12)),
        backend(backend_of(with)),
        desk(*backend, how.desk, log),
        canaries(desk, *backend, with.provider().key, how.canaries, log) {}

  const Client& client;
  const std::string model, fingerprint;
  const std::unique_ptr<Backend> backend;
  AnswerDesk desk;
  Canaries canaries;
};

struct Gateway::State {
  State(const std::vector<const Client*>& clients, const GatewayOptions& how, Log& to)
      : options(with_times(how)),
        log(to),
        created(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                    .count()),
        server(limits_for(how, clients.size())) {
    for (const Client* client : clients) {
      const std::string name = gateway::slug(client->model().name);
      std::string own = name;  // several of a name are counted
      for (int i = 2; find(own) != nullptr; ++i) own = fmt::format("{}-{}", name, i);
      served.push_back(std::make_unique<Served>(*client, own, options, to));
    }
  }
  GatewayOptions with_times(GatewayOptions how) {
    how.desk.on_begin = [this](double seconds) { metrics.count_begin(seconds); };
    how.desk.on_first_token = [this](double seconds) { metrics.count_first_token(seconds); };
    return how;
  }

  void listen();
  void set_up_door();  // who is let in, how refusals look, what is counted
  void set_up_routes();
  void answer(const Request& request, Response& response);
  bool finish(const AnswerJob& job, const Request& request, Response& response);
  void answer_whole(const std::shared_ptr<AnswerDesk::Ticket>& ticket, const Request& request, Response& response);
  void answer_stream(const std::shared_ptr<AnswerDesk::Ticket>& ticket, const Request& request, Response& response);
  void embed(const Request& request, Response& response);
  void watch(const Served& of, Response& response);
  void asset(const Request& request, Response& response, const std::string& name);
  Json model_json(const Served& of) const {
    return {{"id", of.model},
            {"object", "model"},
            {"created", created},
            {"owned_by", "provider"},
            {"context_length", of.client.model().context}};
  }
  gateway::OllamaModel ollama(const Served& of) const {
    return {of.model + ":latest", created, of.client.model(), of.client.chat_template()};
  }
  // All models, each as `shape` has it.
  template <class Shape>
  Json list(Shape shape) const {
    Json all = Json::array();
    for (const auto& one : served) all.push_back(shape(*one));
    return all;
  }
  // The one of this name, or the first where no name says which. Null: there is none. Ollama's clients name models with a tag.
  Served* find(std::string name) const {
    if (name.ends_with(":latest")) name.resize(name.size() - 7);
    for (const auto& one : served) {
      if (name.empty() || name == one->model || name == "permllm" || name == "default") return one.get();
    }
    return nullptr;
  }
  template <class Body>
  void with(const std::string& name, const Request& request, Response& response, Body body) const {
    Served* one = find(name);
    one != nullptr ? body(*one) : put(response, request.path, no_model());
  }
  Refusal no_model() const {
    std::string names;
    for (const auto& one : served) names += fmt::format("{}\"{}\"", names.empty() ? "" : ", ", one->model);
    return gateway::invalid(fmt::format("there is no such model here; this server has {}", names), "model",
                            "model_not_found", 404);
  }

  const GatewayOptions options;
  Log& log;
  const std::int64_t created;
  const Clock::time_point start = Clock::now();
  GatewayMetrics metrics;
  std::vector<std::unique_ptr<Served>> served;
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
    const auto refusal = fault ? gateway::invalid(fault->why, "", "", fault->status) : guard->refuse(request);
    if (!refusal) return httplib::Server::HandlerResponse::Unhandled;
    put(response, request.path, *refusal);
    return httplib::Server::HandlerResponse::Handled;
  });
  server.set_expect_100_continue_handler([this](const Request& request, Response& response) {
    const auto refusal = guard->refuse(request);
    if (refusal) put(response, request.path, *refusal);
    return refusal ? refusal->status : 100;
  });
  server.set_error_handler(httplib::Server::Handler([](const Request& request, Response& response) {
    if (response.body.empty()) put(response, request.path, of_status(response.status));
  }));
  server.set_exception_handler([](const Request& request, Response& response, const std::exception_ptr&) {
    put(response, request.path, of_status(500));
  });
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
        put(response, request.path, gateway::refusal_of(error));
      }
    };
  };
  for (const char* route :
       {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"})
    server.Post(route, handler([this](const Request& q, Response& r) { answer(q, r); }));
  for (const char* route : {"/v1/embeddings", "/api/embed", "/api/embeddings"})
    server.Post(route, handler([this](const Request& q, Response& r) { embed(q, r); }));
  server.Post("/tokenize", handler([this](const Request& q, Response& r) {
                const gateway::Text text = gateway::read_text(q.body);
                with(text.model, q, r, [&](const Served& of) {
                  const auto tokens = text.content ? of.client.tokenize(*text.content)
                                                   : of.client.tokenize(text.messages, options.desk.conversation);
                  put(r, Json{{"tokens", tokens}, {"count", tokens.size()}});
                });
              }));
  server.Post("/detokenize", handler([this](const Request& q, Response& r) {
                const gateway::Tokens tokens = gateway::read_tokens(q.body);
                with(tokens.model, q, r, [&](const Served& of) {
                  put(r, Json{{"content", of.client.detokenize(tokens.ids)}});
                });
              }));
  server.Post(
      "/v1/messages/count_tokens", handler([this](const Request& q, Response& r) {
        const gateway::Request counted = dialect_of(q.path).read(q.body);
        with(counted.model, q, r, [&](const Served& of) { put(r, Json{{"input_tokens", of.desk.count(counted)}}); });
      }));
  server.Get("/api/version", handler([](const Request&, Response& r) { put(r, Json{{"version", version()}}); }));
  server.Get("/api/tags", handler([this](const Request&, Response& r) {
               put(r, Json{{"models", list([this](const Served& one) { return ollama(one).listed(); })}});
             }));
  server.Get("/api/ps", handler([this](const Request&, Response& r) {
               put(r, Json{{"models", list([this](const Served& one) { return ollama(one).running(); })}});
             }));
  server.Post("/api/show", handler([this](const Request& q, Response& r) {
                with(gateway::ollama_name(q.body), q, r, [&](const Served& of) { put(r, ollama(of).shown()); });
              }));
  server.Get("/v1/models", handler([this](const Request&, Response& r) {
               put(r, Json{{"object", "list"}, {"data", list([this](const Served& one) { return model_json(one); })}});
             }));
  server.Get("/v1/models/(.+)", handler([this](const Request& q, Response& r) {
               with(q.matches[1], q, r, [&](const Served& of) { put(r, model_json(of)); });
             }));
  server.Get("/health", handler([this](const Request& q, Response& r) {
               constexpr const char* names[] = {"unknown", "reachable", "unreachable"};
               Json health{{"status", "ok"}};  // which whoever watches over the program may know
               auto worst = StockKeeper::Provider::unknown;
               for (const auto& one : served) worst = std::max(worst, one->desk.keeper().provider());
               if (guard->admits(q)) health["provider"] = names[static_cast<int>(worst)];
               put(r, health);
             }));
  server.Get("/metrics", handler([this](const Request&, Response& r) {
               std::vector<GatewayMetrics::Source> sources;
               for (const auto& one : served) sources.push_back({one->client, one->desk, one->canaries});
               r.set_content(metrics.text(sources), "text/plain; version=0.0.4; charset=utf-8");
             }));
  server.Get("/v1/privacy", handler([this](const Request& q, Response& r) {
               with(q.get_param_value("model"), q, r,
                    [&](const Served& of) { put(r, privacy_of(of.client, of.model)); });
             }));
  server.Get("/v1/activity", handler([this](const Request& q, Response& r) {
               with(q.get_param_value("model"), q, r, [&](const Served& of) { watch(of, r); });
             }));
  server.Get("/", handler([this](const Request& q, Response& r) { asset(q, r, "index.html"); }));
  server.Get("/assets/(.+)", handler([this](const Request& q, Response& r) { asset(q, r, q.matches[1]); }));
}

void Gateway::State::asset(const Request& request, Response& response, const std::string& name) {
  response.set_header("Content-Security-Policy", k_page_policy);
  const WebAsset* found = find_web_asset(name);
  if (found == nullptr) {
    if (name == "index.html") return response.set_content(k_no_page, "text/plain; charset=utf-8");
    return put(response, request.path, of_status(404));
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

void Gateway::State::answer(const Request& request, Response& response) {
  gateway::Request asked = dialect_of(request.path).read(request.body);
  with(asked.model, request, response, [&](Served& of) {
    const std::string key = request.get_header_value("Idempotency-Key");
    if (key.size() > 255) throw Error(Code::usage, "Idempotency-Key", "expected at most 255 characters");
    const bool stream = asked.stream;
    const auto ticket =
        of.desk.ask(guard->owner_of(request), std::move(asked), gateway::Head::of(of.model, of.fingerprint), key,
                    sha256(request.path + '\n' + request.body));
    of.canaries.asked();
    stream ? answer_stream(ticket, request, response) : answer_whole(ticket, request, response);
  });
}

// Waits for an answer. False: why there is none is told.
bool Gateway::State::finish(const AnswerJob& job, const Request& request, Response& response) {
  while (!job.done()) {
    job.wait(SIZE_MAX, Clock::now() + k_look);
    if (!HttpServer::gone(request)) continue;
    put(response, request.path, closed());
    return false;
  }
  const auto failure = job.failure();
  if (failure) put(response, request.path, *failure);
  return !failure;
}

void Gateway::State::answer_whole(const std::shared_ptr<AnswerDesk::Ticket>& ticket, const Request& request,
                                  Response& response) {
  const AnswerJob& job = **ticket;
  if (!finish(job, request, response)) return;
  put(response, dialect_of(request.path).writer(job.request, job.head, job.ids.size())->whole(job.made()));
}

void Gateway::State::answer_stream(const std::shared_ptr<AnswerDesk::Ticket>& ticket, const Request& request,
                                   Response& response) {
  const AnswerJob& job = **ticket;
  // What fails at once is told by a status.
  for (const Clock::time_point end = Clock::now() + k_ping;
       Clock::now() < end && !job.done() && job.wait(0, std::min(end, Clock::now() + k_look)).empty();) {
    if (HttpServer::gone(request)) return put(response, request.path, closed());
  }
  if (const auto failure = job.failure()) return put(response, request.path, *failure);
  const Dialect& dialect = dialect_of(request.path);
  struct Stream {
    std::unique_ptr<gateway::AnswerWriter> writer;
    bool begun = false;
    std::size_t pieces = 0;
    Clock::time_point last = Clock::now();
  };
  const auto stream = std::make_shared<Stream>();
  stream->writer = dialect.writer(job.request, job.head, job.ids.size());
  response.status = 200;
  response.set_chunked_content_provider(dialect.stream_type(), [ticket, stream](std::size_t, httplib::DataSink& sink) {
    const AnswerJob& made = **ticket;
    gateway::AnswerWriter& writer = *stream->writer;
    const auto write = [&](const std::string& text) {
      stream->last = Clock::now();
      return text.empty() || sink.write(text.data(), text.size());
    };
    if (!std::exchange(stream->begun, true)) write(writer.begin());
    const auto pieces = made.wait(stream->pieces, std::min(stream->last + k_ping, Clock::now() + k_look));
    if (!pieces.empty()) {
      stream->pieces += pieces.size();
      std::string bytes;
      for (const gateway::Piece& piece : gateway::joined(pieces)) bytes += writer.piece(piece);
      return write(bytes);
    }
    if (!made.done()) return Clock::now() < stream->last + k_ping || write(writer.ping());
    const auto failure = made.failure();
    write(failure ? writer.fail(*failure) : writer.end(made.made()));
    sink.done();
    return true;
  });
}

// One text behind the other: most have the same allowance, and few are long.
void Gateway::State::embed(const Request& request, Response& response) {
  const gateway::Embeddings asked(request.path, request.body);
  with(asked.model(), request, response, [&](Served& of) {
    if (const std::string& profile = of.client.model().profile; profile != "open") {
      throw Error(
          Code::unsupported, "model",
          fmt::format("is served in profile {}, in which the user does not see what goes into the model's head: "
                      "there are embeddings in profile open alone",
                      profile));
    }
    std::vector<gateway::Made> made;
    for (gateway::Request& one : asked.requests()) {
      const auto ticket = of.desk.ask(guard->owner_of(request), std::move(one), gateway::Head(), "", "");
      if (!finish(**ticket, request, response)) return;
      made.push_back((**ticket).made());
    }
    put(response, asked.answer(of.model, made));
  });
}

void Gateway::State::watch(const Served& of, Response& response) {
  if (watchers.fetch_add(1) >= k_most_watchers) {
    --watchers;
    return put(response, "",
               Refusal{429, "rate_limit_error", "as many watch the activity as may", "", "queue_full", 5});
  }
  struct Watch {
    Watch(State& all, const Served& one) : state(all), of(one) {}
    ~Watch() { --state.watchers; }
    State& state;
    const Served& of;
    Json said;
    Clock::time_point last{};
  };
  response.set_chunked_content_provider(
      "text/event-stream", [watch = std::make_shared<Watch>(*this, of)](std::size_t, httplib::DataSink& sink) {
        State& s = watch->state;
        if (watch->last != Clock::time_point{}) std::this_thread::sleep_for(k_look);
        Json now = activity_of(watch->of.client, watch->of.desk, watch->of.canaries, s.options.desk.stock);
        if (now == watch->said && Clock::now() < watch->last + std::chrono::seconds(5)) return true;
        watch->said = now;
        watch->last = Clock::now();
        now["uptime"] = seconds_between(s.start, watch->last);
        const std::string event = gateway::event(now);
        return sink.write(event.data(), event.size());
      });
}

Gateway::Gateway(std::vector<const Client*> clients, const GatewayOptions& options, Log& log) {
  check(options);
  state_ = std::make_unique<State>(clients, options, log);
  state_->listen();
}

Gateway::~Gateway() {
  drain({});
  state_->server.end();
}

std::uint16_t Gateway::port() const { return static_cast<std::uint16_t>(state_->port); }
std::vector<std::string> Gateway::models() const {
  std::vector<std::string> names;
  for (const auto& one : state_->served) names.push_back(one->model);
  return names;
}
void Gateway::drain(Clock::duration patience) {
  const Clock::time_point end = Clock::now() + patience;
  for (const auto& one : state_->served) one->desk.drain(std::max(Clock::duration{}, end - Clock::now()));
}

}  // namespace permllm
