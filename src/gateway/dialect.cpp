#include "gateway/dialect.h"

#include "gateway/anthropic_messages.h"
#include "gateway/ollama.h"
#include "gateway/openai_chat.h"
#include "gateway/openai_responses.h"

namespace permllm::gateway {

const Dialect& dialect_of(std::string_view path) {
  static const OpenAiChat chat;
  static const OpenAiCompletions completions;
  static const OpenAiResponses responses;
  static const AnthropicMessages messages;
  static const AnthropicCount count;
  static const OllamaChat ollama;
  static const OllamaGenerate generate;
  if (path == "/v1/messages/count_tokens") return count;
  if (path.starts_with("/v1/messages")) return messages;
  if (path == "/api/generate") return generate;
  if (path.starts_with("/api/")) return ollama;
  if (path == "/v1/completions") return completions;
  if (path == "/v1/responses") return responses;
  return chat;
}

std::string event(const Json& json, std::string_view name) {
  const std::string data = "data: " + dump(json) + "\n\n";
  return name.empty() ? data : "event: " + std::string(name) + "\n" + data;
}

}  // namespace permllm::gateway
