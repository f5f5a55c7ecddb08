#include "page/pack.h"

#include <fmt/format.h>

#include <algorithm>

#include "page/declared.h"

namespace permllm {
namespace {

// In bytes: of the last slot, the one with the most keys; layers differ in rings.
std::size_t largest_piece(const Plan& plan, Part::Kind kind) {
  std::size_t largest = 1;
  for (std::uint32_t layer = 0; layer < (kind == Part::Kind::slot ? plan.config.layers : 1); ++layer) {
    const Cost cost = piece_cost(plan, kind, layer, static_cast<std::uint32_t>(plan.slots - 1));
    largest = std::max({largest, cost.offline.helper_to_provider, cost.offline.user_to_provider});
  }
  return largest;
}

}  // namespace

std::size_t deal_batch(const Plan& plan, Part::Kind kind) {
  const std::size_t largest = largest_piece(plan, kind);
  if (largest > PackMaterial::k_limit) {
    throw Error(Code::unsupported, "plan",
                fmt::format("a piece of offline material would have {} bytes, the limit is {}: use a shorter context",
                            largest, PackMaterial::k_limit));
  }
  return std::min(PackMaterial::k_limit / largest, kind == Part::Kind::query ? k_query_batch : k_deal_batch);
}

std::vector<PartOrder> parts_of(const Plan& plan, const PackOrder& order) {
  const std::size_t piece = largest_piece(plan, static_cast<Part::Kind>(order.kind));
  const std::size_t most = std::max(k_least_dealt, k_dealt_bytes / piece);
  std::vector<PartOrder> parts;
  for (std::size_t at = 0; at < order.count; at += most) {
    const std::size_t count = std::min(most, order.count - at);
    parts.push_back({{order.kind, order.batch().index(at), static_cast<std::uint32_t>(count)}, count * piece});
  }
  return parts;
}

std::size_t most_material(const Plan& plan) {
  std::size_t most = k_cut_bytes;
  std::vector<Part::Kind> kinds{Part::Kind::slot, Part::Kind::pass};
  if (!plan.open()) kinds.push_back(Part::Kind::entry);
  if (plan.bfv()) kinds.push_back(Part::Kind::query);
  for (const Part::Kind kind : kinds) most = std::max(most, largest_piece(plan, kind));
  PackMaterial any;
  return bound_of(any).bytes() - PackMaterial::k_limit + std::min(most, PackMaterial::k_limit);
}

namespace {

[[noreturn]] void refuse(const char* field, const std::string& why) {
  throw Error(Code::malformed, std::string("PackOrder.") + field, why);
}

}  // namespace

void check_pieces(const Plan& plan, const PackOrder& order) {
  const int most_kind = plan.bfv() ? 4 : 3;
  if (order.kind < 1 || order.kind > most_kind)
    refuse("kind", fmt::format("{}, expected 1 to {}", order.kind, most_kind));
  if (plan.open() && order.kind == static_cast<std::uint8_t>(Part::Kind::entry)) {
    refuse("kind", "profile open has no entries: the user has the embedding table");
  }
  const std::size_t most = deal_batch(plan, static_cast<Part::Kind>(order.kind));
  if (order.count < 1 || order.count > most) refuse("count", fmt::format("{}, expected 1 to {}", order.count, most));
  // A chain cannot use more entries or passes than it has slots.
  if (order.first > plan.slots || order.count > plan.slots - order.first) {
    refuse("first", fmt::format("{} and the {} after it, a chain has {} slots", order.first, order.count, plan.slots));
  }
}

void check_order(const Plan& plan, const PackOrder& order) {
  check_pieces(plan, order);
  if (order.kind == k_users_kind)
    refuse("kind", fmt::format("{}, expected 1 to 3: a query is the user's alone", order.kind));
}

}  // namespace permllm
