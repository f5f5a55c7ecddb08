#include "user/filling_state.h"

#include <algorithm>

namespace permllm {

std::vector<PackOrder> orders_between(const Plan& plan, const Marks& made, const Marks& target) {
  std::vector<PackOrder> orders;
  Marks next = made;
  const auto left = [&](std::uint8_t kind) { return next[kind] < target[kind]; };
  const auto order = [&](std::uint8_t kind) {
    const auto count =
        std::min<std::size_t>(deal_batch(plan, static_cast<Part::Kind>(kind)), target[kind] - next[kind]);
    orders.push_back({kind, next[kind], static_cast<std::uint32_t>(count)});
    next[kind] += static_cast<std::uint32_t>(count);
  };
  while (left(k_entry_kind)) order(k_entry_kind);
  while (left(k_slot_kind) || left(k_pass_kind) || left(k_users_kind)) {
    // A pass of the answer comes when its slot has: before further slots, which may have to wait until some are used.
    while (left(k_pass_kind) && (!left(k_slot_kind) || target[k_slot_kind] + 1 + next[k_pass_kind] <=
                                                           next[k_slot_kind] + target[k_pass_kind])) {
      order(k_pass_kind);
    }
    while (left(k_users_kind) && (next[k_users_kind] < next[k_pass_kind] || !left(k_pass_kind))) order(k_users_kind);
    if (left(k_slot_kind)) order(k_slot_kind);
  }
  return orders;
}

std::optional<PackOrder> FillingState::next(const Plan& plan) const {
  std::optional<PackOrder> next;
  for (PackOrder first : orders_between(plan, made, target)) {
    if (first.first != made[first.kind]) continue;  // the first of each kind, which has not to wait for another's room
    const bool awaited = first.first < needed[first.kind];
    const std::size_t end = used[first.kind] + ahead;
    std::size_t room = end - std::min<std::size_t>(end, first.first);
    if (room < std::min(first.count, k_least_order)) room = awaited ? needed[first.kind] - first.first : 0;
    if (room == 0) continue;
    first.count = std::min({first.count, static_cast<std::uint32_t>(room), static_cast<std::uint32_t>(order)});
    if (awaited) return first;
    if (!next) next = first;
  }
  return next;
}

FillingState::Step FillingState::step(const Plan& plan) const {
  if (phase == Phase::stopped) return {Step::leave};
  if (phase == Phase::failed) return {Step::wait};
  if (ending) return {phase == Phase::connected ? Step::finish : Step::wait};
  const std::optional<PackOrder> first = next(plan);
  return {first ? Step::make : Step::wait, first};
}

}  // namespace permllm
