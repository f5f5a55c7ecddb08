// Turns a conversation into the prompt that a model was trained on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace permllm {

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

class ChatFormat {
 public:
  // Chosen by the file's template (ChatML only so far). Errors: unsupported, quoting the template's beginning.
  static ChatFormat from_template(std::string_view chat_template);
  // Ids of the whole conversation, ending where the assistant's answer begins. A default system message that the
  // template adds (SmolLM2's) is added when the first message is not a system message. Contents are encoded without
  // special tokens, so that a person cannot forge a turn.
  std::vector<TokenId> encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const;

 private:
  std::string default_system_;
};

}  // namespace permllm
