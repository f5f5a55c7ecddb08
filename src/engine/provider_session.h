// The provider's side of one conversation.
#pragma once

#include <vector>

#include "engine/pass.h"
#include "offline/stock.h"

namespace permllm {

class ProviderSession {
 public:
  // `coins` are common to provider and helper; all references outlive the session.
  ProviderSession(const Plan& plan, const IntWeights& weights, Channel& user, Coins& coins, Stock& stock,
                  Executor& executor, Clock::duration patience);
  // Serves passes until the user ends the session. Errors: whatever the peer or the stock does wrong.
  void serve();

  // Offline material used by passes over sampled tokens.
  struct Used {
    std::uint64_t passes = 0, bytes_of_user = 0, bytes_of_helper = 0;
  };
  const Used& used() const { return used_; }

 private:
  void run(const PassBegin& begin);
  void give_up();
  void count(const Used& used);

  const Plan& plan_;
  const IntWeights& weights_;
  Channel& user_;
  Stock& stock_;
  Clock::duration patience_;
  Timeline timeline_;
  std::vector<ProviderKeys> keys_;
  Provider provider_;
  Progress progress_;
  Used used_;
  Sampled<Masked> sampled_;  // by the last pass; empty before the first
};

}  // namespace permllm
