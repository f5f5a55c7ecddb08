#include "model/chat_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "permllm/error.h"
#include "template/template.h"

namespace permllm {
namespace {

constexpr std::array k_names{"none",       "chatml", "qwen3",     "llama2", "llama3", "gemma",     "mistral",
                             "mistral-v7", "phi3",   "phi4-mini", "phi4",   "glm4",   "chatglm-6b"};

constexpr std::size_t k_own_text =
    std::size_t{256} << 10;  // bytes that a template may add: a text takes a hundred times its size while it is cut

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
  // What a template put out: marks are searched for in its own text alone.
  void pieces(const std::vector<jinja::Template::Piece>& pieces) {
    // Phi 3's sentencepiece vocabulary: its marks swallow the white space behind them.
    const bool swallows =
        tokenizer_.vocabulary().model != "gpt2" && tokenizer_.control("<|end|>") && tokenizer_.control("<|assistant|>");
    bool behind_mark = false;
    const auto add = [&](std::string_view more) {
      if (behind_mark) more = without_leading_white(more);
      if (!more.empty()) behind_mark = false;
      text(more);
    };
    for (const auto& piece : pieces) {
      std::string_view rest = piece.text;
      for (std::size_t at = 0; !piece.contents && at < rest.size();) {
        const auto [length, id] = tokenizer_.control_at(rest.substr(at));
        if (length == 0) {
          ++at;
          continue;
        }
        add(rest.substr(0, at));
        end_text();
        ids_.push_back(id);
        behind_mark = swallows && id != tokenizer_.vocabulary().bos;
        rest.remove_prefix(at + length);
        at = 0;
      }
      add(rest);
    }
  }
  // Text that begins anew where a sentencepiece vocabulary puts a blank before each text.
  void end_text() {
    const auto more = tokenizer_.encode(text_, false);
    ids_.insert(ids_.end(), more.begin(), more.end());
    text_.clear();
  }
  const char* format() const { return format_; }
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
void refuse_mark(const std::vector<ChatMessage>& messages, std::string_view mark) {
  for (const ChatMessage& message : messages) {
    if (message.content.find(mark) != std::string::npos || message.tool_calls.find(mark) != std::string::npos)
      throw Error(Code::usage, "prompt", "holds a mark of the model's chat format, which no message may");
  }
}
void refuse_marks(const std::vector<ChatMessage>& messages, std::initializer_list<const char*> marks) {
  for (const char* mark : marks) refuse_mark(messages, mark);
}

// Of formats without a turn of the system: its message stands before the first question, or before the last.
void join_system(const char* format, std::vector<ChatMessage>& turns, std::string_view before, std::string_view after,
                 bool last = false) {
  const auto is_system = [](const ChatMessage& m) { return m.role == "system"; };
  const auto is_user = [](const ChatMessage& m) { return m.role == "user"; };
  if (std::any_of(turns.begin() + (turns.empty() ? 0 : 1), turns.end(), is_system))
    throw Error(Code::usage, "role",
                fmt::format("the chat format {} has a system message at the beginning alone", format));
  if (turns.empty() || !is_system(turns[0])) return;
  const std::string text = std::string(before) + turns[0].content + std::string(after);
  turns.erase(turns.begin());
  const auto first_user = std::find_if(turns.begin(), turns.end(), is_user);
  if (first_user == turns.end())
    throw Error(Code::usage, "messages",
                fmt::format("the chat format {} needs a question beside the system message", format));
  const auto user = last ? std::find_if(turns.rbegin(), turns.rend(), is_user).base() - 1 : first_user;
  user->content = text + user->content;
}

// The formats, each up to where the answer begins. begun: what the answer begins with.
void write_chatml(PromptWriter& prompt, const std::vector<ChatMessage>& turns, std::string_view begun) {
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

void write_llama3(PromptWriter& prompt, const std::vector<ChatMessage>& turns) {
  const auto header = [&](const std::string& role) {
    prompt.mark("<|start_header_id|>");
    prompt.text(role);
    prompt.mark("<|end_header_id|>");
    prompt.text("\n\n");
  };
  for (const ChatMessage& m : turns) {
    header(m.role);
    prompt.text(trimmed(m.content));
    prompt.mark("<|eot_id|>");
  }
  header("assistant");
}

void write_gemma(PromptWriter& prompt, std::vector<ChatMessage> turns) {
  join_system(prompt.format(), turns, "", "\n\n");
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
  join_system(prompt.format(), turns, "<<SYS>>\n", "\n<</SYS>>\n\n");
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
  if (!system_turns) join_system(prompt.format(), turns, "", "\n\n", marks);
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

void write_glm4(PromptWriter& prompt, const std::vector<ChatMessage>& turns) {
  prompt.mark("[gMASK]");
  prompt.mark("<sop>");
  for (const ChatMessage& m : turns) {
    prompt.mark(fmt::format("<|{}|>", m.role));
    prompt.text("\n");
    prompt.text(m.content);
  }
  prompt.mark("<|assistant|>");
}

void write_chatglm_6b(PromptWriter& prompt, std::vector<ChatMessage> turns) {
  refuse_marks(turns, {"[Round ", "\n问：", "\n答："});
  join_system(prompt.format(), turns, "", "\n\n");
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

// What in a template's text looks like a mark of turns: <|user|>, [INST], <<SYS>> and their ends.
std::vector<std::string> marks_of(std::string_view chat_template) {
  constexpr std::size_t k_longest = 40, k_most = 512;
  std::vector<std::string> marks;
  const auto is_name = [](std::string_view name, bool capitals) {
    return name.size() >= 3 && std::all_of(name.begin(), name.end(), [&](char c) {
             const bool plain = capitals ? (c >= 'A' && c <= 'Z') || c == '_' : static_cast<unsigned char>(c) > 0x20;
             return plain && c != '<' && c != '>';
           });
  };
  for (std::size_t at = 0; at < chat_template.size(); ++at) {
    const std::string_view rest = chat_template.substr(at, k_longest);
    for (const auto& [open, close, capitals] : {std::tuple("<|", "|>", false), std::tuple("<｜", "｜>", false),
                                                std::tuple("<<", ">>", true), std::tuple("[", "]", true)}) {
      if (!rest.starts_with(open)) continue;
      const std::size_t begin = std::string_view(open).size(), end = rest.find(close, begin);
      if (end == std::string_view::npos) continue;
      std::string_view name = rest.substr(begin, end - begin);
      if (capitals && name.starts_with('/')) name.remove_prefix(1);
      if (is_name(name, capitals)) marks.emplace_back(rest.substr(0, end + std::string_view(close).size()));
    }
  }
  std::sort(marks.begin(), marks.end());
  marks.erase(std::unique(marks.begin(), marks.end()), marks.end());
  // Each is looked for in each message.
  if (marks.size() > k_most)
    throw Error(Code::unsupported, "tokenizer.chat_template", fmt::format("has more than {} marks of turns", k_most));
  return marks;
}

std::tm today() {
  const std::time_t now = std::time(nullptr);
  std::tm date{};
  localtime_r(&now, &date);
  return date;
}

}  // namespace

std::string ChatFormat::names() { return fmt::format("{}", fmt::join(k_names, ", ")); }
const char* ChatFormat::name() const { return kind_ == own ? "template" : k_names[static_cast<std::size_t>(kind_)]; }

bool ChatFormat::can_think() const {
  return kind_ == own ? template_->reads("enable_thinking") || template_->reads("thinking") : kind_ == qwen3;
}

ChatFormat ChatFormat::named(std::string_view name) {
  const auto found = std::find(k_names.begin(), k_names.end(), name);
  if (found == k_names.end())
    throw Error(Code::usage, "chat_format", fmt::format("\"{:.20}\" is unknown; known are {}", name, names()));
  ChatFormat format(static_cast<Kind>(found - k_names.begin()));
  format.bos_ = format.kind_ == llama2 || format.kind_ == llama3 || format.kind_ == gemma || format.kind_ == mistral ||
                format.kind_ == mistral_v7;
  return format;
}

ChatFormat ChatFormat::chosen(std::string_view name, const Vocabulary& vocabulary) {
  return name.empty() ? from_template(vocabulary.chat_template) : named(name);
}

ChatFormat ChatFormat::from_template(std::string_view chat_template) {
  if (chat_template.empty()) return ChatFormat(none);
  if (std::find(k_names.begin(), k_names.end(), chat_template) != k_names.end()) return named(chat_template);
  ChatFormat format(own);
  format.template_ = std::make_shared<const jinja::Template>(chat_template);
  format.marks_ = marks_of(chat_template);
  return format;
}

std::vector<TokenId> ChatFormat::render(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                        bool think, const ChatExtras& extras) const {
  for (const std::string& mark : marks_) {
    if (!tokenizer.control(mark)) refuse_mark(messages, mark);
  }
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  jinja::Limits limits;
  limits.output = k_own_text;
  jinja::Values all;
  for (const ChatMessage& m : messages) {
    limits.output += 2 * m.content.size() + 4 * m.tool_calls.size();
    jinja::Variables of{{"role", jinja::text_value(m.role, false)}, {"content", jinja::text_value(m.content, true)}};
    if (!m.tool_calls.empty())
      of.emplace_back("tool_calls", jinja::json_value(nlohmann::ordered_json::parse(m.tool_calls), true));
    if (!m.tool_call_id.empty()) of.emplace_back("tool_call_id", jinja::text_value(m.tool_call_id, true));
    if (!m.name.empty()) of.emplace_back("name", jinja::text_value(m.name, true));
    all.push_back(jinja::dict_value(std::move(of)));
  }
  const auto token = [&](std::optional<TokenId> id) {
    return jinja::text_value(id ? vocabulary.tokens[*id] : "", false);
  };
  jinja::Variables variables{{"messages", jinja::list_value(std::move(all))},
                             {"add_generation_prompt", true},
                             {"bos_token", token(vocabulary.bos)},
                             {"eos_token", token(vocabulary.eos)},
                             {"enable_thinking", think}};
  // Where models do not think unless they are told to, their templates ask whether there is such a variable.
  if (think) variables.emplace_back("thinking", true);
  if (extras.tools != nullptr) {
    const std::string told = extras.tools->dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    for (const std::string& mark : marks_) {
      if (!tokenizer.control(mark)) refuse_mark({{"system", told}}, mark);
    }
    variables.emplace_back("tools", jinja::json_value(*extras.tools, true));
    limits.output += 4 * told.size();
  }
  const auto pieces = template_->render(variables, extras.date ? *extras.date : today(), limits);
  const auto says = [](std::string_view text) { return !without_leading_white(text).empty(); };
  if (std::any_of(messages.begin(), messages.end(), [&](const ChatMessage& m) { return says(m.content); }) &&
      std::none_of(pieces.begin(), pieces.end(),
                   [&](const auto& piece) { return piece.contents && says(piece.text); })) {
    throw Error(Code::usage, "messages", "the model's chat template leaves out all of them; it wants a question");
  }
  PromptWriter prompt(tokenizer, name());
  prompt.pieces(pieces);
  std::vector<TokenId> ids = prompt.take();
  if (vocabulary.add_bos && vocabulary.bos && (ids.empty() || ids[0] != *vocabulary.bos))
    ids.insert(ids.begin(), *vocabulary.bos);
  return ids;
}

std::vector<TokenId> ChatFormat::encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                        bool think, const ChatExtras& extras) const {
  for (const ChatMessage& m : messages) {
    if (m.role != "system" && m.role != "user" && m.role != "assistant" && (m.role != "tool" || kind_ != own))
      throw Error(Code::usage, "role", "expected system, user or assistant");
  }
  if (think && !can_think())
    throw Error(Code::usage, "think", fmt::format("the chat format {} has no thinking", name()));
  if (kind_ == own) return render(tokenizer, messages, think, extras);
  PromptWriter prompt(tokenizer, name());
  if (bos_ || tokenizer.vocabulary().add_bos) prompt.bos();
  const bool pieces = tokenizer.vocabulary().model != "gpt2";
  switch (kind_) {
    case none:
      for (const ChatMessage& m : messages) prompt.text(m.content);
      break;
    case chatml:
      write_chatml(prompt, messages, "");
      break;
    case qwen3:  // a thought that is over
      write_chatml(prompt, messages, think ? "" : "<think>\n\n</think>\n\n");
      break;
    case phi4:
      write_phi4(prompt, messages);
      break;
    case llama3:
      write_llama3(prompt, messages);
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
      write_glm4(prompt, messages);
      break;
    case chatglm_6b:
      write_chatglm_6b(prompt, messages);
      break;
    case own:
      break;
  }
  return prompt.take();
}

}  // namespace permllm
