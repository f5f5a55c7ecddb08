// An answer under way: one thread makes it, any number of connections read along.
#pragma once

#include <condition_variable>
#include <optional>
#include <stop_token>
#include <string>

#include "base/mutex.h"
#include "gateway/openai.h"

namespace permllm {

class AnswerJob {
 public:
  enum class Stage { queued, preparing, reconnecting, reading, answering, done };
  AnswerJob(std::size_t who, openai::Request asked, openai::Shape shaped, std::vector<std::uint32_t> ids_of_it)
      : owner(who), request(std::move(asked)), shape(std::move(shaped)), ids(std::move(ids_of_it)) {}

  const std::size_t owner;  // which API key asks; 0 where none is needed
  const openai::Request request;
  const openai::Shape shape;
  const std::vector<std::uint32_t> ids;  // of the request's messages
  bool keyed = false;                    // with an Idempotency-Key: goes on for a while without listeners

  // Called by the thread that makes the answer.
  void set(const AnswerProgress& progress);
  void add(std::string_view piece);
  void add(const ToolCall& call);
  void finish(const Answer& answer, const openai::Json& usage);
  void fail(openai::Refusal refusal);
  std::stop_token stop_token() const { return stop_.get_token(); }
  void cancel() { stop_.request_stop(); }

  // Called by those that read along.
  struct Result {
    std::string text;
    std::vector<openai::Call> calls;
    const char* finish = nullptr;
    openai::Json usage, logprobs;
  };
  // Waits for text behind the first `from` bytes, for more than so many calls, for the end, or for the deadline. Returns the text.
  std::string wait(std::size_t from, std::chrono::steady_clock::time_point deadline, std::size_t calls = SIZE_MAX);
  // Those behind the first `from`.
  std::vector<openai::Call> calls(std::size_t from) const;
  bool done() const;
  // Once it is done: what went wrong, or the result.
  std::optional<openai::Refusal> failure() const;
  Result result() const;

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
  std::condition_variable changed_;
  std::stop_source stop_;
  std::string text_ GUARDED_BY(mutex_);
  std::vector<openai::Call> calls_ GUARDED_BY(mutex_);
  Now now_ GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point first_ GUARDED_BY(mutex_){}, alone_since_ GUARDED_BY(mutex_){};
  std::size_t listeners_ GUARDED_BY(mutex_) = 0;
  std::optional<openai::Refusal> failure_ GUARDED_BY(mutex_);
  const char* finish_ GUARDED_BY(mutex_) = nullptr;
  openai::Json usage_ GUARDED_BY(mutex_), logprobs_ GUARDED_BY(mutex_);
};

}  // namespace permllm
