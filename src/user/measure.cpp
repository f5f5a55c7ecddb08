#include "user/measure.h"

#include <fmt/format.h>

#include <algorithm>

#include "net/units.h"
#include "page/declared.h"
#include "wire/frame.h"

namespace permllm {
namespace {

nlohmann::json online_json(const Traffic& t, double per) {
  return {{"provider_to_user_bytes", static_cast<double>(t.received.payload_bytes) / per},
          {"user_to_provider_bytes", static_cast<double>(t.sent.payload_bytes) / per},
          {"round_trips", static_cast<double>(t.round_trips) / per}};
}

// Slots that are left behind the marks, with an entry and a pass for each: those are burnt ahead, too.
std::size_t room_behind(const Marks& marks, std::size_t slots) {
  return slots - std::min<std::size_t>(slots, *std::max_element(marks.first.begin(), marks.first.end()));
}

// The least burnt chain that has so much room.
UserClient::Choose chain_with(std::size_t room, const std::function<std::size_t()>& slots) {
  return [room, slots, fitting = std::vector<ChainChoice>{}](std::span<const ChainChoice> chains) mutable {
    fitting.clear();
    std::copy_if(chains.begin(), chains.end(), std::back_inserter(fitting),
                 [&](const ChainChoice& c) { return room_behind(c.burnt, slots()) >= room; });
    return UserClient::least_burnt(fitting);
  };
}

}  // namespace

Error no_drafts(Profile profile) {
  return {Code::usage, "draft",
          fmt::format("needs profile open, or a provider with --hidden-positions: in profile {} without, it rotates "
                      "queries and keys by their "
                      "position and would learn how many drafted tokens were kept",
                      name_of(profile))};
}

MeasuredConversation::MeasuredConversation(const Links& links, const LinkShape& shape, Clock::duration patience,
                                           Executor& executor, Ledger& ledger, std::size_t room)
    : shape_(shape),
      client_(links(traffic_), ledger, executor, patience,
              chain_with(room, [this] { return client_.card().plan.slots; })) {}

MeasuredConversation::Moment MeasuredConversation::now() const {
  return {Clock::now(), traffic_.online, client_.waited_seconds(), report_of_this_process().cpu_seconds};
}

std::size_t MeasuredConversation::in_common(std::span<const TokenId> ids) const {
  if (plan().config.prefix) return 0;
  const std::size_t most =
      std::min(fed_.size(), ids.size() - 1);  // the last is fed: its pass samples the first of the answer
  return static_cast<std::size_t>(
      std::mismatch(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(most), fed_.begin()).first - ids.begin());
}

std::size_t MeasuredConversation::slots_of(const Request& request) const {
  return plan().prompt_rows(request.ids.size() - in_common(request.ids)) +
         (request.max_tokens - 1) * (request.draft + 1);
}

std::size_t MeasuredConversation::slots_afresh(const Request& request) const {
  return plan().prompt_rows(request.ids.size()) + (request.max_tokens - 1) * (request.draft + 1);
}

std::size_t MeasuredConversation::room() { return room_behind(client_.session().marks(), plan().slots); }

bool MeasuredConversation::fits(const Request& request) {
  return slots_of(request) <= room() && (fed_.empty() || !plan().config.prefix);
}

std::size_t MeasuredConversation::answer_room(std::span<const TokenId> ids, std::size_t draft) {
  const std::size_t rows = plan().prompt_rows(ids.size() - in_common(ids)), left = room();
  if (rows > left || (!fed_.empty() && plan().config.prefix)) return 0;
  return 1 + (left - rows) / (draft + 1);
}

void MeasuredConversation::check(const Request& request, std::size_t rows, std::size_t slots) {
  if (request.draft > 0 && !plan().takes_drafts()) throw no_drafts(plan().profile);
  if (slots > room()) {
    throw Error(
        Code::usage, Reason::context_exceeded, "context",
        fmt::format("{} is too short: {} prompt tokens and {} of the answer{} take up to {} slots{}", plan().slots,
                    rows, request.max_tokens,
                    request.draft > 0 ? fmt::format(", each with a draft of {},", request.draft) : "", slots,
                    client_.session().slots() > 0 ? fmt::format(", {} are used", client_.session().slots()) : ""));
  }
}

void MeasuredConversation::make_material(const Request& request, std::size_t prompt) {
  const std::size_t answer = 1 + (request.max_tokens - 1) * (request.draft + 1);
  const std::size_t begin = std::min({answer, std::max<std::size_t>(request.ahead, 1), request.start});
  client_.make_material(prompt, answer, request.ahead, in_blocks(request));
  client_.wait_for_material(prompt, begin, request.on_material, in_blocks(request));
}

void MeasuredConversation::run(const Request& request) {
  request_ = request;
  plan().check_prompt(request.ids.size());
  const std::size_t block = request.draft + 1, common = in_common(request.ids), slots = slots_of(request);
  const std::vector<TokenId> fresh(request.ids.begin() + static_cast<std::ptrdiff_t>(common), request.ids.end());
  const std::size_t rows = plan().prompt_rows(fresh.size());
  check(request, rows, slots);
  UserSession& session = client_.session();
  before_ = session.slots();
  prompted_ = fresh.size();
  offline_before_ = client_.filler().seconds();
  output_.clear();
  trusted_ = passes_ = kept_ = 0;
  make_material(request, fresh.size());
  if (request.on_ready) request.on_ready();

  std::vector<TokenId> history = request.ids;
  bool more = true;
  const auto on_token = [&](TokenId id) {
    if (output_.size() == request.max_tokens) return false;
    last_ = now();
    if (output_.empty()) first_ = last_;
    output_.push_back(id);
    history.push_back(id);
    if (session.beyond() == 0) trusted_ = output_.size();
    more = request.on_token(id);
    return more && output_.size() < request.max_tokens;
  };
  begin_ = first_ = last_ = now();
  if (common < session.length()) session.rewind(common);
  session.prompt(fresh, request.choose, [&](std::size_t layer) {
    if (request.on_read) request.on_read(static_cast<double>(layer + 1) / static_cast<double>(plan().config.layers));
  });
  passes_begin_ = passes_end_ = traffic_.online;
  while (more && output_.size() + 1 < request.max_tokens) {
    client_.wait_for_pass(block, request.draft > 0 ? block : 1, in_blocks(request));
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
  }
  if (more && output_.size() < request.max_tokens) on_token(session.retrieve_last());
  out_of_range_ = session.beyond();
  fed_ = std::move(history);
  fed_.resize(std::min(fed_.size(), session.length()));
}

void MeasuredConversation::prepare(std::size_t prompt_tokens, std::size_t answer_tokens) {
  if (plan().config.prefix || plan().prompt_rows(prompt_tokens) + answer_tokens > room()) return;
  client_.make_material(prompt_tokens, answer_tokens, 0);
}

nlohmann::json MeasuredConversation::end() {
  const UserClient::Reports reports = client_.end();
  nlohmann::json all = report();
  all.update(parties_json(reports));
  return all;
}

double MeasuredConversation::tokens_behind_first() const {
  return output_.size() < 2 ? 1 : static_cast<double>(output_.size() - 1);
}

double MeasuredConversation::slots_wanted() const {
  return static_cast<double>(plan().prompt_rows(prompted_)) +
         static_cast<double>(request_.max_tokens - 1) * static_cast<double>(request_.draft + 1);
}

// A token's share is of its wall time: what the simulated network alone makes of what was sent, and the rest.
nlohmann::json MeasuredConversation::seconds_json() const {
  const double kept = std::max(1.0, static_cast<double>(kept_));
  const double offline = client_.filler().seconds() - offline_before_;
  const double prefill = seconds_between(begin_.time, first_.time);
  const double token = seconds_between(first_.time, last_.time) / tokens_behind_first();
  const double rtt = seconds_of(parse_duration(shape_.rtt, "rtt"));
  const double bandwidth = parse_bandwidth(shape_.bandwidth, "bandwidth");
  const Traffic decode = passes_end_ - passes_begin_;
  const double latency = rtt * static_cast<double>(decode.round_trips) / kept;
  const double bits =
      8 * static_cast<double>(decode.sent.payload_bytes + decode.received.payload_bytes + decode.header_bytes()) / kept;
  const double transfer = bandwidth > 0 ? bits / bandwidth : 0;
  return {{"offline", offline},
          {"offline_per_token", offline / slots_wanted()},
          {"prefill", prefill},
          {"prefill_per_token", prefill / static_cast<double>(prompted_)},
          {"decode_per_token", token},
          {"latency_per_token", latency},
          {"transfer_per_token", transfer},
          {"compute_per_token", std::max(0.0, token - latency - transfer)}};
}

// What the boxes declare for the same passes.
nlohmann::json MeasuredConversation::declared_json() const {
  Cost declared;
  const std::size_t block = request_.draft + 1, rows = plan().prompt_rows(prompted_);
  for (std::size_t i = 0; i < std::max<std::size_t>(passes_, 1); ++i) {
    declared += pass_cost(plan(), std::min(before_ + rows + i * block, plan().slots - block), block, false);
  }
  const auto a_pass = [passes = std::max(1.0, static_cast<double>(passes_))](std::size_t total) {
    return static_cast<double>(total) / passes;
  };
  return {{"provider_to_user_bytes", a_pass(declared.online.provider_to_user)},
          {"user_to_provider_bytes", a_pass(declared.online.user_to_provider)},
          {"round_trips", a_pass(declared.rounds)},
          {"offline_user_to_provider_bytes", a_pass(declared.offline.user_to_provider)},
          {"offline_helper_to_provider_bytes", a_pass(declared.offline.helper_to_provider)}};
}

nlohmann::json MeasuredConversation::parties_json(const UserClient::Reports& reports) const {
  const PartyReport own = report_of_this_process(), provider = reports.provider,
                    helper = reports.helper.value_or(PartyReport{});
  const double passes = std::max(1.0, static_cast<double>(provider.passes)), tokens = tokens_behind_first();
  const double seconds = seconds_between(first_.time, last_.time) / tokens,
               waited = (last_.waited - first_.waited) / tokens;
  return {
      {"by_party",
       {{"provider",
         {{"busy_seconds_per_token", (provider.pass_seconds - provider.pass_waited) / passes},
          {"cpu_seconds_per_token", provider.pass_cpu / passes},
          {"waiting_seconds_per_token", provider.pass_waited / passes}}},
        {"user",
         {{"busy_seconds_per_token", seconds - waited},
          {"cpu_seconds_per_token", (last_.cpu - first_.cpu) / tokens},
          {"waiting_seconds_per_token", waited}}},
        {"helper", {{"busy_seconds_per_token", 0}, {"cpu_seconds_per_token", 0}, {"waiting_seconds_per_token", 0}}}}},
      {"offline_per_token",
       {{"user_to_provider_bytes", static_cast<double>(provider.bytes_of_user) / passes},
        {"helper_to_provider_bytes", static_cast<double>(provider.bytes_of_helper) / passes},
        {"helper_to_user_bytes", static_cast<double>(traffic_.helper.received.payload_bytes) / slots_wanted()}}},
      {"cpu_seconds", {{"provider", provider.cpu_seconds}, {"user", own.cpu_seconds}, {"helper", helper.cpu_seconds}}},
      {"memory_bytes",
       {{"provider", provider.memory_bytes}, {"user", own.memory_bytes}, {"helper", helper.memory_bytes}}}};
}

nlohmann::json MeasuredConversation::report() const {
  return {{"event", "done"},
          {"output_ids", output_},
          {"out_of_range", out_of_range_},
          {"trusted_tokens", trusted_},
          {"prompt_tokens", request_.ids.size()},
          {"prompt_tokens_fed", prompted_},
          {"layers", plan().config.layers},
          {"profile", name_of(plan().profile)},
          {"fused", plan().fused},
          {"hidden_positions", plan().hides_positions},
          {"retrieval", name_of(plan().retrieval)},
          {"passes", passes_},
          {"seconds", seconds_json()},
          {"online_per_token", online_json(passes_end_ - passes_begin_, std::max(1.0, static_cast<double>(kept_)))},
          {"prefill", online_json(first_.online - begin_.online, 1)},
          {"declared_per_pass", declared_json()},
          {"frame_overhead_bytes",
           traffic_.online.header_bytes() + traffic_.offline.header_bytes() + traffic_.helper.header_bytes()}};
}

}  // namespace permllm
