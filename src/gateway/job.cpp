#include "gateway/job.h"

#include <algorithm>

#include "base/clock.h"
#include "rand/seed.h"

namespace permllm {

void AnswerJob::set(const AnswerProgress& progress) {
  const Lock lock(mutex_);
  switch (progress.stage) {
    case AnswerProgress::Stage::connecting:
      now_.stage = Stage::preparing;
      break;
    case AnswerProgress::Stage::material:
      now_.stage = Stage::preparing;
      now_.progress = {progress.fraction, progress.seconds_left};
      break;
    case AnswerProgress::Stage::reconnecting:
    case AnswerProgress::Stage::restarted:
      now_.stage = Stage::reconnecting;
      break;
    case AnswerProgress::Stage::prompt:
      now_.stage = Stage::reading;
      now_.progress = {progress.fraction, progress.seconds_left};
      break;
    case AnswerProgress::Stage::answer:
      now_.stage = Stage::answering;
      if (++now_.tokens == 1) {
        first_ = Clock::now();
      } else {
        now_.tokens_per_second = static_cast<double>(now_.tokens - 1) / std::max(1e-6, seconds_since(first_));
      }
      break;
  }
}

void AnswerJob::add(std::string_view piece) {
  {
    const Lock lock(mutex_);
    text_ += piece;
  }
  changed_.notify_all();
}

// Nine letters and digits: some models' templates take no other id.
void AnswerJob::add(const ToolCall& call) {
  constexpr std::string_view k_letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  std::string id;
  for (std::uint64_t number = random_number(); id.size() < 9; number /= k_letters.size())
    id += k_letters[number % k_letters.size()];
  {
    const Lock lock(mutex_);
    calls_.push_back({id, call});
  }
  changed_.notify_all();
}

std::vector<openai::Call> AnswerJob::calls(std::size_t from) const {
  const Lock lock(mutex_);
  return {calls_.begin() + static_cast<std::ptrdiff_t>(std::min(from, calls_.size())), calls_.end()};
}

void AnswerJob::finish(const Answer& answer, const openai::Json& usage) {
  {
    const Lock lock(mutex_);
    finish_ = openai::finish_reason(answer.end);
    if (!calls_.empty() && std::string_view(finish_) == "stop") finish_ = "tool_calls";
    usage_ = usage;
    logprobs_ = openai::logprobs_of(answer.log_probabilities);
    now_.stage = Stage::done;
  }
  changed_.notify_all();
}

void AnswerJob::fail(openai::Refusal refusal) {
  {
    const Lock lock(mutex_);
    failure_ = std::move(refusal);
    now_.stage = Stage::done;
  }
  changed_.notify_all();
}

std::string AnswerJob::wait(std::size_t from, Clock::time_point deadline, std::size_t calls) {
  Lock lock(mutex_);
  changed_.wait_until(lock, deadline, [&]() REQUIRES(mutex_) {
    return text_.size() > from || calls_.size() > calls || now_.stage == Stage::done;
  });
  return text_.substr(std::min(from, text_.size()));
}

std::size_t AnswerJob::listeners() const {
  const Lock lock(mutex_);
  return listeners_;
}

bool AnswerJob::done() const {
  const Lock lock(mutex_);
  return now_.stage == Stage::done;
}

std::optional<openai::Refusal> AnswerJob::failure() const {
  const Lock lock(mutex_);
  return failure_;
}

AnswerJob::Result AnswerJob::result() const {
  const Lock lock(mutex_);
  return {text_, calls_, finish_, usage_, logprobs_};
}

AnswerJob::Now AnswerJob::now() const {
  const Lock lock(mutex_);
  return now_;
}

void AnswerJob::join() {
  const Lock lock(mutex_);
  ++listeners_;
}

void AnswerJob::leave() {
  bool give_up = false;
  {
    const Lock lock(mutex_);
    alone_since_ = Clock::now();
    give_up = --listeners_ == 0 && !keyed && now_.stage != Stage::done;
  }
  if (give_up) cancel();
}

void AnswerJob::give_up_if_alone(Clock::duration grace) {
  bool give_up = false;
  {
    const Lock lock(mutex_);
    give_up = listeners_ == 0 && now_.stage != Stage::done && Clock::now() - alone_since_ > grace;
  }
  if (give_up) cancel();
}

}  // namespace permllm
