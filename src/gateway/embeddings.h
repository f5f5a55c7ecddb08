// Texts as vectors, by OpenAI's interface and by Ollama's: what goes into the model's head behind the last token, of length 1. docs/serve.md.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gateway/request.h"

namespace permllm::gateway {

class Embeddings {
 public:
  // path: /v1/embeddings, /api/embed or /api/embeddings. Errors: as Dialect::read.
  Embeddings(std::string_view path, std::string_view body);

  const std::string& model() const { return model_; }
  // One for each text.
  std::vector<Request> requests() const;
  // Of their answers, in order.
  Json answer(const std::string& model, const std::vector<Made>& made) const;

 private:
  enum class Shape { openai, ollama, ollama_one } shape_;
  std::string model_;
  std::vector<std::string> texts_;
  bool base64_ = false;
};

}  // namespace permllm::gateway
