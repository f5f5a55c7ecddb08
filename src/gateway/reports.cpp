#include "gateway/reports.h"

#include <fmt/format.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include "base/mutex.h"
#include "permllm/version.h"
#include "service/process_limits.h"

namespace permllm {

using gateway::Json;

Json privacy_of(const Client& client, const std::string& model_id) {
  const Client::Model& model = client.model();
  const bool open = model.profile == "open";
  const auto party = [](const char* who, Json sees, Json never) {
    return Json{{"who", who}, {"sees", std::move(sees)}, {"never_sees", std::move(never)}};
  };
  const auto and_also = [](Json sees, const char* more) {
    sees.push_back(more);
    return sees;
  };
  Json rests_on = Json::array(
      {"provider and helper do not work together: both at once could read your questions and answers",
       "each party follows the protocol",
       // NOLINTNEXTLINE(bugprone-suspicious-missing-comma): one sentence
       "the keys shown here are those of the parties that you mean: compare the helper's with what the helper itself "
       "publishes",
       "TLS 1.3, AES-128 and HKDF-SHA256 hold", "this machine is yours: questions and answers are in the clear here"});
  if (model.retrieval == "bfv")
    rests_on.push_back(
        "ring-LWE with the parameters of docs/protocol.md 4.11: the chosen token is retrieved by homomorphic "
        "encryption");
  return {
      {"profile", model.profile},
      {"model",
       {{"id", model_id},
        {"name", model.name},
        {"architecture", model.architecture},
        {"context", model.context},
        {"layers", model.layers},
        {"retrieval", model.retrieval}}},
      {"provider", {{"address", client.provider().address}, {"key", client.provider().key}}},
      {"helper", {{"address", client.helper().address}, {"key", client.helper().key}}},
      {"parties",
       Json::array({party("you", client.views().user,
                          open ? Json::array({"questions and answers of others"})
                               : Json::array({"the model's weights", "questions and answers of others"})),
                    party("provider", and_also(client.views().provider, "your network address and your invite's name"),
                          Json::array({"your questions", "the answers", "which tokens were chosen"})),
                    party("helper", and_also(client.views().helper, "your network address, when material is made"),
                          Json::array({"your questions, in any form", "the answers, in any form",
                                       "the links of an answer"}))})},
      {"model_owner", open ? "Nothing is hidden of the model: its weights are public in this profile."
                           : "You see inner values of the model in an order drawn afresh for each use. That is a "
                             "barrier to copying the model, which has been attacked "
                             "in the literature, not a guarantee."},
      {"rests_on", std::move(rests_on)}};
}

Json activity_of(const Client& client, const AnswerDesk& desk, const Canaries& canaries, std::size_t stock_target) {
  const AnswerDesk::Now now = desk.now();
  const Client::Traffic traffic = client.traffic();
  const bool unreachable = desk.keeper().provider() == StockKeeper::Provider::unreachable;
  const char* state = unreachable ? "unreachable" : "idle";
  if (now.queued > 0) state = "queued";
  using Stage = AnswerJob::Stage;
  const Stage stage = now.foremost.stage;
  if (now.active > 0) {
    state = stage == Stage::answering      ? "answering"
            : stage == Stage::reading      ? "reading"
            : stage == Stage::reconnecting ? "reconnecting"
                                           : "preparing";
  }
  Json prepare = nullptr;
  if ((stage == Stage::preparing || stage == Stage::reading) && now.foremost.progress) {
    const auto [fraction, seconds_left] = *now.foremost.progress;
    prepare = {{"fraction", fraction}, {"seconds_left", fraction > 0 ? Json(seconds_left) : Json(nullptr)}};
  }
  const auto bytes = [](const Answer::Bytes& b) { return Json{{"sent", b.sent}, {"received", b.received}}; };
  Json online = bytes(traffic.online);
  online["round_trips"] = traffic.round_trips;
  const Canaries::Counts of = canaries.counts();
  return {{"state", state},
          {"canaries",
           {{"asked", of.asked},
            {"wrong", of.wrong},
            {"first", of.first},
            {"unsure", of.unsure},
            {"due", of.due},
            {"dropped", of.dropped},
            {"tokens", of.tokens},
            {"online_bytes", of.online_bytes},
            {"offline_bytes", of.offline_bytes}}},
          {"active", now.active},
          {"queued", now.queued},
          {"prepare", std::move(prepare)},
          {"online", std::move(online)},
          {"offline_provider", bytes(traffic.offline_provider)},
          {"offline_helper", bytes(traffic.offline_helper)},
          {"tokens", now.tokens},
          {"tokens_per_second", now.tokens_per_second > 0 ? Json(now.tokens_per_second) : Json(nullptr)},
          {"stock_tokens", client.ready_tokens()},
          {"stock_target", std::min(stock_target, client.model().context)},
          {"filling", desk.keeper().filling()},
          {"tokens_left", gateway::tokens_left(client.tokens_left())}};
}

namespace {
const prometheus::Histogram::BucketBoundaries k_waiting_seconds{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 300};
}  // namespace

struct GatewayMetrics::State {
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& counters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  prometheus::Family<prometheus::Gauge>& gauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }

