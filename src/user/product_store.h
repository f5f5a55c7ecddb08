// What a user keeps for the check of products (docs/protocol.md 4.14): keys, by model and plan, and which of them a provider has failed.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "session/product_keys.h"

namespace permllm {

class ProductStore {
 public:
  // Which keys: of a model, as a plan has it.
  struct Of {
    std::string model_id, plan_hash;
    std::string name() const;  // of its files
  };
  // In memory without a folder, which is made where there is none.
  explicit ProductStore(std::filesystem::path folder = {}) : folder_(std::move(folder)) {}

  // Keys, where there are some. public_part: the digest of the public part that the provider has sent. Errors: mismatch, wrong_product, where a product
  // under these keys was wrong before (naming the file to remove), or the public part is another than when they were made.
  std::optional<ProductKeys> find(const Of& of, const Plan& plan, const Digest& public_part);
  // Errors: file, resource.
  void keep(const Of& of, const Digest& public_part, const ProductKeys& keys);
  // A product under these keys was wrong: they are removed, and find() refuses from then on, in later processes too. why: for a person.
  void refuse(const Of& of, const std::string& why);

 private:
  std::filesystem::path path_of(const Of& of, const char* ending) const { return folder_ / (of.name() + ending); }
  std::string read(const Of& of) const;  // bytes of the keys; empty: none, or none that are whole

  std::filesystem::path folder_;  // empty: none
  Mutex mutex_;
  // By name: keys, without a folder; what was refused, without one, or where it could not be written.
  std::map<std::string, std::string> kept_ GUARDED_BY(mutex_), refused_ GUARDED_BY(mutex_);
};

}  // namespace permllm
