// OpenAI's chat completions and completions.
#pragma once

#include <optional>

#include "gateway/dialect.h"
#include "gateway/fields.h"

namespace permllm::gateway {

class OpenAiChat : public Dialect {
 public:
  Request read(std::string_view body) const override;
  std::unique_ptr<AnswerWriter> writer(const Request& request, const Head& head, std::size_t) const override;
  Json error(const Refusal& refusal) const override;
};
class OpenAiCompletions : public OpenAiChat {
 public:
  Request read(std::string_view body) const override;
};

// What OpenAI's other interfaces share.
Json openai_error(const Refusal& refusal);
Json openai_usage(const Costs& costs);
const char* openai_finish(const Choice& choice);
Json openai_logprobs(const std::vector<Answer::Chance>& chances);
std::vector<Message> openai_messages(const Json& in, const std::string& field);

// Of /tokenize: content, or messages.
struct Text {
  std::string model;
  std::optional<std::string> content;
  std::vector<Message> messages;
};
Text read_text(std::string_view body);
// Of /detokenize: tokens.
struct Tokens {
  std::string model;
  std::vector<std::uint32_t> ids;
};
Tokens read_tokens(std::string_view body);

}  // namespace permllm::gateway