  prometheus::Family<prometheus::Counter>& requests =
      counters("permllm_gateway_requests_total", "HTTP requests by route and status.");
  prometheus::Family<prometheus::Counter>& tokens =
      counters("permllm_gateway_tokens_total", "Tokens of prompts and of answers.");
  prometheus::Family<prometheus::Counter>& bytes =
      counters("permllm_gateway_bytes_total", "Payload bytes by link and direction.");
  prometheus::Counter& round_trips =
      counters("permllm_gateway_round_trips_total", "Round trips with the provider, online.").Add({});
  prometheus::Family<prometheus::Counter>& canaries =
      counters("permllm_gateway_canaries_total",
               "Canaries: answered as they should be, otherwise, for the first time, not compared, or not answered.");
  prometheus::Gauge& canaries_due =
      gauges("permllm_gateway_canaries_due", "Canaries that wait, and those under way.").Add({});
  prometheus::Counter& canary_tokens =
      counters("permllm_gateway_canary_tokens_total", "Tokens of canaries' prompts and answers.").Add({});
  prometheus::Family<prometheus::Counter>& canary_bytes =
      counters("permllm_gateway_canary_bytes_total", "Payload bytes for canaries, online and of their material.");
  prometheus::Histogram& histogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, k_waiting_seconds);
  }
  prometheus::Histogram& waiting = histogram(
      "permllm_gateway_waiting_seconds", "Time from a request to the conversation that answers it, canaries included.");
  prometheus::Histogram& first_token = histogram("permllm_gateway_first_token_seconds",
                                                 "Time from a request to its answer's first token, canaries included.");
  prometheus::Family<prometheus::Gauge>& answers =
      gauges("permllm_gateway_answers", "Answers under way, and those that wait for a conversation.");
  prometheus::Gauge& reachable =
      gauges("permllm_gateway_provider_reachable", "1 unless the provider could not be reached when it was tried last.")
          .Add({});
  prometheus::Gauge& stock =
      gauges("permllm_gateway_stock_tokens", "Tokens for which offline material is ready.").Add({});
  prometheus::Gauge& left =
      gauges("permllm_gateway_allowance_tokens", "Tokens of answers that the invite has left.").Add({});
  prometheus::Gauge& memory = gauges("process_resident_memory_bytes", "Memory in use.").Add({});
  prometheus::Gauge& files = gauges("process_open_fds", "Open files.").Add({});
  Mutex mutex;  // one text at a time: counters are brought to what they count
};

