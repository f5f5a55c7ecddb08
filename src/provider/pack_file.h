// One party's half of a chain's offline material on the provider's disk: records in the order of their arrival.
//
// The file:
//   head      magic u64, version u32, source u8 (0 helper, 1 user), chain u64, raw plan hash; xxh3 u64 of all that
//   record    magic u32, kind u8, layer u32, first u32, count u32, for each piece {bytes u32, xxh3 u64}; xxh3 u64 of all that;
//             then the pieces
// The version is that of the pieces, too: what an older release made has other words in them.
// A record of a place that an earlier one has takes its place: what was on its way when a filling ended is dealt again.
// The checksums find damage, not malice: the files are the provider's own. What counts is what the ledger says is made. Pieces that are
// burnt, or dealt again, become holes; the heads of their records stay, so that the records behind them are found.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "base/file.h"
#include "protocol/roles.h"

namespace permllm {

class PackFile {
 public:
  // Where a piece lies.
  struct Place {
    std::uint64_t offset = 0, sum = 0;
    std::uint32_t bytes = 0;
  };
  struct Record {
    std::uint8_t kind = 0;
    std::uint32_t layer = 0;
    Batch batch;
    std::vector<Place> pieces;
  };

  // Opens the file, or makes it with its head, and tells each record within `length` bytes, the file's length that the ledger has; what is
  // behind them goes. A record that is damaged ends them. Errors: file, of another chain, plan or version; resource.
  PackFile(const std::filesystem::path& path, std::uint8_t source, std::uint64_t chain, const std::string& plan_hash,
           std::uint64_t length, const std::function<void(Record)>& each);
  // Adds a record; on the disk after sync. Errors: resource: what was there before stays good.
  Record append(std::uint8_t kind, std::uint32_t layer, Batch batch, const std::vector<std::size_t>& sizes,
                const Bytes& material);
  // Errors: file, where the bytes are not those that were written.
  Bytes read(const Place& place) const;
  // Gives the room of bytes back that no piece in use has. False where the file system does not take it.
  bool free(std::uint64_t offset, std::uint64_t bytes) const { return file_.free(offset, bytes); }
  void sync() const { file_.sync(); }
  // Of the file, in whole records.
  std::uint64_t length() const { return length_; }
  // Forgets all records.
  void clear();

 private:
  bool read_record(std::uint64_t end, Record& record);
  File file_;
  std::uint64_t head_ = 0, length_ = 0;
};

}  // namespace permllm
