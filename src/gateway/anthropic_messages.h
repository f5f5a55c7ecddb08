// Anthropic's Messages.
#pragma once

#include "gateway/dialect.h"

namespace permllm::gateway {

class AnthropicMessages : public Dialect {
 public:
  Request read(std::string_view body) const override;
  std::unique_ptr<AnswerWriter> writer(const Request& request, const Head& head,
                                       std::size_t prompt_tokens) const override;
  Json error(const Refusal& refusal) const override;

 protected:
  Request read(std::string_view body, bool counted) const;
};
// Of which only the tokens are counted: no answer's length is asked for.
class AnthropicCount : public AnthropicMessages {
 public:
  Request read(std::string_view body) const override { return AnthropicMessages::read(body, true); }
};

}  // namespace permllm::gateway
