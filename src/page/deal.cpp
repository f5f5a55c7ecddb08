#include "page/deal.h"

#include <fmt/format.h>

#include <algorithm>

#include "page/pass.h"

namespace permllm {
namespace {

// A batch's pieces, as many in a frame as k_cut_bytes hold.
void send_packs(Channel& provider, Part part, Batch batch, std::vector<Writer>& packs) {
  for (std::size_t next = 0; next < packs.size();) {
    PackMaterial message{static_cast<std::uint8_t>(part.kind), part.layer, batch.index(next), 0, {}};
    std::size_t total = 0, end = next;
    do total += packs[end++].size();
    while (end < packs.size() && total + packs[end].size() <= k_cut_bytes);
    message.count = static_cast<std::uint32_t>(end - next);
    message.material.reserve(total);
    for (; next < end; ++next) {
      const Bytes piece = packs[next].take();
      message.material.insert(message.material.end(), piece.begin(), piece.end());
    }
    provider.send(std::move(message));
    provider.flush();
  }
}

// Collects what a dealer writes for one part and sends it.
struct DealtMaterial {
  Batch batch;
  Channel& provider;
  const std::function<void()>& on_part;

  template <class Party>
  void open(Party& party, Part) {
    party.batch = batch;
    party.packs = std::vector<Writer>(batch.count);
  }
  template <class Party>
  void close(Party& party, Part part) {
    send_packs(provider, part, batch, party.packs);
    if (on_part) on_part();
  }
};

// What the dealers know of the masks that come into a part from outside it.
Mask entry_mask(const Coins& coins, const Plan& plan, Batch batch) {
  return one_hot_mask(coins, one_hot_shape(plan), batch);
}
template <class Party>
const Coins& user_coins(const Party& party) {
  if constexpr (std::is_same_v<Party, Helper>) {
    return party.with_user;
  } else {
    return party.with_helper;
  }
}

constexpr auto k_no_choice = [](std::span<const std::int64_t>) { return std::size_t{0}; };

struct CountedMaterial {
  Batch batch;
  std::vector<Cost> parts;
  void open(Counter& counter, Part) {
    counter.batch = batch;
    counter.total = {};
  }
  void close(Counter& counter, Part) { parts.push_back(counter.total); }
};

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
    throw Error(Code::unsupported, "plan", fmt::format("a piece of offline material would have {} bytes, the limit is {}: use a shorter context", largest, PackMaterial::k_limit));
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

[[noreturn]] void refuse(const char* field, const std::string& why) { throw Error(Code::malformed, std::string("PackOrder.") + field, why); }

}  // namespace

void check_pieces(const Plan& plan, const PackOrder& order) {
  const int most_kind = plan.bfv() ? 4 : 3;
  if (order.kind < 1 || order.kind > most_kind) refuse("kind", fmt::format("{}, expected 1 to {}", order.kind, most_kind));
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
  if (order.kind == k_users_kind) refuse("kind", fmt::format("{}, expected 1 to 3: a query is the user's alone", order.kind));
}

template <class Party, class Matrix>
void deal(Party& party, const Plan& plan, const Weights<Matrix>& w, const PackOrder& order, Channel& provider,
          const std::function<void()>& on_part) {
  DealtMaterial material{order.batch(), provider, on_part};
  party.batch = order.batch();
  switch (static_cast<Part::Kind>(order.kind)) {
    case Part::Kind::entry:
      run_entries(party, plan, w, entry_mask(user_coins(party), plan, party.batch), material);
      break;
    case Part::Kind::slot:
      if (plan.open()) {
        NoClear none;
        run_open_layers(party, plan, w, hand_rows(party, plan, {}), material, none);
      } else {
        run_layers(party, plan, w, remask(party, embed_remask_shape(plan), Mask{}), material);
      }
      break;
    case Part::Kind::pass:
      if (plan.open()) {
        NoClear none;
        run_open_pass(party, plan, w, Mask{}, material, none);
      } else {
        run_pass(party, plan, w, Mask{}, k_no_choice, material);
      }
      break;
    case Part::Kind::query: PERMLLM_ASSERT(false);  // no order: deal_queries
  }
}

void deal_queries(const BfvUser& user, const PackOrder& order, Channel& provider, Executor& executor) {
  std::vector<Writer> packs(order.count);
  executor.parallel(order.count, [&](std::size_t i) { user.query(order.batch().index(i)).visit(packs[i]); });
  send_packs(provider, {Part::Kind::query}, order.batch(), packs);
}

template void deal(Helper&, const Plan&, const Weights<RingMatrix>&, const PackOrder&, Channel&,
                   const std::function<void()>&);
template void deal(UserDealer&, const Plan&, const Weights<StreamedMatrix>&, const PackOrder&, Channel&,
                   const std::function<void()>&);

Cost piece_cost(const Plan& plan, Part::Kind kind, std::uint32_t layer, std::uint32_t index) {
  Counter counter;
  CountedMaterial material{{index, 1}, {}};
  const auto none = no_weights(plan.config);
  NoClear clear;
  switch (kind) {
    case Part::Kind::entry: run_entries(counter, plan, none, Counted{}, material); break;
    case Part::Kind::slot:
      if (plan.open()) {
        run_open_layer(counter, plan, none, layer, Counted{}, material, clear);
      } else {
        run_layer(counter, plan, none, layer, Counted{}, material);
      }
      break;
    case Part::Kind::pass:
      if (plan.open()) {
        run_open_pass(counter, plan, none, Counted{}, material, clear);
      } else {
        run_pass(counter, plan, none, Counted{}, k_no_choice, material);
      }
      break;
    case Part::Kind::query: return query_cost(bfv_shape(plan));
  }
  return material.parts.at(0);
}

Cost pass_cost(const Plan& plan, std::size_t before, std::size_t tokens, bool prompt) {
  if (prompt) tokens = plan.prompt_rows(tokens);
  const auto none = no_weights(plan.config);
  Counter counter;
  const auto walk = [&](Batch batch, auto page) {
    CountedMaterial material{batch, {}};
    counter.batch = batch;
    counter.total = {};
    page(material);
    Cost sum = material.parts.empty() ? counter.total : Cost{};
    for (const Cost& part : material.parts) sum += part;
    return sum;
  };
  const Batch entries{0, tokens}, slots{static_cast<std::uint32_t>(before), tokens};
  Cost total{.rounds = 0, .online = {.user_to_provider = PassBegin::k_bytes}, .offline = {}};
  if (plan.open()) {
    NoClear clear;
    total += walk(slots, [&](auto&) { hand_rows(counter, plan, {}); });
    total += walk(slots, [&](auto& m) { run_open_layers(counter, plan, none, Counted{}, m, clear); });
    total += walk({0, prompt ? 1 : tokens}, [&](auto& m) { run_open_pass(counter, plan, none, Counted{}, m, clear); });
    return total;
  }
  if (prompt) {
    total += walk(entries, [&](auto&) { prompt_one_hots(counter, one_hot_shape(plan)); });
    total += walk(entries, [&](auto& m) { run_entries(counter, plan, none, Counted{}, m); });
  } else if (plan.bfv()) {
    total += reply_cost(plan.config.layers == 1);
  } else {
    total += walk({0, 1}, [&](auto&) { retrieve(counter, Counted{{plan.embed, 0}, plan.config.vocab}); });
  }
  if (plan.bfv()) total += index_cost() + query_cost(bfv_shape(plan));
  total += walk(slots, [&](auto&) { remask(counter, embed_remask_shape(plan), Counted{}); });
  total += walk(slots, [&](auto& m) { run_layers(counter, plan, none, Counted{}, m); });
  total += walk({0, 1}, [&](auto& m) { run_pass(counter, plan, none, Counted{}, k_no_choice, m); });
  return total;
}

}  // namespace permllm
