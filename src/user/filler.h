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

// How much is there of the material that somebody waits for, in slots' worth.
struct OfflineProgress {
  double fraction = 0;
  double seconds = 0;  // that it was waited for
};
using OnOffline = std::function<void(const OfflineProgress&)>;

// What a prompt of n tokens and an answer of at most m need, from `begin` on. The answer's first token costs no slot; its last is never fed.
// in_blocks: the answer's tokens are fed as a prompt's are (PassBegin::block).
Marks target_of(const Plan& plan, const Marks& begin, std::size_t prompt_tokens, std::size_t max_tokens,
                bool in_blocks = false);

class Filler {
 public:
  using Dial = std::function<std::unique_ptr<Link>()>;
  struct Links {
    Dial offline, helper;  // to the provider, to the helper
  };
  // record: the chain; where it has no seed, a filling agrees on one and writes it here and into the ledger. made: how far the chain is made, as the
  // provider says. The references outlive the filler.
  Filler(Links links, std::uint64_t session, const Card& card, const Weights<StreamedMatrix>& u, ChainRecord& record,
         Ledger& ledger, const BfvUser* bfv, const Marks& made, Executor& executor, Clock::duration patience);
  ~Filler();
  Filler(const Filler&) = delete;
  Filler& operator=(const Filler&) = delete;

  // Agrees with provider and helper on the seeds of a chain that has none, in the caller's thread. with_helper: called with the helper's channel then,
  // before any order.
  void pair(const std::function<void(Channel&)>& with_helper = nullptr);
  // Makes the chain's material up to `target`, never more than `ahead` slots ahead of what is used, in orders of at most `order` pieces: small ones
  // are there sooner, large ones cost less. A failure of an earlier filling is tried anew.
  void want(const Marks& target, std::size_t ahead, std::size_t order);
  // Tells how much of the chain is used.
  void used(const Marks& marks);
  // Waits until so much is made, and tells how far that is while it has to wait, in the caller's thread. given_up: asked there now and then; what it
  // throws comes out. False: it said so. Errors: what ended the filling, with both numbers; usage where more is needed than is wanted.
  bool wait_for(const Marks& needed, const OnOffline& on_progress = nullptr,
                const std::function<bool()>& given_up = nullptr);
  // Errors: what ended the last filling, if something did.
  void check() const;
  Marks made() const;
  // Wall seconds that production took so far.
  double seconds() const;
  // Ends a filling that is under way, after the order at hand. The helper's report, if there was a filling.
  std::optional<PartyReport> end();

 private:
  // The connections over which material is made, while they stand.
  struct Filling {
    std::unique_ptr<Link> offline_link, helper_link;
    std::unique_ptr<Channel> offline, helper;
    std::unique_ptr<AesCoins> coins;
  };
  std::shared_ptr<Filling> begin();
  void finish(Filling& filling);
  void produce();
  void make(Filling& filling, const PackOrder& order, const Marks& from);
  // Of what is needed and was not made when it was asked for, the part that is made or dealt.
  double fraction_of(const Marks& needed) const REQUIRES(mutex_);
  // Goes over to a phase, unless the filling was stopped for good.
  void enter(FillingState::Phase phase) REQUIRES(mutex_);
  void try_anew() REQUIRES(mutex_);
  // Ends the connections after a fault, and decides whether a smaller order is tried. order: the one at hand, if there was one.
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
  Marks begin_ GUARDED_BY(mutex_);                       // how far the chain was made when want() was called
  Marks failed_at_ GUARDED_BY(mutex_);                   // how far it was used when a filling failed
  PackOrder order_ GUARDED_BY(mutex_);                   // the one at hand, or the last
  double dealt_ GUARDED_BY(mutex_) = 0;                  // the part of its pieces that is dealt by now
  std::shared_ptr<Filling> filling_ GUARDED_BY(mutex_);  // while connected
  double seconds_ GUARDED_BY(mutex_) = 0;
  std::exception_ptr failure_ GUARDED_BY(mutex_);
  std::optional<PartyReport> report_ GUARDED_BY(mutex_);
  std::jthread thread_;
};

}  // namespace permllm
