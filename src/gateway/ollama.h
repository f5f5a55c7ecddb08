// Ollama's chat and generate, and what its clients ask of models.
#pragma once

#include "gateway/dialect.h"

namespace permllm::gateway {

class OllamaChat : public Dialect {
 public:
  Request read(std::string_view body) const override;
  std::unique_ptr<AnswerWriter> writer(const Request& request, const Head& head, std::size_t) const override;
  Json error(const Refusal& refusal) const override;
  const char* stream_type() const override { return "application/x-ndjson"; }
};
class OllamaGenerate : public OllamaChat {
 public:
  Request read(std::string_view body) const override;
  std::unique_ptr<AnswerWriter> writer(const Request& request, const Head& head, std::size_t) const override;
};

// A model as this program serves it, under a name. created: seconds since 1970.
struct OllamaModel {
  std::string name;
  std::int64_t created;
  const Client::Model& model;
  const std::string& chat_template;

  Json listed() const;   // an element of /api/tags
  Json running() const;  // of /api/ps
  Json shown() const;    // /api/show
};
// The model's name in the body of /api/show. Errors: as Dialect::read.
std::string ollama_name(std::string_view body);

}  // namespace permllm::gateway
