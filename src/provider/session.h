// The provider's side of one conversation.
#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "page/pass.h"
#include "provider/stock.h"
#include "session/report.h"

namespace permllm {

// What a session does, for other threads.
struct SessionActivity {
  std::atomic<bool> in_pass = false;
  std::atomic<Clock::time_point> last_pass = Clock::now();  // when it ended; nothing else that a user sends counts
};

class ProviderSession {
 public:
  using OnPass = std::function<void(const PassBegin&, double seconds)>;
  // `coins` are common to provider and helper; bfv: where tokens are retrieved so (Plan::bfv), else null. The chain is burnt up to `burnt`; each
  // pass burns more of it by `burn`. on_pass: told of each pass that was made, and the seconds that it took. idle: how long the user may take for the next pass, at least the patience. All references outlive the session.
  ProviderSession(const Plan& plan, const IntWeights& weights, Channel& user, Coins& coins, Stock& stock,
                  Executor& executor, Clock::duration patience, BfvProvider* bfv = nullptr, const Marks& burnt = {},
                  Burn burn = nullptr, OnPass on_pass = nullptr, Clock::duration idle = {});
  // Serves passes until the user ends the session. Errors: whatever the peer or the stock does wrong; timeout, where no pass began for so long,
  // whatever else came.
  void serve(SessionActivity& activity);

  // What passes that followed a sampled token used; the rest of the report is the process's.
  PartyReport report() const;

 private:
  struct StockMaterial;
  void run(const PassBegin& begin);
  // What the user wants of the chain as it is. Errors: malformed.
  void check(const PassBegin& begin) const;
  // The pages, with weights of the provider's alone, and with public ones.
  void walk(const PassBegin& begin, StockMaterial& material);
  void walk_open(const PassBegin& begin, StockMaterial& material);
  // The last pass's token, to the user.
  void retrieve_sampled();
  void rewind(std::size_t tokens);
  void give_up();
  void skip(std::uint32_t slot);

  const Plan& plan_;
  const IntWeights& weights_;
  Channel& user_;
  Stock& stock_;
  Clock::duration patience_, idle_;
  Timeline timeline_;
  std::vector<ProviderKeys> keys_;
  Provider provider_;
  BfvProvider* bfv_;
  Burn burn_;
  OnPass on_pass_;
  Progress progress_;
  PartyReport used_;
  Sampled<Masked> sampled_;  // by the last pass; empty before the first
};

}  // namespace permllm
