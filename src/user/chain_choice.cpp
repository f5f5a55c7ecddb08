#include "user/chain_choice.h"

#include <algorithm>
#include <tuple>

#include "permllm/error.h"

namespace permllm {

std::size_t room_behind(const Marks& burnt, std::size_t slots) {
  return slots - std::min<std::size_t>(slots, *std::max_element(burnt.first.begin(), burnt.first.end()));
}

std::size_t answer_served(const Plan& plan, const Marks& ready, const Wanted& wanted) {
  const std::size_t rows = plan.prompt_rows(wanted.prompt_tokens), slots = ready[k_slot_kind];
  const std::size_t passes = plan.bfv() ? std::min(ready[k_pass_kind], ready[k_users_kind]) : ready[k_pass_kind];
  if (slots < rows || passes == 0 || (!plan.open() && ready[k_entry_kind] < rows)) return 0;
  std::size_t behind = std::min(slots - rows, passes - 1);
  if (wanted.draft > 0 && !plan.open())
    behind = std::min(behind, ready[k_entry_kind] - rows);  // drafts are fed as a prompt is
  return std::min(wanted.answer_tokens, 1 + behind / (wanted.draft + 1));
}

const ChainChoice* best_chain(const Plan& plan, std::span<const ChainChoice> chains, const Wanted& wanted) {
  const std::size_t room = plan.prompt_rows(wanted.prompt_tokens) + (wanted.least - 1) * (wanted.draft + 1);
  const auto rank = [&](const ChainChoice& chain) {  // the greatest is the best
    const Marks ready = chain.ready();
    return std::tuple(answer_served(plan, ready, wanted), UINT32_MAX - chain.burnt[k_slot_kind], ready[k_slot_kind]);
  };
  const ChainChoice* best = nullptr;
  for (const ChainChoice& chain : chains) {
    if (room_behind(chain.burnt, plan.slots) < room) continue;
    if (wanted.from_stock && answer_served(plan, chain.ready(), wanted) == 0) continue;
    if (best == nullptr || rank(chain) > rank(*best)) best = &chain;
  }
  if (best == nullptr && wanted.from_stock)
    throw Error(Code::usage, Reason::out_of_stock, "stock", "no chain's material serves the question");
  return best;
}

}  // namespace permllm
