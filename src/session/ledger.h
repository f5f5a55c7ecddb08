// A party's ledger of chains, at the provider and at the user: which are there, how far each is made, and how far it is burnt. What is
// burnt is on the disk before anything is made of it, so that no piece serves twice, whatever process dies when.
//
// Both keep one and compare at each handshake; the later mark counts. A copy of an older state at one of the two is so caught up with by
// the other's.
//
// With the marks it counts what a peer has had, by month: whatever moves a mark counts in the same step.
//
// A mark moves only from where the one who moves it has read or left it, and so does a row: compared and set in one step. Whoever finds
// another state there has lost the chain to another program, and makes nothing more of it. tests/spin has these rules as a model.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/database.h"
#include "base/mutex.h"
#include "plan/marks.h"
#include "rand/seed.h"

namespace permllm {

struct ChainRecord {
  std::uint64_t chain = 0;  // a random number
  std::string peer;         // at the provider: the user's key; at the user: empty, the model says whose it is
  std::string model_id, plan_hash;
  bool paired = false;       // the seed was agreed with the helper
  Seed seed = {};            // of the coins that this party has with the helper
  Seed own = {};             // at the user: of its key and queries (Plan::bfv)
  Digest other = {};         // of the seed that the helper has with the other party
  Digest mask = {};          // at the user: of U's seed; zeros: not known yet
  Marks made, burnt;         // made: at the provider
  HalfLengths lengths = {};  // at the provider: of the files, when so much was made
};

// What a peer has had: tokens of answers, and rows, each a token's way through the model (of a prompt, an answer or a draft; kept, taken back or dead).
struct Usage {
  std::uint64_t tokens = 0, rows = 0;
  friend bool operator==(const Usage&, const Usage&) = default;
};
// A calendar month of UTC, like 2027-01.
std::string month_of(std::chrono::system_clock::time_point time);

// The months in which a peer's tokens and rows are counted.
struct CountedIn {
  std::string tokens, rows;
};

// What a provider's ledger says of its users. Months are those of month_of in which it was counted, "" for what a ledger of version 2 had.
struct Account {
  std::map<std::string, Usage> months = {};
  std::uint64_t last_seen = 0;    // seconds since 1970 that it last asked, or took up a chain that is still there
  std::uint64_t ready_slots = 0;  // of offline material that is made and not burnt
  Usage ever() const;
  Usage in(const std::string& month) const;
  friend bool operator==(const Account&, const Account&) = default;
};
// By peer. Reads a ledger that another program may have open, and writes nothing. Errors: file, where there is none or an earlier release wrote it;
// those of Database.
std::map<std::string, Account> read_accounts(const std::filesystem::path& path);

// Thread-safe. Errors: those of Database.
class Ledger {
 public:
  using Now = std::function<std::chrono::system_clock::time_point()>;
  // In memory without a path.
  explicit Ledger(const std::filesystem::path& path = {}, Now now = std::chrono::system_clock::now);
  bool durable() const { return durable_; }

  // The chains of a model that a peer has, the one used or filled last first.
  std::vector<ChainRecord> chains(const std::string& peer, const std::string& model_id);
  std::vector<ChainRecord> all();
  std::optional<ChainRecord> find(const std::string& peer, std::uint64_t chain);
  // Adds a chain. Errors: mismatch, where the peer has one of this number already.
  void add(const ChainRecord& record);
  // What follows changes a chain that is still as this process has read or left it (as far as is said), and is on the disk when it returns.
  // Errors: mismatch, where it is not: then nothing is changed. Of the whole row, seeds and marks:
  void change(const ChainRecord& from, const ChainRecord& to);
  // Removes the chain's row, if it is still as given; else it stays, and the result is false.
  bool drop(const ChainRecord& record);
  // Of `made`. How far it is made, and the files' lengths.
  void set_made(const std::string& peer, std::uint64_t chain, const Marks& from, const Marks& to,
                const HalfLengths& lengths);
  // Of `burnt`. The passes between are counted as tokens of answers of the peer, the slots as rows, in these months, or all in this one; where `to`
  // is earlier they are taken off there.
  void move_burnt(const std::string& peer, std::uint64_t chain, const Marks& from, const Marks& to,
                  const std::optional<CountedIn>& months = {});
  // Over all chains of a peer, ever or in a month.
  Usage used(const std::string& peer);
  Usage used(const std::string& peer, const std::string& month);
  std::string month() const { return month_of(now_()); }

  // A session's hold on a chain, against all others of this ledger in this process and, where it is a file, in any. Goes with its last copy.
  using Hold = std::shared_ptr<const void>;
  // Holds the chain against all other sessions and programs until it is let go of; null: another has it. Errors: resource, where the file system
  // keeps no locks.
  Hold hold(std::uint64_t chain);
  bool held(std::uint64_t chain);

 private:
  // In a month; less than 0: they are taken off.
  void count(const std::string& peer, const std::string& month, std::int64_t tokens, std::int64_t rows)
      REQUIRES(mutex_);
  // Calls body in a transaction; it says how many rows it changed. Errors: mismatch where it is not one; then none is.
  void change_one(const std::function<std::int64_t()>& body);

  bool durable_;
  const Now now_;
  std::filesystem::path locks_;  // a file of which byte i is locked for chains 2i and 2i + 1; empty: in memory
  Mutex mutex_;
  Database database_ GUARDED_BY(mutex_);
  std::set<std::uint64_t> held_ GUARDED_BY(mutex_);  // in memory
};

// Burns a chain ahead of its use: a stretch at a time, so that not every pass waits for the disk. What is left of the stretch when this
// ends well was not used, and is given back in the month in which it was counted.
class Burning {
 public:
  static constexpr std::uint32_t k_stretch = 16;
  // The chain is burnt up to `at`, which is on the disk already.
  Burning(Ledger& ledger, std::string peer, std::uint64_t chain, const Marks& at)
      : ledger_(ledger), peer_(std::move(peer)), chain_(chain), used_(at), burnt_(at) {}
  ~Burning();
  Burning(const Burning&) = delete;
  Burning& operator=(const Burning&) = delete;

  // Before anything is made of pieces in front of `to`; where that is behind what was used, it stays. Errors: the ledger's; nothing may be used
  // then, nor later: further calls fail, too.
  void reach(const Marks& to);
  const Marks& used() const { return used_; }

 private:
  Ledger& ledger_;
  std::string peer_;
  std::uint64_t chain_;
  Marks used_, burnt_;
  CountedIn counted_;  // what is burnt and not used
  bool lost_ = false;  // what the disk has is not known to be burnt_
};

}  // namespace permllm
