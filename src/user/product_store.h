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
  // In memory without a folder, which is made where there is none. provider: its key, as the user pins it.
  explicit ProductStore(std::filesystem::path folder = {}, std::string provider = {})
      : folder_(std::move(folder)), provider_(std::move(provider)) {}

  // Errors: mismatch, wrong_product, where a product of this provider was wrong before, under whatever model and plan, naming the file to remove.
  void require_trust();

  // Keys, where there are some. public_part: the digest of the public part that the provider has sent. Errors: those of require_trust; mismatch,
  // wrong_product, where the public part is another than when they were made.
  std::optional<ProductKeys> find(const Of& of, const Plan& plan, const Digest& public_part);
  // Errors: file, resource.
  void keep(const Of& of, const Digest& public_part, const ProductKeys& keys);
  // A product under these keys was wrong: they are removed, and the provider is not trusted from then on, in later processes neither: model and plan are
  // its word, and another name for the same would be a further try. why: for a person.
  void refuse(const Of& of, const std::string& why);

 private:
  std::filesystem::path path_of(const Of& of, const char* ending) const { return folder_ / (of.name() + ending); }
  std::string read(const Of& of) const;  // bytes of the keys; empty: none, or none that are whole

  std::filesystem::path note() const;  // that a product was wrong
  void check_trust() REQUIRES(mutex_);

  const std::filesystem::path folder_;  // empty: none
  const std::string provider_;
  Mutex mutex_;
  std::map<std::string, std::string> kept_ GUARDED_BY(mutex_);  // by name: keys, without a folder
  std::string refused_ GUARDED_BY(mutex_);  // why, without a folder, or where the note could not be written
};

}  // namespace permllm
