#include "page/deal.h"

#include <algorithm>

#include "page/open_page.h"

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

}  // namespace

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
    case Part::Kind::query:
      PERMLLM_ASSERT(false);  // no order: deal_queries
  }
}

void deal_queries(const BfvUser& user, const PackOrder& order, Channel& provider, Executor& executor) {
  std::vector<Writer> packs(order.count);
  executor.parallel(order.count, [&](std::size_t i) { user.query(order.batch().index(i)).visit(packs[i]); });
  send_packs(provider, {Part::Kind::query}, order.batch(), packs);
}

template void deal(Helper&, const Plan&, const Weights<RingMatrix>&, const PackOrder&, Channel&,
                   const std::function<void()>&);
template void deal(Helper&, const Plan&, const IntWeights&, const PackOrder&, Channel&, const std::function<void()>&);
template void deal(UserDealer&, const Plan&, const Weights<StreamedMatrix>&, const PackOrder&, Channel&,
                   const std::function<void()>&);

}  // namespace permllm