GatewayMetrics::GatewayMetrics() : state_(new State) {
  state_->gauges("permllm_info", "Which program this is; always 1.")
      .Add({{"party", "user"}, {"version", version()}})
      .Set(1);
}
GatewayMetrics::~GatewayMetrics() = default;

void GatewayMetrics::count(const std::string& route, int status) {
  state_->requests.Add({{"route", route}, {"status", fmt::format("{}", status)}}).Increment();
}

void GatewayMetrics::count_begin(double seconds) { state_->waiting.Observe(seconds); }

void GatewayMetrics::count_first_token(double seconds) { state_->first_token.Observe(seconds); }

std::string GatewayMetrics::text(const std::vector<Source>& of) {
  State& s = *state_;
  const Lock lock(s.mutex);
  const auto bring_to = [](prometheus::Counter& counter, std::uint64_t value) {
    counter.Increment(std::max(0.0, static_cast<double>(value) - counter.Value()));
  };
  Client::Traffic traffic;
  AnswerDesk::Now now;
  std::uint64_t stock = 0;
  double left = 0;
  bool reachable = true;
  const auto add = [](Answer::Bytes& to, const Answer::Bytes& more) {
    to.sent += more.sent;
    to.received += more.received;
  };
  Canaries::Counts canaries;
  for (const auto& [client, desk, its_canaries] : of) {
    const Client::Traffic its = client.traffic();
    add(traffic.online, its.online);
    add(traffic.offline_provider, its.offline_provider);
    add(traffic.offline_helper, its.offline_helper);
    traffic.round_trips += its.round_trips;
    const AnswerDesk::Now its_now = desk.now();
    now.active += its_now.active;
    now.queued += its_now.queued;
    now.tokens += its_now.tokens;
    now.prompt_tokens += its_now.prompt_tokens;
    stock += client.ready_tokens();
    left += static_cast<double>(client.tokens_left());
    canaries += its_canaries.counts();
    reachable = reachable && desk.keeper().provider() != StockKeeper::Provider::unreachable;
  }
  const auto link = [&](const char* name, const Answer::Bytes& b) {
    bring_to(s.bytes.Add({{"link", name}, {"direction", "sent"}}), b.sent);
    bring_to(s.bytes.Add({{"link", name}, {"direction", "received"}}), b.received);
  };
  link("online", traffic.online);
  link("offline_provider", traffic.offline_provider);
  link("offline_helper", traffic.offline_helper);
  bring_to(s.round_trips, traffic.round_trips);
  bring_to(s.tokens.Add({{"of", "prompts"}}), now.prompt_tokens);
  bring_to(s.tokens.Add({{"of", "answers"}}), now.tokens);
  bring_to(s.canaries.Add({{"result", "right"}}), canaries.asked - canaries.wrong - canaries.first - canaries.unsure);
  bring_to(s.canaries.Add({{"result", "wrong"}}), canaries.wrong);
  bring_to(s.canaries.Add({{"result", "first"}}), canaries.first);
  bring_to(s.canaries.Add({{"result", "unsure"}}), canaries.unsure);
  bring_to(s.canaries.Add({{"result", "dropped"}}), canaries.dropped);
  s.canaries_due.Set(static_cast<double>(canaries.due));
  bring_to(s.canary_tokens, canaries.tokens);
  bring_to(s.canary_bytes.Add({{"of", "online"}}), canaries.online_bytes);
  bring_to(s.canary_bytes.Add({{"of", "offline"}}), canaries.offline_bytes);
  s.answers.Add({{"state", "under_way"}}).Set(static_cast<double>(now.active));
  s.answers.Add({{"state", "waiting"}}).Set(static_cast<double>(now.queued));
  s.reachable.Set(reachable);
  s.stock.Set(static_cast<double>(stock));
  s.left.Set(left);
  s.memory.Set(static_cast<double>(memory_in_use().resident));
  s.files.Set(static_cast<double>(open_files()));
  return prometheus::TextSerializer().Serialize(s.registry.Collect());
}

}  // namespace permllm
