#include "user/measure.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/reason.h"
#include "net/units.h"
#include "wire/frame.h"

namespace permllm {
namespace {

nlohmann::json online_json(const Traffic& t, double per) {
  return {{"provider_to_user_bytes", static_cast<double>(t.received.payload_bytes) / per},
          {"user_to_provider_bytes", static_cast<double>(t.sent.payload_bytes) / per},
          {"round_trips", static_cast<double>(t.round_trips) / per}};
}

// Rows of a pass, at most.
std::size_t block_of(const MeasuredConversation::Request& request) {
  return request.drafts == nullptr ? 1 : request.drafts->length.most() + 1;
}

}  // namespace

MeasuredConversation::MeasuredConversation(const Links& links, const LinkShape& shape, Clock::duration patience,
                                           Executor& executor, Ledger& ledger, bool drafts,
                                           const std::function<Wanted(const Plan&)>& wanted, ProductStore* products)
    : shape_(shape),
      client_(
          links(traffic_), ledger, executor, patience,
          [&](const Plan& plan, std::span<const ChainChoice> chains) {
            return best_chain(plan, chains, wanted ? wanted(plan) : Wanted{});
          },
          drafts, products) {}

MeasuredConversation::Moment MeasuredConversation::now() {
  return {Clock::now(), traffic_.online, client_.waited_seconds(), report_of_this_process().cpu_seconds,
          client_.session().check_seconds()};
}

std::size_t MeasuredConversation::in_common(std::span<const TokenId> ids) const {
  if (plan().config.prefix) return 0;
  const std::size_t most =
      std::min(fed_.size(), ids.size() - 1);  // the last is fed: its pass samples the first of the answer
  return static_cast<std::size_t>(
      std::mismatch(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(most), fed_.begin()).first - ids.begin());
}

bool MeasuredConversation::in_blocks(const Request& request) const { return block_of(request) > 1 && !plan().open(); }

std::size_t MeasuredConversation::slots_of(const Request& request) const {
  return plan().prompt_rows(request.ids.size() - in_common(request.ids)) + (request.max_tokens - 1) * block_of(request);
}

bool MeasuredConversation::guesses(const Request& request, std::size_t rows) {
  return client_.session().slots() + rows <= request.drafts->by->context();
}

std::size_t MeasuredConversation::room() { return room_behind(client_.session().marks(), plan().slots); }

std::size_t MeasuredConversation::answer_room(std::span<const TokenId> ids, std::size_t block) {
  const std::size_t rows = plan().prompt_rows(ids.size() - in_common(ids)), left = room();
  if (rows > left || (!fed_.empty() && plan().config.prefix)) return 0;
  return 1 + (left - rows) / block;
}

void MeasuredConversation::check(const Request& request, std::size_t rows, std::size_t slots) {
  if (block_of(request) > 1) check_drafts(plan().takes_drafts(), plan().profile, "draft");
  if (slots > room()) {
    throw Error(
        Code::usage, Reason::context_exceeded, "context",
        fmt::format("{} is too short: {} prompt tokens and {} of the answer{} take up to {} slots{}", plan().slots,
                    rows, request.max_tokens,
                    block_of(request) > 1 ? fmt::format(", each with a draft of {},", block_of(request) - 1) : "",
                    slots,
                    client_.session().slots() > 0 ? fmt::format(", {} are used", client_.session().slots()) : ""));
  }
}

void MeasuredConversation::make_material(const Request& request, std::size_t prompt) {
  const std::size_t answer = 1 + (request.max_tokens - 1) * block_of(request);
  const std::size_t begin = std::min({answer, std::max<std::size_t>(request.ahead, 1), request.start});
  client_.make_material(prompt, answer, request.ahead, blocks_);
  if (!client_.wait_for_material(prompt, begin, request.on_material, blocks_, request.cancelled))
    throw Error(Code::usage, "answer", "cancelled");
}

void MeasuredConversation::run(const Request& request) {
  request_ = request;
  plan().check_prompt(request.ids.size());
  const std::size_t common = in_common(request.ids), slots = slots_of(request);
  const std::vector<TokenId> fresh(request.ids.begin() + static_cast<std::ptrdiff_t>(common), request.ids.end());
  const std::size_t rows = plan().prompt_rows(fresh.size());
  check(request, rows, slots);
  UserSession& session = client_.session();
  before_ = session.slots();
  prompted_ = fresh.size();
  blocks_ = in_blocks(request);
  offline_before_ = client_.filler().seconds();
  output_.clear();
  trusted_ = passes_ = kept_ = 0;
  declared_ = {};
  drafted_ = {};
  out_of_stock_ = false;
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
  if (block_of(request) > 1 && guesses(request, rows))
    request.drafts->by->follow(request.ids);  // beside the prompt's pass
  if (common < session.length()) session.rewind(common);
  session.prompt(fresh, request.choose, [&](std::size_t layer) {
    if (request.on_read) request.on_read(static_cast<double>(layer + 1) / static_cast<double>(plan().config.layers));
  });
  if (block_of(request) > 1) request.drafts->by->wait();  // so that no pass is timed with the reading beside it
  passes_begin_ = passes_end_ = traffic_.online;
  while (more && output_.size() + 1 < request.max_tokens) {
    const std::size_t most = request.rows_left ? request.rows_left() : SIZE_MAX;
    if (most == 0) break;  // what was sampled is the last
    const std::size_t drafted = request.drafts == nullptr ? 0 : std::min(request.drafts->length.next(), most - 1);
    try {
      more = client_.wait_for_pass(drafted + 1, drafted + 1, blocks_, request.cancelled);
    } catch (const Error& error) {  // nothing is burnt; what was sampled is there, and the answer ends with it
      if (out_of_stock_ = is_of_stock(error.reason()); !out_of_stock_) throw;
      break;
    }
    if (!more) break;
    pass(request, drafted, history, on_token);
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

void MeasuredConversation::pass(const Request& request, std::size_t n, const std::vector<TokenId>& history,
                                const std::function<bool(TokenId)>& on_token) {
  UserSession& session = client_.session();
  const std::size_t block = n + 1, slots = session.slots(), length = session.length();
  const Clock::time_point begin = Clock::now();
  std::vector<TokenId> draft;
  if (n > 0) {
    std::vector<TokenId> known = history;
    known.push_back(session.retrieve_last());
    const bool by_drafter = guesses(request, block);
    draft = by_drafter ? request.drafts->by->draft(known, n) : draft_by_lookup(known, n);
    known.insert(known.end(), draft.begin(), draft.end());
    if (by_drafter) request.drafts->by->follow(known);  // its last is read while the provider computes
  }
  if (request.drafts == nullptr || (n == 0 && !blocks_ && !plan().open())) {
    session.advance(on_token, request.choose);
  } else {
    // What is done with tokens is not timed: there is more of it where more are kept.
    Clock::duration telling{};
    const auto more = [&](TokenId id) {
      const Clock::time_point told = Clock::now();
      const bool wanted = on_token(id);
      telling += Clock::now() - told;
      return wanted;
    };
    session.advance(draft, more, request.choose,
                    [&] { request.drafts->length.note(seconds_of(Clock::now() - begin - telling)); });
  }
  if (session.length() == length) return;  // the token that was sampled before was the last that is wanted
  const std::size_t kept = session.length() - length;
  const Cost all = pass_cost(plan(), slots, block, false, blocks_);
  declared_ += all;
  ++drafted_.passes;
  drafted_.drafted += n;
  drafted_.kept += kept - 1;
  const auto material = [](const Cost& cost) {
    return cost.offline.user_to_provider + cost.offline.helper_to_provider;
  };
  if (kept < block) drafted_.rejected_bytes += material(all) - material(pass_cost(plan(), slots, kept, false, blocks_));
}

void MeasuredConversation::prepare(std::size_t prompt_tokens, std::size_t answer_tokens) {
  if (plan().config.prefix || plan().prompt_rows(prompt_tokens) + answer_tokens > room()) return;
  client_.make_material(prompt_tokens, answer_tokens, 0, in_blocks(request_));
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
         static_cast<double>(request_.max_tokens - 1) * static_cast<double>(block_of(request_));
}

// A token's share is of its wall time: what the simulated network alone makes of what was sent, and the rest.
nlohmann::json MeasuredConversation::seconds_json() const {
  const double kept = std::max(1.0, static_cast<double>(kept_));
  const double offline = client_.filler().seconds() - offline_before_;
  const double prefill = seconds_between(begin_.time, first_.time);
  const double token = seconds_between(first_.time, last_.time) / tokens_behind_first();
  const double rtt = seconds_of(parse_duration(shape_.rtt, "rtt"));
  const Traffic decode = passes_end_ - passes_begin_;
  const double latency = rtt * static_cast<double>(decode.round_trips) / kept;
  const auto seconds = [&](const auto& way, double bandwidth) {
    const auto bytes = way.payload_bytes + k_frame_header_bytes * way.frames;
    return bandwidth > 0 ? 8 * static_cast<double>(bytes) / bandwidth / kept : 0;
  };
  const double transfer = seconds(decode.received, shape_.to_user()) + seconds(decode.sent, shape_.from_user());
  return {{"offline", offline},
          {"offline_per_token", offline / slots_wanted()},
          {"prefill", prefill},
          {"prefill_per_token", prefill / static_cast<double>(prompted_)},
          {"decode_per_token", token},
          {"checks_per_token", (last_.checks - first_.checks) / tokens_behind_first()},
          {"latency_per_token", latency},
          {"transfer_per_token", transfer},
          {"compute_per_token", std::max(0.0, token - latency - transfer)}};
}

// What the boxes declare for the same passes.
nlohmann::json MeasuredConversation::declared_json() const {
  const std::size_t at = std::min(before_ + plan().prompt_rows(prompted_), plan().slots - 1);
  const Cost declared = drafted_.passes == 0 ? pass_cost(plan(), at, 1, false) : declared_;
  const auto a_pass = [passes = std::max(1.0, static_cast<double>(drafted_.passes))](std::size_t total) {
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
        {"helper_to_user_bytes",
         static_cast<double>(traffic_.helper.received.payload_bytes - client_.product_key_bytes()) / slots_wanted()}}},
      {"product_key_bytes",
       {{"measured", client_.product_key_bytes()}, {"declared", plan().checked ? product_key_bytes(plan()) : 0}}},
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
          {"checked", plan().checked},
          {"retrieval", name_of(plan().retrieval)},
          {"passes", passes_},
          {"drafts",
           {{"tokens", drafted_.drafted},
            {"kept", drafted_.kept},
            {"rejected", drafted_.rejected()},
            {"rejected_offline_bytes", drafted_.rejected_bytes}}},
          {"seconds", seconds_json()},
          {"online_per_token", online_json(passes_end_ - passes_begin_, std::max(1.0, static_cast<double>(kept_)))},
          {"prefill", online_json(first_.online - begin_.online, 1)},
          {"declared_per_pass", declared_json()},
          {"frame_overhead_bytes",
           traffic_.online.header_bytes() + traffic_.offline.header_bytes() + traffic_.helper.header_bytes()}};
}

}  // namespace permllm
