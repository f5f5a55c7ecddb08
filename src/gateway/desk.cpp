#include "gateway/desk.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/reason.h"

namespace permllm {
namespace {

constexpr auto k_key_lasts = std::chrono::minutes(10);
constexpr auto k_key_grace = std::chrono::seconds(10);  // for whoever lost its connection to come back
constexpr std::size_t k_most_keys = 256;
constexpr std::size_t k_most_listeners = 4;  // of an answer under way: each has a thread of the server
// Without max_tokens an answer may be as long as its session has room for, where that is so much at least: a session that is begun again is
// fed the whole dialogue, which few answers are worth.
constexpr std::size_t k_enough_room = 256;

// What each choice and each try took is the answer's cost; the rest is as the last one has it.
void add_cost(Answer::Cost& cost, const Answer::Cost& before) {
  cost.fed_tokens += before.fed_tokens;
  cost.answer_tokens += before.answer_tokens;
  cost.round_trips += before.round_trips;
  cost.passes += before.passes;
  cost.drafted_tokens += before.drafted_tokens;
  cost.rejected_tokens += before.rejected_tokens;
  cost.rejected_bytes += before.rejected_bytes;
  cost.offline_seconds += before.offline_seconds;
  cost.seconds += before.seconds;
  for (Answer::Bytes Answer::Cost::*part :
       {&Answer::Cost::set_up, &Answer::Cost::online, &Answer::Cost::offline_provider, &Answer::Cost::offline_helper}) {
    (cost.*part).sent += (before.*part).sent;
    (cost.*part).received += (before.*part).received;
  }
}

}  // namespace

AnswerDesk::AnswerDesk(const Backend& backend, const DeskOptions& options, Log& log)
    : backend_(backend),
      options_(options),
      log_(log),
      pool_(backend, options.conversation, options.sessions),
      keeper_(
          backend, options.stock, [this] { return idle(); }, log),
      tidier_([this](const std::stop_token& stop) {
        std::condition_variable_any never;
        Lock lock(mutex_);
        while (!never.wait_for(lock, stop, std::chrono::seconds(1), [&] { return stop.stop_requested(); })) tidy();
      }) {}

AnswerDesk::~AnswerDesk() { drain({}); }

HeldAnswer AnswerDesk::held_of(const gateway::Request& request) const {
  // A format that was chosen in place of the model's template knows of no tools.
  const bool own = options_.conversation.chat_format.empty();
  return {request, own ? backend_.chat_template() : "", backend_.model().named_logits};
}

std::vector<std::uint32_t> AnswerDesk::ids_of(const gateway::Request& request) const {
  Client::check(backend_.model(), request.answer);
  const HeldAnswer held = held_of(request);
  std::vector<std::uint32_t> ids = backend_.tokenize(held.messages(), held.options(pool_.options_for(!request.chat)));
  const std::size_t tokens = ids.size(), context = backend_.model().context;
  if (tokens == 0) throw Error(Code::usage, request.chat ? "messages" : "prompt", "has no tokens");
  if (tokens >= context) {
    throw Error(Code::usage, Reason::context_exceeded, "conversation",
                fmt::format("the context has room for {} tokens, of which one is the answer's; {} were given", context,
                            tokens));
  }
  if (backend_.tokens_left() == 0) throw allowance_used_up(Code::usage, "tokens");
  return ids;
}

std::shared_ptr<AnswerDesk::Ticket> AnswerDesk::ask(std::size_t owner, gateway::Request request, gateway::Head head,
                                                    const std::string& key, const std::string& digest) {
  const auto known = [&]() REQUIRES(mutex_) -> std::shared_ptr<Ticket> {
    const auto found = key.empty() ? keyed_.end() : keyed_.find({owner, key});
    if (found == keyed_.end()) return nullptr;
    if (found->second.digest != digest)
      throw Error(Code::usage, "Idempotency-Key", "was used for another request less than ten minutes ago");
    if (!found->second.job->done() && found->second.job->listeners() >= k_most_listeners) {
      throw Error(Code::resource, Reason::queue_full, "queue",
                  "the answer to this Idempotency-Key is awaited by as many connections as may be");
    }
    return std::make_shared<Ticket>(found->second.job);
  };
  {
    const Lock lock(mutex_);
    tidy();  // a failure is not kept under its key
    if (auto ticket = known()) return ticket;
  }
  std::vector<std::uint32_t> ids = ids_of(request);  // takes its time, and keeps nobody waiting
  const Lock lock(mutex_);
  if (auto ticket = known()) return ticket;
  if (draining_) throw Error(Code::resource, Reason::busy, "permllm", "is shutting down");
  tidy();
  if (runs_.size() >= options_.max_requests) {
    throw Error(Code::resource, Reason::queue_full, "queue",
                fmt::format("{} requests are under way or wait, as many as may be", runs_.size()));
  }
  const auto job = std::make_shared<AnswerJob>(owner, std::move(request), std::move(head), std::move(ids));
  job->keyed = !key.empty();
  auto ticket = std::make_shared<Ticket>(job);
  if (job->keyed) {
    if (keyed_.size() >= k_most_keys) {  // the oldest whose answer is there makes room
      const auto rank = [](const auto& entry) { return std::pair(!entry.second.job->done(), entry.second.begun); };
      const auto oldest = std::min_element(keyed_.begin(), keyed_.end(),
                                           [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
      if (!oldest->second.job->done())
        throw Error(Code::resource, Reason::queue_full, "queue",
                    "too many answers with an Idempotency-Key are under way");
      keyed_.erase(oldest);
    }
    keyed_[{owner, key}] = {digest, job, Clock::now()};
  }
  runs_.push_back({job, std::jthread([this, job] { run(job); })});
  return ticket;
}

// The lease ends with this function, before the listeners hear of the end: so the dialogue's next question finds its conversation free.
bool AnswerDesk::answer(AnswerJob& job, gateway::Costs& costs) {
  const std::stop_token stop = job.stop_token();
  auto lease = pool_.take(job.owner, job.ids, !job.request.chat, stop);
  if (!lease) return false;
  if (options_.on_begin) options_.on_begin(seconds_of(Clock::now() - job.begun));
  Dialogue& conversation = **lease;
  const std::stop_callback cancel(stop, [&] { conversation.cancel(); });
  for (std::size_t i = 0; i < job.request.choices; ++i) {
    if (!choose(job, i, *lease, costs)) return false;
  }
  return true;
}

bool AnswerDesk::choose(AnswerJob& job, std::size_t number, ConversationPool::Lease& lease, gateway::Costs& costs) {
  constexpr std::size_t k_most_tries = 8;
  const gateway::Request& request = job.request;
  Dialogue& conversation = *lease;
  AnswerOptions how = request.answer;
  if (how.seed) *how.seed += number * k_most_tries;  // those of its tries lie between
  const std::size_t context = backend_.model().context;
  how.max_tokens = request.max_tokens.value_or(context);
  if (!request.max_tokens) how.enough_tokens = std::min(k_enough_room, context / 4);
  HeldAnswer held = held_of(request);
  const std::span<const std::uint32_t> ids = job.ids;
  const bool within_thought = begins_thought(backend_.detokenize(ids.last(std::min<std::size_t>(ids.size(), 8))));
  job.begin_choice();
  bool first = number == 0;  // no token of the job's answers is there yet
  for (std::size_t i = 0; i < held.tries(); ++i) {
    held.begin(i, within_thought, how, job);
    const Answer answer = conversation.answer(
        ids, how, [&](std::string_view piece) { held.push(piece, job); },
        [&](const AnswerProgress& progress) {
          job.set(progress);
          if (progress.stage == AnswerProgress::Stage::answer) {
            ++tokens_;
            if (std::exchange(first, false) && options_.on_first_token)
              options_.on_first_token(seconds_of(Clock::now() - job.begun));
          }
          if (job.stop_token().stop_requested())
            conversation.cancel();  // what was asked for before the answer began was forgotten there
        });
    lease.holds(answer.cost.prompt_tokens + answer.cost.answer_tokens);
    const Answer::Cost before = std::exchange(costs.cost, answer.cost);
    add_cost(costs.cost, before);
    costs.out_of_range = std::max(costs.out_of_range, answer.out_of_range);
    if (answer.end == Answer::End::cancelled) return false;
    if (!held.finish(answer, job)) continue;
    costs.trusted_tokens = std::min(costs.trusted_tokens, answer.trusted_tokens);
    job.end_choice(answer);
    return true;
  }
  held.give_up();
}

void AnswerDesk::run(const std::shared_ptr<AnswerJob>& job) {
  const auto fail = [&](const gateway::Refusal& refusal) {
    log_.write(Log::Level::warn, "answer_fails", refusal.code.empty() ? "an answer failed" : refusal.code,
               {{"status", refusal.status}});
    job->fail(refusal);
  };
  try {
    gateway::Costs costs{backend_.model().profile, {}, 0, 0, SIZE_MAX};
    const bool made = answer(*job, costs);
    prompt_tokens_ += costs.cost.prompt_tokens;
    if (costs.cost.token_seconds > 0) last_rate_ = 1 / costs.cost.token_seconds;
    if (costs.cost.answer_tokens > 0) keeper_.heard();
    if (!made) {
      job->fail({503, "server_error", "the answer was cancelled", "", "cancelled"});
    } else {
      if (costs.out_of_range > 0) {
        log_.write(Log::Level::warn, "answer_out_of_range",
                   "inner numbers of the model left the range that it is served for", {{"values", costs.out_of_range}});
      }
      costs.stock_tokens = backend_.ready_tokens();
      job->finish(costs);
    }
  } catch (const Error& error) {
    if (reason_for_user(error) == Reason::provider_unreachable) keeper_.lost();
    fail(gateway::refusal_of(error));
  } catch (const std::exception&) {  // what it says is not told: it may hold anything
    fail({500, "server_error", "this program made a mistake"});
  }
  keeper_.wake();
}

void AnswerDesk::tidy() {
  std::erase_if(runs_, [](const Run& run) { return run.job->done(); });  // its thread is at its end
  std::erase_if(keyed_, [](const auto& entry) {
    AnswerJob& job = *entry.second.job;
    job.give_up_if_alone(k_key_grace);
    return job.done() && (job.failure() || Clock::now() - entry.second.begun > k_key_lasts);
  });
}

bool AnswerDesk::idle() {
  const Lock lock(mutex_);
  return std::all_of(runs_.begin(), runs_.end(), [](const Run& run) { return run.job->done(); });
}

AnswerDesk::Now AnswerDesk::now() const {
  Now now;
  now.foremost.stage = AnswerJob::Stage::queued;
  now.tokens = tokens_;
  now.prompt_tokens = prompt_tokens_;
  now.tokens_per_second = last_rate_;
  const Lock lock(mutex_);
  for (const Run& run : runs_) {
    const AnswerJob::Now job = run.job->now();
    if (job.stage == AnswerJob::Stage::done) continue;
    job.stage == AnswerJob::Stage::queued ? ++now.queued : ++now.active;
    if (job.stage >= now.foremost.stage) now.foremost = job;
  }
  if (now.foremost.tokens_per_second > 0) now.tokens_per_second = now.foremost.tokens_per_second;
  return now;
}

void AnswerDesk::drain(Clock::duration patience) {
  const Clock::time_point end = Clock::now() + patience;
  {
    const Lock lock(mutex_);
    draining_ = true;
  }
  while (!idle() && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::list<Run> runs;
  {
    const Lock lock(mutex_);
    for (const Run& run : runs_) run.job->cancel();
    runs.swap(runs_);
  }
}  // each thread is waited for

}  // namespace permllm
