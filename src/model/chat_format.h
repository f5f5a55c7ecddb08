// Turns a conversation into the prompt that a model was trained on.
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace permllm {

namespace jinja {
class Template;
}

struct ChatMessage {
  std::string role;  // system, user, assistant; of the file's own template tool, too
  std::string content;
  // For the file's own template: JSON of what an assistant calls, which call a tool answers, and its name.
  std::string tool_calls = {}, tool_call_id = {}, name = {};
};

// What a model's own template is given beside the messages. Known formats know nothing of it.
struct ChatExtras {
  const nlohmann::ordered_json* tools =
      nullptr;                       // functions that the model may call, as OpenAI's interface has them; null: none
  std::optional<std::tm> date = {};  // that a template writes; without one, today here
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
    chatglm_6b,
    own
  };

  // By the file's own template (template/template.h), or by a format's name in its place; none for a file without a template.
  // Errors: unsupported, naming the template's line.
  static ChatFormat from_template(std::string_view chat_template);
  // Errors: usage, with all names.
  static ChatFormat named(std::string_view name);
  // By its name, or by the file's own template where that is empty. Errors: those of either.
  static ChatFormat chosen(std::string_view name, const Vocabulary& vocabulary);
  static std::string names();  // "none, chatml, ..."

  const char* name() const;  // "template" of the file's own
  bool can_think() const;
  bool raw() const { return kind_ == none; }  // the text as it is: what the model says goes on from it
  // Ids of the whole conversation, ending where the assistant's answer begins. Contents are encoded without special tokens, so that a person cannot
  // forge a turn; of a template's own text, what is a control token's becomes that token. Where the file says that a prompt begins with bos, it
  // does, once. `think`: let the model think before it answers (can_think).
  // Errors: unsupported where the vocabulary lacks a mark of the format, or where the template does what jinja2 refuses or is not known here; usage
  // for an unknown role, for a conversation that the template refuses or leaves out, for one that a format has no turns for, for contents with
  // marks that are plain text to the vocabulary, and for `think` where there is none.
  std::vector<TokenId> encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages, bool think = false,
                              const ChatExtras& extras = {}) const;

 private:
  explicit ChatFormat(Kind kind) : kind_(kind) {}
  std::vector<TokenId> render(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages, bool think,
                              const ChatExtras& extras) const;
  Kind kind_;
  bool bos_ = false;  // the format begins with the vocabulary's bos, whatever the file says of prompts
  std::shared_ptr<const jinja::Template> template_;  // of own
  std::vector<std::string> marks_;                   // of own: what looks like one in the template's text
};

}  // namespace permllm
