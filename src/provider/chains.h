// The provider's chains of one model: the stock of each, in memory or on the disk, and who uses it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>

#include "base/mutex.h"
#include "provider/stock.h"
#include "session/greeting.h"
#include "session/ledger.h"

namespace permllm {

// How much an invite grants of what Usage counts.
struct Allowance {
  std::uint64_t tokens = UINT64_MAX, rows = UINT64_MAX;
  bool monthly = false;  // in each month of month_of, not ever
};

// What a user may have at a provider.
struct UserLimits : Allowance {
  std::size_t sessions = 16;          // at once
  std::uint64_t stock = 32ull << 30;  // bytes of packs that are not burnt, and of those that are being made
  // What the allowance is by now, asked before each pass; null: as it stands here.
  std::function<Allowance()> allowance_now = nullptr;
};

class ProviderChains {
 public:
  // folder: for the ledger and the packs, which outlast the process; empty: in memory, and each chain goes with its session. plans: of sessions
  // (plans_of_sessions), which outlive the object. A chain is of the plan under which it was begun. Chains whose files are lost or damaged, or whose plan is
  // none of these, are dropped, and told to on_event. Errors: file, also where another provider runs on the folder.
  ProviderChains(const std::filesystem::path& folder, std::string model_id, std::span<const Plan> plans,
                 std::function<void(const std::string&)> on_event);

  // One chain, while a session uses it.
  class Chain {
   public:
    ~Chain();
    std::uint64_t number() const { return number_; }
    // The session's, and its hash.
    const Plan& plan() const { return plan_; }
    const std::string& plan_hash() const { return plan_hash_; }
    Stock& stock() { return stock_; }
    // What a session or a filling begins with.
    Accepted state() const;
    // The seed with the helper. Waits for a filling to agree on it. Errors: timeout.
    Seed seed(Clock::time_point deadline);
    // Burns ahead of use; counts tokens and rows.
    std::unique_ptr<Burning> burning();
    // Whether enough was used to be worth giving its room back now; what is left of it goes with the session.
    bool should_free(const Marks& used) const { return used[k_slot_kind] >= freed_[k_slot_kind] + k_free_step; }
    // Gives it back. used: no more than is burnt on the disk; no pass with it is under way.
    void free(const Marks& used);

    // A filling begins; whatever an earlier one left unfinished is forgotten. One at a time: waits until `deadline` for the one before.
    // Errors: resource, where the user's stock is full.
    void begin_filling(const UserLimits& limits, Clock::time_point deadline);
    // Room for so many bytes, while they are being put into the stock. Errors: resource, likewise.
    class Room {
     public:
      Room(Chain& chain, std::uint64_t bytes, const UserLimits& limits);
      ~Room();
      Room(const Room&) = delete;
      Room& operator=(const Room&) = delete;

     private:
      Chain& chain_;
      const std::uint64_t bytes_;
    };
    // The seed that stands, or none: a new one is to be agreed on.
    std::optional<Seed> standing() const;
    // The helper's digest of the user's seed, and the seed that was agreed on. Errors: mismatch, where it is another than in earlier fillings.
    void paired(const Seed& seed, const Digest& other);
    // Something was put into the stock: what is complete by now becomes made, on the disk too. Errors: resource.
    void commit();
    void end_filling();
    // When it was filled last: now, while it is. None: it was not.
    std::optional<Clock::time_point> filled_at() const;

   private:
    friend class ProviderChains;
    static constexpr std::uint32_t k_free_step = 16;  // slots
    Chain(ProviderChains& chains, ChainRecord record, const Plan& plan);
    ProviderChains& chains_;
    const std::string peer_, plan_hash_;
    const std::uint64_t number_;
    const Plan& plan_;
    Stock stock_;
    mutable Mutex mutex_;
    Mutex commit_;  // one at a time; before mutex_
    std::condition_variable changed_;
    Marks freed_;  // of the session's thread
    bool open_ = false, keep_ = false;
    ChainRecord record_ GUARDED_BY(mutex_);
    bool filling_ GUARDED_BY(mutex_) = false;
    std::optional<Clock::time_point> filled_at_ GUARDED_BY(mutex_);
  };

