#include "gateway/job.h"

#include <algorithm>

#include "base/clock.h"

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

void AnswerJob::begin_choice() {
  const Lock lock(mutex_);
  made_.choices.emplace_back();
}

void AnswerJob::add(gateway::Piece::Kind kind, std::string_view piece) {
  {
    const Lock lock(mutex_);
    gateway::Choice& choice = made_.choices.back();
    (kind == gateway::Piece::Kind::thought ? choice.thought : choice.text) += piece;
    pieces_.push_back({kind, made_.choices.size() - 1, std::string(piece), {}});
  }
  changed_.notify_all();
}

void AnswerJob::add(const ToolCall& call) {
  constexpr std::size_t k_id = 9;  // some models' templates take no other
  {
    const Lock lock(mutex_);
    made_.choices.back().calls.push_back({gateway::random_id(k_id), call});
    pieces_.push_back({gateway::Piece::Kind::call, made_.choices.size() - 1, "", made_.choices.back().calls.back()});
  }
  changed_.notify_all();
}

void AnswerJob::end_choice(const Answer& answer) {
  const Lock lock(mutex_);
  gateway::Choice& choice = made_.choices.back();
  choice.end = answer.end;
  choice.stop = answer.stop;
  choice.log_probabilities = answer.log_probabilities;
  choice.hidden_state = answer.hidden_state;
}

void AnswerJob::finish(const gateway::Costs& costs) {
  {
    const Lock lock(mutex_);
    made_.costs = costs;
    now_.stage = Stage::done;
  }
  changed_.notify_all();
}

void AnswerJob::fail(gateway::Refusal refusal) {
  {
    const Lock lock(mutex_);
    failure_ = std::move(refusal);
    now_.stage = Stage::done;
  }
  changed_.notify_all();
}

std::vector<gateway::Piece> AnswerJob::wait(std::size_t from, Clock::time_point deadline) const {
  Lock lock(mutex_);
  changed_.wait_until(lock, deadline,
                      [&]() REQUIRES(mutex_) { return pieces_.size() > from || now_.stage == Stage::done; });
  return {pieces_.begin() + static_cast<std::ptrdiff_t>(std::min(from, pieces_.size())), pieces_.end()};
}

std::size_t AnswerJob::listeners() const {
  const Lock lock(mutex_);
  return listeners_;
}

bool AnswerJob::done() const {
  const Lock lock(mutex_);
  return now_.stage == Stage::done;
}

std::optional<gateway::Refusal> AnswerJob::failure() const {
  const Lock lock(mutex_);
  return failure_;
}

gateway::Made AnswerJob::made() const {
  const Lock lock(mutex_);
  return made_;
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
