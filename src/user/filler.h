// The user's side of a chain's offline material: orders it from the helper, deals its own half, ahead of need, in a thread of its own.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "base/mutex.h"
#include "session/greeting.h"
#include "session/ledger.h"
#include "session/report.h"
#include "user/filling_state.h"

namespace permllm {

// How far offline production is: pieces made of pieces ordered, in slots' worth.
struct OfflineProgress {
  double fraction = 0;
  double seconds = 0;  // of production so far
};

// What a prompt of n tokens and an answer of at most m need, from `begin` on. The answer's first token costs no slot; its last is never fed.
Marks target_of(const Plan& plan, const Marks& begin, std::size_t prompt_tokens, std::size_t max_tokens);

class Filler {
 public:
  using Dial = std::function<std::unique_ptr<Link>()>;
  struct Links {
    Dial offline, helper;  // to the provider, to the helper
  };
  // `record`: the chain, whose seed a filling may agree on (then it is in the ledger, too); references outlive the filler. made: as the provider
  // says.
  Filler(Links links, std::uint64_t session, const Card& card, const Weights<StreamedMatrix>& u, ChainRecord& record,
         Ledger& ledger, const BfvUser* bfv, const Marks& made, Executor& executor, Clock::duration patience);
  ~Filler();
  Filler(const Filler&) = delete;
  Filler& operator=(const Filler&) = delete;

  // Agrees with provider and helper on the seeds of a chain that has none, in the caller's thread.
  void pair();
  // Makes the chain's material up to `target`, never more than `ahead` slots ahead of what is used, in orders of at most `order` pieces: small ones
  // are there sooner, large ones cost less. A failure of an earlier filling is tried anew.
  void want(const Marks& target, std::size_t ahead, std::size_t order,
            std::function<void(const OfflineProgress&)> on_progress);
  // Tells how much of the chain is used.
  void used(const Marks& marks);
  // Waits until so much is made. Errors: what ended the filling, with both numbers; usage where more is needed than is wanted.
  void wait_for(const Marks& needed);
  // Errors: what ended the last filling, if something did.
  void check() const;
  Marks made() const;
  // Wall seconds that production took so far.
  double seconds() const;
  // Ends a filling that is under way, after the order at hand. The helper's report, if there was a filling.
  std::optional<PartyReport> end();

 private:
  struct Filling {  // the two connections
    std::unique_ptr<Link> offline_link, helper_link;
    std::unique_ptr<Channel> offline, helper;
    std::unique_ptr<AesCoins> coins;
  };
  std::shared_ptr<Filling> begin();
  void finish(Filling& filling);
  void produce();
  void make(Filling& filling, const PackOrder& order, const Marks& from);
  // A stopped one stays so.
  void enter(FillingState::Phase phase) REQUIRES(mutex_);
  void try_anew() REQUIRES(mutex_);
  // order: that was at hand, if one was.
  void fail(const std::exception_ptr& failure, const std::optional<PackOrder>& order) REQUIRES(mutex_);

  Links links_;
  std::uint64_t session_;
  const Card& card_;
  const Weights<StreamedMatrix>& u_;
  ChainRecord& record_;
  Ledger& ledger_;
  const BfvUser* bfv_;
  Executor& executor_;
  Clock::duration patience_;

  mutable Mutex mutex_;
  std::condition_variable changed_;
  FillingState state_ GUARDED_BY(mutex_);
  Marks begin_ GUARDED_BY(mutex_);      // what was made when this much was asked for
  Marks failed_at_ GUARDED_BY(mutex_);  // what was used when a filling failed
  std::function<void(const OfflineProgress&)> on_progress_ GUARDED_BY(mutex_);
  std::shared_ptr<Filling> filling_ GUARDED_BY(mutex_);  // while connected
  double seconds_ GUARDED_BY(mutex_) = 0;
  std::exception_ptr failure_ GUARDED_BY(mutex_);
  std::optional<PartyReport> report_ GUARDED_BY(mutex_);
  std::jthread thread_;
};

}  // namespace permllm
