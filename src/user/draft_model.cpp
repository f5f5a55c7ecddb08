#include "user/draft_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "permllm/error.h"

namespace permllm {
namespace {

RoundedWeights rounded(IntWeights w) {
  RoundedWeights to;
  to.config = std::move(w.config);
  to.embed = RoundedMatrix(std::move(w.embed));
  to.head = RoundedMatrix(std::move(w.head));
  to.head_bias = std::move(w.head_bias);
  to.positions = std::move(w.positions);
  for (LayerWeights<IntMatrix>& layer : w.layers) {
    to.layers.push_back({RoundedMatrix(std::move(layer.qkv)), RoundedMatrix(std::move(layer.o)),
                         RoundedMatrix(std::move(layer.up)), RoundedMatrix(std::move(layer.down)),
                         std::move(layer.qkv_bias), std::move(layer.o_bias), std::move(layer.up_bias),
                         std::move(layer.down_bias), std::move(layer.key_level), std::move(layer.qk_gain),
                         std::move(layer.attention_gain), std::move(layer.mlp_gain), std::move(layer.attention_shift),
                         std::move(layer.mlp_shift)});
  }
  return to;
}

const Gguf& gguf_of(const ModelFile& file) {
  if (file.gguf() == nullptr) throw Error(Code::usage, "draft_model", "is no GGUF file");
  return *file.gguf();
}

}  // namespace

DraftModel::DraftModel(const std::filesystem::path& path, Executor& executor, const LoadProgress& progress) {
  const ModelFile file = ModelFile::open(path);
  vocabulary_ = Vocabulary::read(gguf_of(file));
  if (read_config(file).prefix) throw Error(Code::usage, "draft_model", "takes one prompt a conversation");
  weights_ = rounded(load_int_weights(file, executor, k_weight_bits, progress));
}

void DraftModel::check(const Vocabulary& served, std::size_t served_ids, const std::string& served_name) const {
  const auto refuse = [&](const std::string& why) {
    throw Error(Code::usage, "draft_model",
                fmt::format("\"{}\" drafts for \"{}\", so both need one vocabulary: {}", for_terminal(config().name),
                            for_terminal(served_name), why));
  };
  // A vocabulary without texts is that of a model which is asked by ids alone.
  const std::size_t both = std::min(served.tokens.size(), vocabulary_.tokens.size());
  for (std::size_t id = 0; id < both; ++id) {
    if (served.tokens[id] == vocabulary_.tokens[id]) continue;
    refuse(fmt::format("token {} is \"{:.40}\" in the former, \"{:.40}\" in the latter", id,
                       for_terminal(vocabulary_.tokens[id]), for_terminal(served.tokens[id])));
  }
  if (config().vocab != served_ids)
    refuse(fmt::format("the former has {} tokens, the latter {}", config().vocab, served_ids));
}

std::vector<float> DraftModel::forward(std::span<const TokenId> ids, ReferenceCache& cache, Executor& executor) const {
  return reference_forward(weights_, ids, cache, executor);
}

}  // namespace permllm
