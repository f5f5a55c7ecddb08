// The provider's stock of a chain's offline material: what helper and user sent, kept until the one time that it is used.
#pragma once

#include <condition_variable>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "page/pack.h"
#include "plan/marks.h"
#include "protocol/roles.h"
#include "provider/pack_file.h"
#include "wire/link.h"

namespace permllm {

// Filled by the threads that read from helper and user, emptied by the online thread.
class Stock {
 public:
  enum class Source : std::uint8_t { helper = 0, user = 1 };
  // In memory. user_deals: whether pieces have a half of the user's (not so with public weights). layers: parts of a slot.
  explicit Stock(std::size_t layers, bool user_deals = true) : layers_(layers), user_deals_(user_deals) {}

  // From now on in two files: FOLDER/NAME.helper and FOLDER/NAME.user, of which `lengths` bytes count. Errors: those of PackFile.
  void keep_in(const std::filesystem::path& folder, const std::string& name, std::uint64_t chain,
               const std::string& plan_hash, HalfLengths lengths);

  // One thread a source. Cuts `material` into one piece for each of the batch; sizes from the plan. Errors: malformed when the sum differs,
  // or when the piece is not the next of its kind and layer (it could have been used); resource, when the disk is full.
  void put(Source source, std::uint8_t kind, std::uint32_t layer, Batch batch, const std::vector<std::size_t>& sizes,
           Bytes material);
  // All halves of a piece; waits for them until `deadline` (Error{timeout} says that the stock is empty). A piece is
  // handed out once.
  Pack take(std::uint8_t kind, std::uint32_t layer, std::uint32_t index, Clock::time_point deadline);
  // Waits until all pieces in front of these marks were put. Errors: those of take.
  void await(const Marks& needed, Clock::time_point deadline);
  // Since when a taker waits; none: nobody does.
  std::optional<Clock::time_point> waits_since() const;
  // A source is gone: takers that wait, and later ones that find nothing, get this error, until a filling begins.
  void fail(std::exception_ptr error);

  // Pieces of which all halves and layers are here.
  Marks made() const;
  // Pieces in front of these marks are burnt, the disk has it, and no taking of them is under way: their room is given back, and what files held
  // of them is zeros.
  void free(const Marks& burnt);
  // What lies behind `made` came from a filling that ended early: it is forgotten, and its room is given back.
  void drop_behind(const Marks& made);
  // A new one begins there.
  void begin_filling(const Marks& made);
  // Forgets all.
  void clear();
  // What was put is on the disk; lengths of the files by then.
  HalfLengths sync();
  // Of pieces whose room was not given back yet.
  std::size_t bytes() const;

 private:
  // Whether pieces of a kind have a half of this source.
  bool deals(Source source, std::uint8_t kind) const {
    return source == Source::user ? user_deals_ : kind != k_users_kind;
  }

  struct Piece {
    std::shared_ptr<const Bytes> memory;  // null: in the file, or taken
    PackFile::Place place;                // of memory: the offset in it
    bool taken = false;
  };
  struct Row {
    std::vector<Piece> pieces;  // by index
    std::size_t freed = 0;      // those in front of it take no room
  };
  struct Half {
    std::map<std::pair<std::uint8_t, std::uint32_t>, Row> rows;  // by kind and layer
    std::unique_ptr<PackFile> file;
    std::uint64_t length = 0;  // of the file, as far as rows say
  };
  Half& half(Source source) { return halves_[static_cast<std::size_t>(source)]; }
  const Half& half(Source source) const { return halves_[static_cast<std::size_t>(source)]; }
  // Waits until ready(). Errors: those of take.
  template <class Ready>
  void wait(Lock& lock, Clock::time_point deadline, const Ready& ready) REQUIRES(mutex_);
  Marks made_here() const REQUIRES(mutex_);
  // Gives back what pieces [first, end) take of the file.
  static bool free(const Half& half, const Row& row, std::size_t first, std::size_t end);
  // The row has fewer pieces from here on.
  void cut(Row& row, std::size_t size) REQUIRES(mutex_);
  Piece* find(Source source, std::uint8_t kind, std::uint32_t layer, std::uint32_t index) REQUIRES(mutex_);

  const std::size_t layers_;
  const bool user_deals_;
  mutable Mutex mutex_;
  std::condition_variable arrived_;
  // Rows and lengths: with the lock. A file is its source's thread's, which alone puts something into it.
  Half halves_[2];
  std::size_t bytes_ GUARDED_BY(mutex_) = 0;
  std::exception_ptr failure_ GUARDED_BY(mutex_);
  std::optional<Clock::time_point> waits_since_ GUARDED_BY(mutex_);
};

// Where PackMaterial belongs in the stock: checks it against the plan. Errors: malformed, and those of Stock::put.
void put_in_stock(Stock& stock, Stock::Source source, const Plan& plan, PackMaterial message);

}  // namespace permllm
