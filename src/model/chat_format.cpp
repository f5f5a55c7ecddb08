#include "model/chat_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "permllm/error.h"

namespace permllm {
namespace {

constexpr std::array k_names{"none",       "chatml", "qwen3",     "llama2", "llama3", "gemma",     "mistral",
                             "mistral-v7", "phi3",   "phi4-mini", "phi4",   "glm4",   "chatglm-6b"};

std::string quoted_beginning(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 60)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  return valid_utf8(out);
}

// Line ends in a template's quotes may be written as "\n".
std::string with_line_ends(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escaped = text.substr(i).starts_with("\\n");
    out += escaped ? '\n' : text[i];
    i += escaped ? 1 : 0;
  }
  return out;
}

// The system message that a ChatML template adds by itself: the text between "system\n" and the end of that turn in the
// branch for conversations without one. Empty when the template adds none.
std::string default_system_of(std::string_view chat_template) {
  constexpr std::string_view begin_mark = "<|im_start|>system\n";
  for (std::size_t begin = chat_template.find(begin_mark); begin != std::string_view::npos;
       begin = chat_template.find(begin_mark, begin)) {
    begin += begin_mark.size();
    const std::string_view rest = chat_template.substr(begin);
    const std::size_t end = rest.find("<|im_end|>");
    const std::string_view text = rest.substr(0, end);
    // A quote or brace would mean that the message is put together from variables.
    if (end != std::string_view::npos && text.find_first_of("'{") == std::string_view::npos) return std::string(text);
  }
  return "";
}

constexpr std::string_view k_white = " \t\n\v\f\r";
std::string_view without_leading_white(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(k_white), text.size()));
}
std::string trimmed(std::string_view text) {
  text = without_leading_white(text);
  return std::string(text.substr(0, text.find_last_not_of(k_white) + 1));
}

// A prompt under construction. Text between two marks is encoded as one.
class PromptWriter {
 public:
  PromptWriter(const Tokenizer& tokenizer, const char* format) : tokenizer_(tokenizer), format_(format) {}
  void bos() {
    const std::optional<TokenId> id = tokenizer_.vocabulary().bos;
    end_text();
    if (id) ids_.push_back(*id);
  }
  void eos() {
    end_text();
    ids_.push_back(tokenizer_.vocabulary().eos);
  }
  void mark(std::string_view text) {
    const std::optional<TokenId> id = tokenizer_.control(text);
    if (!id) {
      throw Error(Code::unsupported, "tokenizer.ggml.tokens",
                  fmt::format("{} is not among them, which the chat format {} needs", text, format_));
    }
    end_text();
    ids_.push_back(*id);
  }
  void text(std::string_view text) { text_ += text; }
  // Text that begins anew where a sentencepiece vocabulary puts a blank before each text.
  void end_text() {
    const auto more = tokenizer_.encode(text_, false);
    ids_.insert(ids_.end(), more.begin(), more.end());
    text_.clear();
  }
  bool has(std::string_view mark) const { return tokenizer_.control(mark).has_value(); }
  std::vector<TokenId> take() {
    end_text();
    return std::move(ids_);
  }

 private:
  const Tokenizer& tokenizer_;
  const char* format_;
  std::string text_;
  std::vector<TokenId> ids_;
};

// Where marks are plain text, a person must not write them.
void refuse_marks(const std::vector<ChatMessage>& messages, std::initializer_list<const char*> marks) {
  for (const ChatMessage& message : messages) {
    for (const char* mark : marks) {
      if (message.content.find(mark) != std::string::npos) {
        throw Error(Code::usage, "prompt", "holds a mark of the model's chat format, which no message may");
      }
    }
  }
}

// Of formats without a turn of the system: its message stands before the first question, or before the last.
void join_system(std::vector<ChatMessage>& turns, std::string_view before, std::string_view after, bool last = false) {
  if (turns.empty() || turns[0].role != "system") return;
  const std::string text = std::string(before) + turns[0].content + std::string(after);
  turns.erase(turns.begin());
  const auto is_user = [](const ChatMessage& m) { return m.role == "user"; };
  const auto first_user = std::find_if(turns.begin(), turns.end(), is_user);
  if (first_user == turns.end()) return;
  const auto user = last ? std::find_if(turns.rbegin(), turns.rend(), is_user).base() - 1 : first_user;
  user->content = text + user->content;
}

bool begins_with_system(const std::vector<ChatMessage>& turns) { return !turns.empty() && turns[0].role == "system"; }

// The formats, each up to where the answer begins. begun: what the answer begins with.
void write_chatml(PromptWriter& prompt, std::vector<ChatMessage> turns, const std::string& default_system,
                  std::string_view begun) {
  if (!default_system.empty() && !begins_with_system(turns)) turns.insert(turns.begin(), {"system", default_system});
  for (const ChatMessage& m : turns) {
    prompt.mark("<|im_start|>");
    prompt.text(m.role + "\n" + m.content);
    prompt.mark("<|im_end|>");
    prompt.text("\n");
  }
  prompt.mark("<|im_start|>");
  prompt.text("assistant\n");
  prompt.text(begun);
}

