// What a provider keeps of a model between its starts, so that the V that a helper holds stays good: the model's id, the seed of U,
// and the hashes of the chunks of V that were sent.
//
// The file's name is the digest of the integer weights and of the plan. Other weights have another record, so another U: two V
// of one U would tell the difference of the W.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "rand/seed.h"

namespace permllm {

class ModelRecord {
 public:
  // Opens STATE/models/DIGEST, or makes it, for its owner alone, with the id and seed given. Errors: file, where it is damaged
  // or others may read it (names the file and the remedy); resource.
  ModelRecord(const std::filesystem::path& state, const Digest& digest, std::uint32_t chunks,
              const std::string& fresh_id, const Seed& fresh_seed);
  const std::string& model_id() const { return model_id_; }
  const Seed& mask_seed() const { return mask_seed_; }
  // By chunk; zeros: not sent yet.
  const std::vector<Digest>& sent() const { return sent_; }
  void set_sent(std::uint32_t chunk, const Digest& hash);

 private:
  void read(const std::filesystem::path& path);
  File file_;
  std::string model_id_;
  Seed mask_seed_;
  std::vector<Digest> sent_;
};

// What STATE/models holds, the one that was written last first. Errors: file, where the folder cannot be read.
struct RecordEntry {
  std::filesystem::path path;
  std::string model_id;
  std::string trouble;  // why the record is refused; empty when it is in order
};
std::vector<RecordEntry> list_records(const std::filesystem::path& state);

}  // namespace permllm
