// A party's ledger of chains, at the provider and at the user: which are there, how far each is made, and how far it is burnt. What is
// burnt is on the disk before anything is made of it, so that no piece serves twice, whatever process dies when.
//
// Both keep one and compare at each handshake; the later mark counts. A copy of an older state at one of the two is so caught up with by
// the other's.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/database.h"
#include "offline/stock.h"
#include "rand/seed.h"

namespace permllm {

struct ChainRecord {
  std::uint64_t chain = 0;           // a random number
  std::string peer;                  // at the provider: the user's key; at the user: empty, the model says whose it is
  std::string model_id, plan_hash;
  bool paired = false;               // the seed was agreed with the helper
  Seed seed = {};                    // of the coins that this party has with the helper
  Seed own = {};                     // at the user: of its key and queries (Plan::bfv)
  Digest other = {};                 // of the seed that the helper has with the other party
  Marks made, burnt;                 // made: at the provider
  Stock::Lengths lengths = {};       // at the provider: of the files, when so much was made
};

// Thread-safe. Errors: those of Database.
class Ledger {
 public:
  // In memory without a path.
  explicit Ledger(const std::filesystem::path& path = {});
  bool durable() const { return durable_; }

  // Those of a model that are with a peer, the one used last first.
  std::vector<ChainRecord> chains(const std::string& peer, const std::string& model_id);
  std::vector<ChainRecord> all();
  std::optional<ChainRecord> find(const std::string& peer, std::uint64_t chain);
  // A new one; also when there is one of this peer and number: it is replaced.
  void put(const ChainRecord& record);
  void drop(const std::string& peer, std::uint64_t chain);
  // How far it is made, and the files' lengths.
  void set_made(const std::string& peer, std::uint64_t chain, const Marks& made, const Stock::Lengths& lengths);
  // On the disk when it returns. tokens: of answers, added to what the peer had; may be less than none.
  void set_burnt(const std::string& peer, std::uint64_t chain, const Marks& burnt, std::int64_t tokens);
  // Of answers, over all chains of a peer.
  std::uint64_t tokens(const std::string& peer);

 private:
  bool durable_;
  std::mutex mutex_;
  Database database_;
};

// Burns a chain ahead of its use: a stretch at a time, so that not every pass waits for the disk. What is left of the stretch when this
// ends well was not used, and is given back.
class Burning {
 public:
  static constexpr std::uint32_t k_stretch = 16;
  // The chain is burnt up to `at`, which is on the disk already.
  Burning(Ledger& ledger, std::string peer, std::uint64_t chain, const Marks& at)
      : ledger_(ledger), peer_(std::move(peer)), chain_(chain), used_(at), burnt_(at) {}
  ~Burning();
  Burning(const Burning&) = delete;
  Burning& operator=(const Burning&) = delete;

  // Before anything is made of pieces in front of `to`. Errors: the ledger's; nothing may be used then.
  void reach(const Marks& to);
  const Marks& used() const { return used_; }

 private:
  Ledger& ledger_;
  std::string peer_;
  std::uint64_t chain_;
  Marks used_, burnt_;
};

}  // namespace permllm