void write_phi4(PromptWriter& prompt, const std::vector<ChatMessage>& turns) {
  for (const ChatMessage& m : turns) {
    prompt.mark("<|im_start|>");
    prompt.text(m.role);
    prompt.mark("<|im_sep|>");
    prompt.text(m.content);
    prompt.mark("<|im_end|>");
  }
  prompt.mark("<|im_start|>");
  prompt.text("assistant");
  prompt.mark("<|im_sep|>");
}

void write_llama3(PromptWriter& prompt, std::vector<ChatMessage> turns, const std::string& before_system) {
  const auto header = [&](const std::string& role) {
    prompt.mark("<|start_header_id|>");
    prompt.text(role);
    prompt.mark("<|end_header_id|>");
    prompt.text("\n\n");
  };
  if (!before_system.empty() && !begins_with_system(turns)) turns.insert(turns.begin(), {"system", ""});
  for (const ChatMessage& m : turns) {
    header(m.role);
    if (&m == &turns[0] && m.role == "system") prompt.text(before_system);
    prompt.text(trimmed(m.content));
    prompt.mark("<|eot_id|>");
  }
  header("assistant");
}

void write_gemma(PromptWriter& prompt, std::vector<ChatMessage> turns) {
  join_system(turns, "", "\n\n");
  for (const ChatMessage& m : turns) {
    prompt.mark("<start_of_turn>");
    prompt.text((m.role == "assistant" ? "model" : m.role) + "\n" + trimmed(m.content));
    prompt.mark("<end_of_turn>");
    prompt.text("\n");
  }
  prompt.mark("<start_of_turn>");
  prompt.text("model\n");
}

