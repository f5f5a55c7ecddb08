#include "gateway/pool.h"

#include <algorithm>

namespace permllm {

ConversationPool::ConversationPool(const Backend& backend, const ConversationOptions& options, std::size_t size)
    : backend_(backend), options_(options), slots_(size) {}

ConversationPool::Lease::~Lease() {
  if (pool_ == nullptr) return;
  {
    const Lock lock(pool_->mutex_);
    Slot& slot = pool_->slots_[index_];
    slot.busy = false;
    slot.used = ++pool_->uses_;
  }
  pool_->changed_.notify_all();
}

Dialogue& ConversationPool::Lease::operator*() const { return *pool_->slots_[index_].conversation; }
void ConversationPool::Lease::holds(std::size_t tokens) { pool_->slots_[index_].held = tokens; }

std::size_t ConversationPool::waiting() const {
  const Lock lock(mutex_);
  return queue_.size();
}

ConversationOptions ConversationPool::options_for(bool raw) const {
  ConversationOptions options = options_;
  if (raw) {
    options.chat_format = "none";
    options.think = false;
  }
  return options;
}

std::size_t ConversationPool::choose(std::size_t owner, std::span<const std::uint32_t> ids, bool raw,
                                     bool& goes_on) const {
  std::size_t best = slots_.size(), most = 0, unmade = slots_.size(), oldest = slots_.size();
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.busy) continue;
    if (!slot.conversation) {
      unmade = std::min(unmade, i);
      continue;
    }
    if (oldest == slots_.size() || slot.used < slots_[oldest].used) oldest = i;
    if (slot.raw != raw || slot.owner != owner) continue;  // how much they have in common is told: not of another's
    const std::size_t common = slot.conversation->in_common(ids);
    if (common > most && (2 * common >= slot.held || common + 1 >= ids.size())) {
      most = common;
      best = i;
    }
  }
  goes_on = best < slots_.size();
  return goes_on ? best : unmade < slots_.size() ? unmade : oldest;
}

std::uint64_t ConversationPool::next() const {
  const auto rank = [&](const Waiting& waiting) REQUIRES(mutex_) {
    const auto in_use = std::count_if(slots_.begin(), slots_.end(),
                                      [&](const Slot& slot) { return slot.busy && slot.owner == waiting.owner; });
    const auto last = last_turn_.find(waiting.owner);
    return std::pair(in_use, last == last_turn_.end() ? 0 : last->second);
  };
  return std::min_element(queue_.begin(), queue_.end(),
                          [&](const Waiting& a, const Waiting& b) REQUIRES(mutex_) { return rank(a) < rank(b); })
      ->ticket;
}

std::optional<ConversationPool::Lease> ConversationPool::take(std::size_t owner, std::span<const std::uint32_t> ids,
                                                              bool raw, const std::stop_token& stop) {
  std::size_t index = 0;
  bool goes_on = false;
  {
    Lock lock(mutex_);
    const std::uint64_t ticket = ++tickets_;
    queue_.push_back({ticket, owner});
    const bool mine = changed_.wait(lock, stop, [&]() REQUIRES(mutex_) {
      return std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.busy; }) && next() == ticket;
    });
    if (mine && !stop.stop_requested()) {
      index = choose(owner, ids, raw, goes_on);
      slots_[index].busy = true;
      slots_[index].owner = owner;
      last_turn_[owner] = ++turns_;
    }
    std::erase_if(queue_, [&](const Waiting& waiting) { return waiting.ticket == ticket; });
    if (!mine || stop.stop_requested()) {
      lock.unlock();
      changed_.notify_all();
      return std::nullopt;
    }
  }
  changed_.notify_all();
  Lease lease(this, index);
  Slot& slot = slots_[index];  // nobody else's now
  if (!goes_on) {
    slot.held = 0;
    if (slot.conversation && slot.raw == raw) {
      slot.conversation->reset();
    } else {
      slot.conversation.reset();
      slot.raw = raw;
      slot.conversation = backend_.dialogue(options_for(raw));
    }
  }
  return lease;
}

}  // namespace permllm
