#include "ring/turns.h"

#include <algorithm>

namespace permllm {

using State = TurnRequest::State;

Turns::Line& Turns::line_of(std::uint64_t user) {
  const auto found = std::find_if(lines_.begin(), lines_.end(), [&](const Line& line) { return line.user == user; });
  return found != lines_.end() ? *found : lines_.emplace_back(Line{user, {}});
}

bool Turns::begin(TurnRequest& own) {
  Lock lock(mutex_);
  if (!taken_) {
    taken_ = true;
    return true;
  }
  own.state = State::waiting;
  line_of(own.user).requests.push_back(&own);
  ++waiting_;
  own.changed.wait(lock, [&] { return own.state != State::waiting; });
  return own.state == State::leads;
}

std::vector<TurnRequest*> Turns::company(const TurnRequest& own, std::size_t most) {
  std::vector<TurnRequest*> taken;
  if (own.work.what == nullptr || waiting() == 0) return taken;
  const Lock lock(mutex_);
  std::size_t size = own.size;
  for (bool more = true; more;) {
    more = false;
    for (Line& line : lines_) {
      const auto found = std::find_if(line.requests.begin(), line.requests.end(), [&](const TurnRequest* r) {
        return r->work == own.work && r->size + size <= most;
      });
      if (found == line.requests.end()) continue;
      size += (*found)->size;
      taken.push_back(*found);
      line.requests.erase(found);
      more = true;
    }
  }
  std::erase_if(lines_, [](const Line& line) { return line.requests.empty(); });
  waiting_ -= taken.size();
  return taken;
}

void Turns::send_back(const std::vector<TurnRequest*>& company) {
  const Lock lock(mutex_);
  for (TurnRequest* request : company) {
    request->work = {};
    line_of(request->user).requests.push_front(request);
  }
  waiting_ += company.size();
}

void Turns::end(const std::vector<TurnRequest*>& company) {
  // Notified under the lock: a request is gone as soon as its caller can see that it is done.
  const Lock lock(mutex_);
  for (TurnRequest* request : company) {
    request->state = State::done;
    request->changed.notify_one();
  }
  taken_ = !lines_.empty();
  if (!taken_) return;
  Line& line = lines_.front();
  TurnRequest* next = line.requests.front();
  line.requests.pop_front();
  --waiting_;
  if (line.requests.empty()) {
    lines_.pop_front();
  } else {
    lines_.splice(lines_.end(), lines_, lines_.begin());
  }
  next->state = State::leads;
  next->changed.notify_one();
}

}  // namespace permllm
