// OpenAI's Responses, without a store: each request carries all of its dialogue.
#pragma once

#include "gateway/dialect.h"

namespace permllm::gateway {

class OpenAiResponses : public Dialect {
 public:
  Request read(std::string_view body) const override;
  std::unique_ptr<AnswerWriter> writer(const Request& request, const Head& head, std::size_t) const override;
  Json error(const Refusal& refusal) const override;
};

}  // namespace permllm::gateway