  // What the user's card says of its chains.
  std::vector<ChainState> of(const std::string& peer);
  // Takes a chain for a session, or makes it; then all but k_most_leftovers of the user's that are used in part and in no session are dropped,
  // those with the least material first, and all but k_most_chains in all, as far as they are in no session. Errors: mismatch, where the plan is none of ours, or the chain is in use or of another plan.
  std::shared_ptr<Chain> open(const std::string& peer, const Agreement& agreement);
  // Drops the chains of users who are not to be kept.
  void drop_unless(const std::function<bool(const std::string& peer)>& keep);
  // Bytes of packs of a user, or of all, that take room, on the disk or in memory; each file at least a block.
  std::uint64_t bytes(const std::string& peer);
  std::uint64_t bytes();
  // Of a user, kept at once.
  static constexpr std::size_t k_most_chains = 64;
  // Where less is free, no material is taken: what is there can be used, and the ledger written, on a disk that packs alone never fill.
  static constexpr std::uint64_t k_disk_margin = 16 << 20;
  // Bytes that the folder's disk has left; none: there is no folder.
  std::optional<std::uint64_t> free_space() const { return lock_ ? std::optional(lock_->free_space()) : std::nullopt; }
  // Why no material can be taken; empty: it can. When that changes, it is told to on_event.
  std::string disk_trouble();
  Ledger& ledger() { return ledger_; }

 private:
  using Key = std::pair<std::string, std::uint64_t>;
  static constexpr std::size_t k_most_leftovers = 8;
  static constexpr std::uint64_t k_block = 4096;  // bytes that a file takes at least
  // Chains in no session, in the order in which they give way: those that are used in part, the one with the least material first, then fresh
  // ones, the one used or filled longest ago first. The user may have lost its part of these, and the provider cannot know.
  struct Spare {
    std::vector<ChainRecord> leftovers, fresh;
  };
  Spare spare(const std::string& peer) REQUIRES(mutex_);
  // Before the peer begins another.
  void drop_spare(const std::string& peer) REQUIRES(mutex_);
  std::uint64_t room_of(const Stock& stock) const;
  std::uint64_t bytes_of(const std::string& peer) const REQUIRES(mutex_);
  // Whether the disk has room for so many bytes more, beside those that are coming, once so many are freed.
  bool disk_has(std::uint64_t bytes, std::uint64_t freed = 0) const REQUIRES(mutex_);
  [[noreturn]] void refuse_for_disk(std::uint64_t bytes);
  // Where the limit or the disk leaves no room for so many bytes more, spare chains give way, if that is enough. Errors: resource.
  void need_room(const std::string& peer, std::uint64_t bytes, const UserLimits& limits) REQUIRES(mutex_);
  // Whether no session can make use of it any more.
  bool used_up(const ChainRecord& record) const;
  std::string name_of_chain(const ChainRecord& record) const;
  void remove_files(const ChainRecord& record) const;
  void forget(const ChainRecord& record) REQUIRES(mutex_);

  std::filesystem::path folder_;  // empty: none
  // Null: none.
  const Plan* find_plan(const std::string& hash) const;
  std::string model_id_;
  std::map<std::string, const Plan*> plans_;  // by hash; they differ in nothing that matters here
  const Plan& plan_;                          // any of them
  std::function<void(const std::string&)> on_event_;
  std::optional<File> lock_;
  Ledger ledger_;
  Mutex mutex_;                                           // is taken before a chain's and a stock's
  std::map<Key, Chain*> open_ GUARDED_BY(mutex_);         // chains that a session has
  std::map<Key, std::uint64_t> idle_ GUARDED_BY(mutex_);  // the other chains, with the bytes of their material
  std::map<std::string, std::uint64_t> coming_ GUARDED_BY(mutex_);  // bytes by user, that are being put into a stock
  std::atomic<bool> disk_full_ = false;                             // as on_event was told last
};

}  // namespace permllm
