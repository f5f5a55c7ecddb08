// The helper's models: V = W - U of each, or public W (session/masked_model.h), as a file of hashed chunks, mapped into memory.
//
// The folder has ID.model for a model that is complete and ID.part for one whose provider has more to send. A file:
//   head    magic u64, version u32, length u32, the ModelOffer as on the wire and its owner, hash of that
//   table   from the next multiple of 4,096 on: the model's digest, then the hash of each chunk; zeros where there is none
//   V       from the next multiple of 4,096 on
// A chunk counts when its bytes have the hash that the table says, so it does not matter in which order the disk took them. A
// model is complete when all count, the digest is that of all hashes, and the file, on the disk by then, has its last name.
#pragma once

#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/mapped_file.h"
#include "base/mutex.h"
#include "session/masked_model.h"
#include "session/registration.h"

namespace permllm {

// A file of the store, open.
struct StoredFile {
  File file;
  ModelOffer offer;
  std::string owner = {};  // the pin of the provider that offered it
  std::uint64_t table_at = 0, v_at = 0;
  std::vector<Digest> hashes = {};  // by chunk
  Digest digest = {};

  // Errors: file, naming the file and what was expected: another version, a damaged head, another model's.
  static StoredFile open(const std::filesystem::path& path, File::Mode mode);
  // Likewise; id: that it is expected to be of.
  static StoredFile read(File file, const std::string& id);
  // Writes the head of a new one. Errors: resource.
  static StoredFile begin(File file, const ModelOffer& offer, const std::string& owner);
  std::uint64_t size() const { return v_at + offer.bytes; }
  // Bytes of chunks that the table does not name.
  std::uint64_t missing() const;
  // Of a complete one: chunks whose bytes have not their hash, in order; and whether size and digest are what they should be.
  std::vector<std::uint32_t> damaged(Executor& executor) const;
  bool whole() const;
  // Whether the bytes of a chunk have their hash.
  bool holds(std::uint32_t number) const;
};

// V, or W where the weights are public.
using HeldWeights = std::variant<Weights<RingMatrix>, IntWeights>;

// A complete model.
struct StoredModel {
  StoredFile stored;
  MappedFile mapped;
  HeldWeights weights;  // view `mapped`
  const Plan& plan() const { return stored.offer.plan; }
  // Marks it as used now: its file's time of change.
  void touch() const;
};

class ModelStore {
 public:
  // Checks every complete model; what is damaged is told to on_event, and its provider will be asked for it again. Without a
  // folder, models live in memory and go with the process.
  // shared: with other helpers, who see each other's models. Errors: file, where the folder cannot be used: another version, or a helper that runs on
  // it and does not share it.
  ModelStore(std::filesystem::path folder, Executor& executor, std::function<void(const std::string&)> on_event,
             bool shared = false);

  // Null where there is no such model, or its file was removed.
  std::shared_ptr<const StoredModel> find(const std::string& id);

  // A model on its way in. One thread uses it; a second offer of the same model takes over from the first.
  class Arrival {
   public:
    ~Arrival();
    // Hashes of the next chunks that are here, zeros where one is not; empty once all have been named.
    std::vector<Digest> next_held();
    // Checks a chunk, and has it written while the next one comes. Errors: malformed, naming the field (numbers must rise; sizes are the plan's;
    // the hash is that of the bytes); mismatch where a complete model has another chunk; of the chunk before, resource, naming the file and the
    // bytes: what came before that is kept.
    void put(ModelChunk chunk);
    // Errors: malformed, where a chunk is missing, or W is none that a provider packs; mismatch, where the digest is another; resource.
    void finish(const ModelEnd& end);

   private:
    friend class ModelStore;
    struct Part;
    Arrival(ModelStore& store, const ModelOffer& offer) : store_(store), offer_(offer) {}
    void write(const ModelChunk& chunk);
    void await_written();
    ModelStore& store_;
    ModelOffer offer_;
    std::shared_ptr<Part> part_;  // of this and the next, one is set
    std::shared_ptr<const StoredModel> complete_;
    std::uint64_t turn_ = 0;
    std::uint32_t named_ = 0, next_ = 0;  // chunks whose hash was told; the least number that may come
    std::future<void> writing_;           // of the last chunk
  };
  // Errors: malformed and mismatch, naming the field; resource with both numbers, where the disk has no room.
  // owner: the provider's pin; nobody else may offer it again.
  std::unique_ptr<Arrival> begin(const ModelOffer& offer, const std::string& owner);

 private:
  std::filesystem::path path_of(const std::string& id, const char* ending) const { return folder_ / (id + ending); }
  void check(const std::filesystem::path& path);
  // Opens ID.part and locks it against other helpers of the pool, for whom it waits a while: `part`, or `fresh` where there is nothing in it yet. Where
  // another has completed the model meanwhile, it is returned. Errors: resource.
  std::shared_ptr<const StoredModel> lock_part(const std::string& id, std::optional<StoredFile>& part,
                                               std::optional<File>& fresh);
  std::uint64_t room() const;

  std::filesystem::path folder_;  // empty: none
  Executor& executor_;
  std::function<void(const std::string&)> on_event_;
  const bool shared_;
  std::optional<File> lock_;
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<const StoredModel>> models_ GUARDED_BY(mutex_);  // by id
  std::map<std::string, std::shared_ptr<Arrival::Part>> parts_ GUARDED_BY(mutex_);       // that were offered
};

// What a folder holds, the one used last first; a helper may run on it.
struct StoreEntry {
  std::filesystem::path path;
  std::string id, name;  // name: the architecture's and the model's own; "damaged" and why, where the head is
  bool complete = false;
  std::uint64_t bytes = 0;  // that it takes on the disk
  std::int64_t used = 0;    // seconds since 1970
};
std::vector<StoreEntry> list_store(const std::filesystem::path& folder);

}  // namespace permllm
