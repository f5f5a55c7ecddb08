// A public model that the user runs by itself, in the clear, to guess what the provider's model will say.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "model/load.h"
#include "model/reference.h"
#include "model/tokenizer.h"

namespace permllm {

class DraftModel {
 public:
  // Errors: those of loading a GGUF file; usage, draft_model, for a folder, or a model that takes one prompt a conversation.
  DraftModel(const std::filesystem::path& file, Executor& executor, const LoadProgress& progress = nullptr);

  // Errors: usage, draft_model, where the ids of the provider's model are not this one's: names both and the first difference.
  void check(const Vocabulary& served, std::size_t served_ids, const std::string& served_name) const;

  const Config& config() const { return weights_.config; }
  // Logits of the last of `ids`, which are at least one; the cache grows by them.
  std::vector<float> forward(std::span<const TokenId> ids, ReferenceCache& cache, Executor& executor) const;

 private:
  RoundedWeights weights_;
  Vocabulary vocabulary_;
};

}  // namespace permllm