void write_llama2(PromptWriter& prompt, std::vector<ChatMessage> turns) {
  refuse_marks(turns, {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"});
  join_system(turns, "<<SYS>>\n", "\n<</SYS>>\n\n");
  for (const ChatMessage& m : turns) {
    if (m.role == "user") {
      prompt.text(fmt::format("[INST] {} [/INST]", trimmed(m.content)));
    } else {
      prompt.text(fmt::format(" {} ", trimmed(m.content)));
      prompt.eos();
      prompt.bos();
    }
  }
}

// system_turns: version 7. In version 1 the marks are plain text, and the system message stands before the first question.
void write_mistral(PromptWriter& prompt, std::vector<ChatMessage> turns, bool system_turns) {
  const bool marks = system_turns || prompt.has("[INST]");
  if (!marks) refuse_marks(turns, {"[INST]", "[/INST]"});
  if (!system_turns) join_system(turns, "", "\n\n", marks);
  for (const ChatMessage& m : turns) {
    if (m.role == "assistant") {
      prompt.end_text();
      prompt.text(m.content);
      prompt.eos();
    } else if (m.role == "system" && system_turns) {
      prompt.mark("[SYSTEM_PROMPT]");
      prompt.text(m.content);
      prompt.mark("[/SYSTEM_PROMPT]");
    } else if (marks) {
      prompt.mark("[INST]");
      prompt.text(m.content);
      prompt.mark("[/INST]");
    } else {
      prompt.text(fmt::format("[INST] {} [/INST]", m.content));
    }
  }
}

// swallows: the vocabulary's marks swallow the white space behind them.
void write_phi(PromptWriter& prompt, const std::vector<ChatMessage>& turns, std::string_view line_end, bool swallows) {
  for (const ChatMessage& m : turns) {
    prompt.mark(fmt::format("<|{}|>", m.role));
    prompt.text(line_end);
    prompt.text(swallows ? without_leading_white(m.content) : std::string_view(m.content));
    prompt.mark("<|end|>");
    prompt.text(line_end);
  }
  prompt.mark("<|assistant|>");
  prompt.text(line_end);
}

void write_glm4(PromptWriter& prompt, const std::vector<ChatMessage>& turns, std::string_view begun) {
  prompt.mark("[gMASK]");
  prompt.mark("<sop>");
  for (const ChatMessage& m : turns) {
    prompt.mark(fmt::format("<|{}|>", m.role));
    prompt.text("\n");
    prompt.text(m.content);
  }
  prompt.mark("<|assistant|>");
  prompt.text(begun);
}

void write_chatglm_6b(PromptWriter& prompt, std::vector<ChatMessage> turns) {
  refuse_marks(turns, {"[Round ", "\n问：", "\n答："});
  join_system(turns, "", "\n\n");
  std::size_t round = 0;
  for (const ChatMessage& m : turns) {
    if (turns.size() == 1) {
      prompt.text(m.content);  // a question without history is no round
    } else if (m.role == "user") {
      prompt.text(fmt::format("[Round {}]\n问：{}\n答：", round++, m.content));
    } else {
      prompt.text(m.content + "\n");
    }
  }
  prompt.mark("[gMASK]");
  prompt.mark("<sop>");
}

}  // namespace

std::string ChatFormat::names() { return fmt::format("{}", fmt::join(k_names, ", ")); }
const char* ChatFormat::name() const { return k_names[static_cast<std::size_t>(kind_)]; }

ChatFormat ChatFormat::named(std::string_view name) {
  const auto found = std::find(k_names.begin(), k_names.end(), name);
  if (found == k_names.end())
    throw Error(Code::usage, "chat_format", fmt::format("\"{:.20}\" is unknown; known are {}", name, names()));
  ChatFormat format(static_cast<Kind>(found - k_names.begin()));
  format.bos_ = format.kind_ == llama2 || format.kind_ == llama3 || format.kind_ == gemma || format.kind_ == mistral ||
                format.kind_ == mistral_v7;
  return format;
}

std::optional<ChatFormat> ChatFormat::recognised(std::string_view chat_template) {
  if (chat_template.empty()) return ChatFormat(none);
  if (std::find(k_names.begin(), k_names.end(), chat_template) != k_names.end()) return named(chat_template);
  std::string text = with_line_ends(chat_template);
  for (std::size_t at = 0; (at = text.find("' + '", at)) != std::string::npos;) text.erase(at, 5);
  const auto has = [&](std::string_view part) { return text.find(part) != std::string::npos; };
  const auto kind = [&]() -> std::optional<Kind> {
    if (has("<|im_start|>") && has("<|im_end|>"))
      return has("<|im_sep|>") ? phi4 : has("enable_thinking") ? qwen3 : chatml;
    if (has("<|start_header_id|>") && has("<|end_header_id|>") && has("<|eot_id|>")) return llama3;
    if (has("<start_of_turn>") && has("<end_of_turn>")) return gemma;
    if (has("[gMASK]<sop>") && has("<|assistant|>")) return glm4;
    if (has("<|assistant|>") && has("<|end|>")) return has("|>\n") ? phi3 : phi4_mini;
    if (has("[INST]") && has("[/INST]")) return has("[SYSTEM_PROMPT]") ? mistral_v7 : has("<<SYS>>") ? llama2 : mistral;
    return std::nullopt;
  }();
  if (!kind) return std::nullopt;
  ChatFormat format(*kind);
  format.bos_ = has("bos_token");
  if (*kind == chatml || *kind == qwen3) format.preamble_ = default_system_of(text);
  if (*kind == chatml) format.opens_thought_ = has("<|im_start|>assistant\n<think>\n");
  // The date that the templates of Llama 3.1 and later fall back to: the prompt shall not depend on the day.
  if (*kind == llama3 && has("Cutting Knowledge Date"))
    format.preamble_ = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
  if (*kind == glm4)
    format.line_end_ = std::string_view(text).substr(text.rfind("<|assistant|>")).starts_with("<|assistant|>\n");
  return format;
}

ChatFormat ChatFormat::from_template(std::string_view chat_template) {
  const std::optional<ChatFormat> format = recognised(chat_template);
  if (!format) {
    throw Error(Code::unsupported, "tokenizer.chat_template",
                fmt::format("begins with \"{}\", which is not supported; choose one with --chat-format: {}",
                            quoted_beginning(chat_template), names()));
  }
  return *format;
}

std::vector<TokenId> ChatFormat::encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                        bool think) const {
  for (const ChatMessage& m : messages) {
    if (m.role != "system" && m.role != "user" && m.role != "assistant")
      throw Error(Code::usage, "role", "expected system, user or assistant");
  }
  if (think && !can_think())
    throw Error(Code::usage, "think", fmt::format("the chat format {} has no thinking", name()));
  PromptWriter prompt(tokenizer, name());
  if (bos_ || tokenizer.vocabulary().add_bos) prompt.bos();
  const bool pieces = tokenizer.vocabulary().model != "gpt2";
  switch (kind_) {
    case none:
      for (const ChatMessage& m : messages) prompt.text(m.content);
      break;
    case chatml:
      write_chatml(prompt, messages, preamble_, opens_thought_ ? "<think>\n" : "");
      break;
    case qwen3:  // a thought that is over
      write_chatml(prompt, messages, preamble_, think ? "" : "<think>\n\n</think>\n\n");
      break;
    case phi4:
      write_phi4(prompt, messages);
      break;
    case llama3:
      write_llama3(prompt, messages, preamble_);
      break;
    case gemma:
      write_gemma(prompt, messages);
      break;
    case llama2:
      write_llama2(prompt, messages);
      break;
    case mistral:
    case mistral_v7:
      write_mistral(prompt, messages, kind_ == mistral_v7);
      break;
    case phi3:
      write_phi(prompt, messages, pieces ? "" : "\n", pieces);
      break;
    case phi4_mini:
      write_phi(prompt, messages, "", false);
      break;
    case glm4:
      write_glm4(prompt, messages, line_end_ ? "\n" : "");
      break;
    case chatglm_6b:
      write_chatglm_6b(prompt, messages);
      break;
  }
  return prompt.take();
}

}  // namespace permllm
