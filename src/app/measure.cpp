#include "app/measure.h"

#include <fmt/format.h>

#include <atomic>

#include "app/progress.h"
#include "net/units.h"
#include "wire/frame.h"

namespace permllm {
namespace {

double seconds_between(Clock::time_point begin, Clock::time_point end) { return std::chrono::duration<double>(end - begin).count(); }

nlohmann::json online_json(const Traffic& t, double per) {
  return {{"provider_to_user_bytes", static_cast<double>(t.received.payload_bytes) / per},
          {"user_to_provider_bytes", static_cast<double>(t.sent.payload_bytes) / per},
          {"round_trips", static_cast<double>(t.round_trips) / per}};
}

}  // namespace

MeasuredConversation::MeasuredConversation(const Links& links, const LinkShape& shape, Clock::duration patience, bool quiet, Executor& executor)
    : shape_(shape), quiet_(quiet), client_(links(traffic_), executor, patience) {}

MeasuredConversation::Moment MeasuredConversation::now() const {
  return {Clock::now(), traffic_.online, client_.waited_seconds(), report_of_this_process().cpu_seconds};
}

void MeasuredConversation::run(const Request& request) {
  request_ = request;
  plan().check_prompt(request.ids.size());
  const std::size_t block = request.draft + 1, rows = plan().prompt_rows(request.ids.size()), slots = rows + (request.max_tokens - 1) * block;
  if (request.draft > 0 && !plan().open()) {
    throw Error(Code::usage, "--draft", fmt::format("needs profile open: in profile {} the provider rotates queries and keys by their position, so it "
                                                    "would learn how many drafted tokens were kept", name_of(plan().profile)));
  }
  if (slots > plan().slots) {
    throw Error(Code::usage, "--context", fmt::format("{} is too short: {} prompt tokens and {} of the answer{} take up to {} slots", plan().slots,
                                                      rows, request.max_tokens,
                                                      block > 1 ? fmt::format(", each with a draft of {},", request.draft) : "", slots));
  }
  ProgressBar bar("Offline material for this request", quiet_);
  std::atomic<bool> answering = false;
  client_.make_material(request.ids.size(), 1 + (request.max_tokens - 1) * block, request.ahead, [&](const OfflineProgress& progress) {
    if (!answering) bar.show(progress.fraction, progress.seconds);
  });
  client_.wait_for_material(rows + std::min(request.max_tokens * block, request.ahead));
  answering = true;
  bar.finish();
  if (request.on_ready) request.on_ready();

  std::vector<TokenId> history = request.ids;
  bool more = true;
  const auto on_token = [&](TokenId id) {
    if (output_.size() == request.max_tokens) return false;
    last_ = now();
    if (output_.empty()) first_ = last_;
    output_.push_back(id);
    history.push_back(id);
    more = request.on_token(id);
    return more && output_.size() < request.max_tokens;
  };
  UserSession& session = client_.session();
  begin_ = now();
  session.prompt(request.ids, request.choose);
  passes_begin_ = passes_end_ = traffic_.online;
  while (more && output_.size() + 1 < request.max_tokens) {
    if (request.draft > 0) {
      std::vector<TokenId> known = history;
      known.push_back(session.retrieve_last());
      session.advance(draft_by_lookup(known, request.draft), on_token, request.choose);
    } else {
      session.advance(on_token, request.choose);
    }
    if (more) {
      ++passes_;
      kept_ = output_.size();
      passes_end_ = traffic_.online;
    }
    client_.material_used();
  }
  if (more && output_.size() < request.max_tokens) on_token(session.retrieve_last());
}

nlohmann::json MeasuredConversation::report() {
  const UserClient::Reports reports = client_.end();
  const PartyReport own = report_of_this_process();
  const PartyReport& provider = reports.provider;
  const double tokens = output_.size() < 2 ? 1 : static_cast<double>(output_.size() - 1);
  const double provider_passes = std::max(1.0, static_cast<double>(provider.passes)), kept = std::max(1.0, static_cast<double>(kept_));
  const double passes = std::max(1.0, static_cast<double>(passes_));
  const double slots = static_cast<double>(plan().prompt_rows(request_.ids.size())) + static_cast<double>(request_.max_tokens - 1) * static_cast<double>(request_.draft + 1);
  const Traffic decode = passes_end_ - passes_begin_;
  const double seconds = seconds_between(first_.time, last_.time) / tokens;

  // What the boxes declare for the same passes, and what the simulated network alone makes of what they sent.
  Cost declared;
  const std::size_t block = request_.draft + 1;
  for (std::size_t i = 0; i < std::max<std::size_t>(passes_, 1); ++i) {
    declared += pass_cost(plan(), std::min(plan().prompt_rows(request_.ids.size()) + i * block, plan().slots - block), block, false);
  }
  const double rtt = std::chrono::duration<double>(parse_duration(shape_.rtt, "--rtt")).count();
  const double bandwidth = parse_bandwidth(shape_.bandwidth, "--bandwidth");
  const double latency = rtt * static_cast<double>(decode.round_trips) / kept;
  const double bits = 8 * static_cast<double>(decode.sent.payload_bytes + decode.received.payload_bytes + decode.header_bytes()) / kept;
  const double transfer = bandwidth > 0 ? bits / bandwidth : 0;
  const auto a_pass = [&](std::size_t total) { return static_cast<double>(total) / passes; };

  return {{"event", "done"},
          {"output_ids", output_},
          {"prompt_tokens", request_.ids.size()},
          {"layers", plan().config.layers},
          {"profile", name_of(plan().profile)},
          {"fused", plan().fused},
          {"retrieval", name_of(plan().retrieval)},
          {"passes", passes_},
          {"seconds", {{"offline", client_.offline_seconds()}, {"offline_per_token", client_.offline_seconds() / slots},
                       {"prefill", seconds_between(begin_.time, first_.time)},
                       {"prefill_per_token", seconds_between(begin_.time, first_.time) / static_cast<double>(request_.ids.size())},
                       {"decode_per_token", seconds},
                       {"latency_per_token", latency}, {"transfer_per_token", transfer},
                       {"compute_per_token", std::max(0.0, seconds - latency - transfer)}}},
          {"by_party", {{"provider", {{"busy_seconds_per_token", (provider.pass_seconds - provider.pass_waited) / provider_passes},
                                      {"cpu_seconds_per_token", provider.pass_cpu / provider_passes},
                                      {"waiting_seconds_per_token", provider.pass_waited / provider_passes}}},
                        {"user", {{"busy_seconds_per_token", seconds - (last_.waited - first_.waited) / tokens},
                                  {"cpu_seconds_per_token", (last_.cpu - first_.cpu) / tokens},
                                  {"waiting_seconds_per_token", (last_.waited - first_.waited) / tokens}}},
                        {"helper", {{"busy_seconds_per_token", 0}, {"cpu_seconds_per_token", 0}, {"waiting_seconds_per_token", 0}}}}},
          {"online_per_token", online_json(decode, kept)},
          {"prefill", online_json(first_.online - begin_.online, 1)},
          {"offline_per_token", {{"user_to_provider_bytes", static_cast<double>(provider.bytes_of_user) / provider_passes},
                                 {"helper_to_provider_bytes", static_cast<double>(provider.bytes_of_helper) / provider_passes},
                                 {"helper_to_user_bytes", static_cast<double>(traffic_.helper.received.payload_bytes) / slots}}},
          {"declared_per_pass", {{"provider_to_user_bytes", a_pass(declared.online.provider_to_user)},
                                 {"user_to_provider_bytes", a_pass(declared.online.user_to_provider)},
                                 {"round_trips", a_pass(declared.rounds)},
                                 {"offline_user_to_provider_bytes", a_pass(declared.offline.user_to_provider)},
                                 {"offline_helper_to_provider_bytes", a_pass(declared.offline.helper_to_provider)}}},
          {"cpu_seconds", {{"provider", provider.cpu_seconds}, {"user", own.cpu_seconds}, {"helper", reports.helper.cpu_seconds}}},
          {"memory_bytes", {{"provider", provider.memory_bytes}, {"user", own.memory_bytes}, {"helper", reports.helper.memory_bytes}}},
          {"frame_overhead_bytes", traffic_.online.header_bytes() + traffic_.offline.header_bytes() + traffic_.helper.header_bytes()}};
}

}  // namespace permllm
