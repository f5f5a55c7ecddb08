// An answer under way: one thread makes it, any number of connections read along.
#pragma once

#include <condition_variable>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "gateway/refusal.h"
#include "gateway/request.h"

namespace permllm {

class AnswerJob {
 public:
  enum class Stage { queued, preparing, reconnecting, reading, answering, done };
  AnswerJob(std::size_t who, gateway::Request asked, gateway::Head headed, std::vector<std::uint32_t> ids_of_it)
      : owner(who), request(std::move(asked)), head(std::move(headed)), ids(std::move(ids_of_it)) {}

  const std::size_t owner;  // which API key asks; 0 where none is needed
  const gateway::Request request;
  const gateway::Head head;
  const std::vector<std::uint32_t> ids;  // of the request's messages
  const std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
  bool keyed = false;  // with an Idempotency-Key: goes on for a while without listeners

  // Called by the thread that makes the answer: one choice behind the other, each with a beginning and an end.
  void set(const AnswerProgress& progress);
  void begin_choice();
  void add(gateway::Piece::Kind kind, std::string_view piece);
  void add(const ToolCall& call);
  void end_choice(const Answer& answer);
  void finish(const gateway::Costs& costs);
  void fail(gateway::Refusal refusal);
  std::stop_token stop_token() const { return stop_.get_token(); }
  void cancel() { stop_.request_stop(); }

  // Called by those that read along.
  // Waits for pieces behind the first `from`, for the end, or for the deadline. Returns the pieces.
  std::vector<gateway::Piece> wait(std::size_t from, std::chrono::steady_clock::time_point deadline) const;
  bool done() const;
  // Once it is done: what went wrong, or what was made.
  std::optional<gateway::Refusal> failure() const;
  gateway::Made made() const;

  struct Now {
    Stage stage = Stage::queued;
    struct Progress {
      double fraction, seconds_left;
    };
    std::optional<Progress> progress = {};  // of its material, then of its reading
    std::size_t tokens = 0;
    double tokens_per_second = 0;  // 0: not known yet
  };
  Now now() const;

  // Listeners: a job that nobody listens to is given up, a keyed one when nobody has come back within `grace`.
  void join();
  void leave();
  std::size_t listeners() const;
  void give_up_if_alone(std::chrono::steady_clock::duration grace);

 private:
  mutable Mutex mutex_;
  mutable std::condition_variable changed_;
  std::stop_source stop_;
  std::vector<gateway::Piece> pieces_ GUARDED_BY(mutex_);
  gateway::Made made_ GUARDED_BY(mutex_);
  Now now_ GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point first_ GUARDED_BY(mutex_){}, alone_since_ GUARDED_BY(mutex_){};
  std::size_t listeners_ GUARDED_BY(mutex_) = 0;
  std::optional<gateway::Refusal> failure_ GUARDED_BY(mutex_);
};

}  // namespace permllm
