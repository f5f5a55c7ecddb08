// Where requests become answers: each waits for a conversation, has a thread, and may be asked for again by its key.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <thread>

#include "base/mutex.h"
#include "gateway/held_answer.h"
#include "gateway/job.h"
#include "gateway/keeper.h"
#include "gateway/pool.h"

namespace permllm {

struct DeskOptions {
  std::size_t sessions = 4, max_requests = 16, stock = 0;
  ConversationOptions conversation = {};
  // Told the seconds since the request: once its answer has a conversation, and once its first token is there.
  std::function<void(double)> on_begin = {}, on_first_token = {};
};

class AnswerDesk {
 public:
  // The backend and the log outlive it.
  AnswerDesk(const Backend& backend, const DeskOptions& options, Log& log);
  ~AnswerDesk();

  // What a listener holds: the answer is made as long as any of them lives.
  class Ticket {
   public:
    explicit Ticket(std::shared_ptr<AnswerJob> job) : job_(std::move(job)) { job_->join(); }
    ~Ticket() { job_->leave(); }
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;
    AnswerJob& operator*() const { return *job_; }
    AnswerJob* operator->() const { return job_.get(); }

   private:
    std::shared_ptr<AnswerJob> job_;
  };
  // Begins an answer, or finds the one that the same owner began under the same key (empty: none) less than ten minutes ago. digest: of the
  // request. Errors: usage for what cannot be answered (fields conversation, tokens, Idempotency-Key), resource (field queue) where there are max_requests already.
  std::shared_ptr<Ticket> ask(std::size_t owner, gateway::Request request, gateway::Head head, const std::string& key,
                              const std::string& digest);
  // Of what the model would be given. Errors: as ask.
  std::size_t count(const gateway::Request& request) const { return ids_of(request).size(); }

  // Takes no new request. Those under way have so long to end, then they are cancelled. Returns once all have ended.
  void drain(std::chrono::steady_clock::duration patience);

  struct Now {
    std::size_t active = 0, queued = 0;
    AnswerJob::Now foremost;                      // of those under way, the one that is furthest on
    double tokens_per_second = 0;                 // of it, or of the last; 0: none yet
    std::uint64_t tokens = 0, prompt_tokens = 0;  // since the start
  };
  Now now() const;
  StockKeeper& keeper() { return keeper_; }
  const StockKeeper& keeper() const { return keeper_; }

 private:
  struct Run {
    std::shared_ptr<AnswerJob> job;
    std::jthread thread;
  };
  struct Keyed {
    std::string digest;
    std::shared_ptr<AnswerJob> job;
    std::chrono::steady_clock::time_point begun;
  };
  HeldAnswer held_of(const gateway::Request& request) const;
  // The ids of what is asked, made here and nowhere else. Errors: as ask.
  std::vector<std::uint32_t> ids_of(const gateway::Request& request) const;
  void run(const std::shared_ptr<AnswerJob>& job);
  // All choices of a request. False: it was cancelled.
  bool answer(AnswerJob& job, gateway::Costs& costs);
  // One of them, whose cost is added to those of the others. False: likewise.
  bool choose(AnswerJob& job, std::size_t number, ConversationPool::Lease& lease, gateway::Costs& costs);
  void tidy() REQUIRES(mutex_);
  bool idle();

  const Backend& backend_;
  const DeskOptions options_;
  Log& log_;
  ConversationPool pool_;
  mutable Mutex mutex_;
  std::list<Run> runs_ GUARDED_BY(mutex_);
  std::map<std::pair<std::size_t, std::string>, Keyed> keyed_ GUARDED_BY(mutex_);
  bool draining_ GUARDED_BY(mutex_) = false;
  std::atomic<std::uint64_t> tokens_ = 0, prompt_tokens_ = 0;
  std::atomic<double> last_rate_ = 0;
  StockKeeper keeper_;
  std::jthread tidier_;
};

}  // namespace permllm
