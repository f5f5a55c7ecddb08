// Tiny models of every architecture and what the independent oracle says of them: see tests/reference/make_models.py.
#pragma once

#include <cstddef>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "model/tokenizer.h"

namespace permllm::test {

struct TinyPrompt {
  std::vector<TokenId> ids;
  // Kind as in model/reference.h, and "embed", "qk", "post.attn", "post.mlp", "logits"; layer; token; head of a score, else 0.
  // norm.final and logits: layer is the number of layers.
  std::map<std::tuple<std::string, std::size_t, std::size_t, std::size_t>, std::vector<double>> observations;
  std::vector<TokenId> greedy;              // the continuation
  std::vector<double> gaps;                 // of each: from its logit to the second best
  std::vector<std::vector<double>> decode;  // logits behind each of the first greedy tokens

  bool has(const std::string& kind, std::size_t layer, std::size_t token, std::size_t head = 0) const {
    return observations.contains({kind, layer, token, head});
  }
  const std::vector<double>& at(const std::string& kind, std::size_t layer, std::size_t token,
                                std::size_t head = 0) const {
    const auto found = observations.find({kind, layer, token, head});
    if (found == observations.end()) {
      throw std::out_of_range("the oracle has no " + kind + " of layer " + std::to_string(layer) + ", token " +
                              std::to_string(token) + ", head " + std::to_string(head));
    }
    return found->second;
  }
};

struct TinyModel {
  std::string architecture;
  std::string path;                 // of the GGUF file or the folder
  std::vector<TinyPrompt> prompts;  // a short one (chatglm-6b: marks alone), and one of 20 tokens
};

// Names of the models, for parametrised tests.
inline const std::vector<std::string>& tiny_model_names() {
  static const std::vector<std::string> names{"llama",     "llama-linear", "qwen2",      "qwen3",      "gemma2",
                                              "gemma3",    "phi3",         "gpt2",       "glm4",       "chatglm",
                                              "smollm3",   "granite",      "qwen2-yarn", "qwen3-yarn", "mistral3",
                                              "phi4-mini", "olmo2",        "olmo3",      "chatglm-6b"};
  return names;
}

inline TinyModel tiny_model(const std::string& name) {
  const std::string folder = std::string(PERMLLM_TINY_MODELS) + "/";
  std::ifstream file(folder + name + ".json");
  const nlohmann::json json = nlohmann::json::parse(file);
  TinyModel model{json.at("architecture"), folder + json.at("model").get<std::string>(), {}};
  for (const nlohmann::json& p : json.at("prompts")) {
    TinyPrompt prompt;
    p.at("ids").get_to(prompt.ids);
    p.at("greedy").get_to(prompt.greedy);
    p.at("gaps").get_to(prompt.gaps);
    p.at("decode").get_to(prompt.decode);
    for (const nlohmann::json& o : p.at("observations")) {
      const std::size_t head = o.value("head", std::size_t{0});
      o.at("values").get_to(prompt.observations[{o.at("kind"), o.at("layer"), o.at("token"), head}]);
    }
    model.prompts.push_back(std::move(prompt));
  }
  return model;
}

}  // namespace permllm::test
