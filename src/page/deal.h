// Offline phase: helper and user walk the transformer's pages with masks and send what falls due to the provider.
#pragma once

#include <functional>

#include "page/pack.h"
#include "protocol/roles.h"

namespace permllm {

// Deals one order. `Party` is Helper or UserDealer, with V (public weights: W) or U; `provider` takes the material. on_part is told after
// each part (a layer of a batch of slots, a batch of entries or passes).
template <class Party, class Matrix>
void deal(Party& party, const Plan& plan, const Weights<Matrix>& w, const PackOrder& order, Channel& provider,
          const std::function<void()>& on_part = nullptr);

extern template void deal(Helper&, const Plan&, const Weights<RingMatrix>&, const PackOrder&, Channel&,
                          const std::function<void()>&);
extern template void deal(Helper&, const Plan&, const IntWeights&, const PackOrder&, Channel&,
                          const std::function<void()>&);
extern template void deal(UserDealer&, const Plan&, const Weights<StreamedMatrix>&, const PackOrder&, Channel&,
                          const std::function<void()>&);

// Deals an order of queries, which the user makes alone.
void deal_queries(const BfvUser& user, const PackOrder& order, Channel& provider, Executor& executor);

}  // namespace permllm
