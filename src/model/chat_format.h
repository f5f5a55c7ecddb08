// Turns a conversation into the prompt that a model was trained on.
#pragma once

#include <optional>
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
  enum Kind {
    none,
    chatml,
    qwen3,
    llama2,
    llama3,
    gemma,
    mistral,
    mistral_v7,
    phi3,
    phi4_mini,
    phi4,
    glm4,
    chatglm_6b
  };

  // Chosen by the file's template, or by a name in its place; none for a file without a template.
  static std::optional<ChatFormat> recognised(std::string_view chat_template);
  // Errors: unsupported, quoting the template's beginning.
  static ChatFormat from_template(std::string_view chat_template);
  // Errors: usage, with all names.
  static ChatFormat named(std::string_view name);
  static std::string names();  // "none, chatml, ..."

  const char* name() const;
  bool can_think() const { return kind_ == qwen3; }
  // Ids of the whole conversation, ending where the assistant's answer begins. A default system message that the
  // template adds (SmolLM2's) is added when the first message is not a system message. Contents are encoded without
  // special tokens, so that a person cannot forge a turn. `think`: let the model think before it answers (can_think).
  // Errors: unsupported where the vocabulary lacks a mark of the format; usage for an unknown role, for contents with marks of
  // a format whose marks are plain text, and for `think` where there is none.
  std::vector<TokenId> encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                              bool think = false) const;

 private:
  explicit ChatFormat(Kind kind) : kind_(kind) {}
  Kind kind_;
  bool bos_ = false;            // the template begins with the vocabulary's bos, whatever the file says of prompts
  bool line_end_ = false;       // glm4: after the last mark
  bool opens_thought_ = false;  // chatml: the answer begins within a thought (QwQ)
  std::string preamble_;        // chatml: a default system message; llama3: what stands before every system message
};

}  // namespace permllm
