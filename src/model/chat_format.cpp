#include "model/chat_format.h"

#include <fmt/format.h>

#include "permllm/error.h"

namespace permllm {
namespace {

std::string quoted_beginning(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 60)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  return valid_utf8(out);
}

// The system message that a ChatML template adds by itself: the text between "system\n" and the end of that turn in the
// branch for conversations without one. Empty when the template adds none.
std::string default_system_of(std::string_view chat_template) {
  for (const std::string_view begin_mark : {"<|im_start|>system\n", "<|im_start|>system\\n"}) {
    const std::size_t begin = chat_template.find(begin_mark);
    if (begin == std::string_view::npos) continue;
    const std::string_view rest = chat_template.substr(begin + begin_mark.size());
    const std::size_t end = rest.find("<|im_end|>");
    const std::string_view text = rest.substr(0, end);
    // A quote would mean that the message is put together from variables.
    if (end != std::string_view::npos && text.find('\'') == std::string_view::npos) return std::string(text);
  }
  return "";
}

}  // namespace

ChatFormat ChatFormat::from_template(std::string_view chat_template) {
  const bool chat_ml = chat_template.find("<|im_start|>") != std::string_view::npos &&
                       chat_template.find("<|im_end|>") != std::string_view::npos;
  if (!chat_ml) {
    throw Error(Code::unsupported, "tokenizer.chat_template",
                chat_template.empty() ? "the file has none; ChatML is supported (use --raw for text without a chat format)"
                                      : fmt::format("begins with \"{}\", which is not supported; ChatML is",
                                                    quoted_beginning(chat_template)));
  }
  ChatFormat format;
  format.default_system_ = default_system_of(chat_template);
  return format;
}

std::vector<TokenId> ChatFormat::encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const {
  std::vector<TokenId> ids;
  const auto add = [&](std::string_view text, bool special) {
    const auto more = tokenizer.encode(text, special);
    ids.insert(ids.end(), more.begin(), more.end());
  };
  const auto turn = [&](const std::string& role, const std::string& content) {
    add("<|im_start|>", true);
    add(role + "\n" + content, false);  // a person's text cannot forge a turn
    add("<|im_end|>", true);
    add("\n", false);
  };
  if (!default_system_.empty() && (messages.empty() || messages[0].role != "system")) turn("system", default_system_);
  for (const ChatMessage& message : messages) turn(message.role, message.content);
  add("<|im_start|>", true);
  add("assistant\n", false);
  return ids;
}

}  // namespace permllm
