#include "gateway/held_answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace permllm {
namespace {

// By its grammar; what was said that is none of it ends the answer.
class GrammarForm : public AnswerForm {
 public:
  GrammarForm(std::shared_ptr<const JsonSchema> schema, const std::string& begins)
      : schema_(std::move(schema)), state_(schema_->state()) {
    add(begins);
  }
  bool may_follow(std::string_view bytes) const override {
    if (!state_.next().test(static_cast<unsigned char>(bytes.front()))) return false;
    GrammarState after = state_;
    return after.push(bytes);
  }
  void add(std::string_view bytes) override { lost_ = lost_ || !state_.push(bytes); }
  bool may_end() const override { return state_.complete(); }
  bool is_over() const override { return lost_ || (state_.complete() && state_.next().none()); }

 private:
  std::shared_ptr<const JsonSchema> schema_;
  GrammarState state_;
  bool lost_ = false;
};

// A value in brackets: over where they are closed.
class BracketForm : public AnswerForm {
 public:
  explicit BracketForm(std::string_view begins) { add(begins); }
  bool may_follow(std::string_view) const override { return true; }
  void add(std::string_view bytes) override {
    for (const char c : bytes) {
      if (escaped_) {
        escaped_ = false;
      } else if (in_string_) {
        escaped_ = c == '\\';
        in_string_ = c != '"';
      } else if (c == '"') {
        in_string_ = true;
      } else if (c == '{' || c == '[') {
        ++depth_;
      } else if ((c == '}' || c == ']') && depth_ > 0 && --depth_ == 0) {
        over_ = true;
      }
    }
  }
  bool may_end() const override { return true; }
  bool is_over() const override { return over_; }

 private:
  std::size_t depth_ = 0;
  bool in_string_ = false, escaped_ = false, over_ = false;
};

// One call, where several are not wanted.
class OneCallForm : public AnswerForm {
 public:
  explicit OneCallForm(std::shared_ptr<const ToolReader> reader) : reader_(std::move(reader)) {}
  bool may_follow(std::string_view) const override { return true; }
  void add(std::string_view) override {}
  bool may_end() const override { return true; }
  bool is_over() const override { return !reader_->calls().empty(); }

 private:
  std::shared_ptr<const ToolReader> reader_;
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view k_blanks = " \t\r\n";
  text.remove_prefix(std::min(text.find_first_not_of(k_blanks), text.size()));
  return text.substr(0, text.find_last_not_of(k_blanks) + 1);
}

// Of a text that models like to put around it.
std::string_view without_fence(std::string_view text) {
  text = trimmed(text);
  if (!text.starts_with("```") || !text.ends_with("```") || text.size() < 6) return text;
  text = text.substr(0, text.size() - 3);
  return trimmed(text.substr(std::min(text.find('\n'), text.size())));
}

}  // namespace

HeldAnswer::HeldAnswer(const openai::Request& request, const std::string& chat_template, bool open)
    : request_(request), family_(tool_family(chat_template)), open_(open) {
  if (must_call()) {
    const auto names = request.tool_names();
    begins_ = call_begins(family_, !request.tool.empty() ? request.tool : names.size() == 1 ? names[0] : "");
  } else if (held_to_form() && request.form->begins_with() != '\0') {
    begins_ = request.form->begins_with();
  }
}

std::vector<Message> HeldAnswer::messages() const {
  std::vector<Message> all = request_.messages;
  std::string told;
  if (family_ == ToolFamily::general) {
    if (request_.may_call()) told = tools_as_text(request_.tools);
    for (Message message : std::exchange(all, {})) {
      const bool answers = message.role == "tool";
      if (!message.tool_calls.empty()) {
        std::vector<ToolCall> calls;
        for (const openai::Json& call : openai::Json::parse(message.tool_calls))
          calls.push_back({call["function"]["name"], openai::dump(call["function"]["arguments"])});
        message.content += (message.content.empty() ? "" : "\n") + calls_as_text(calls);
      }
      if (answers) {
        message.role = "user";
        message.content = "<tool_response>\n" + message.content + "\n</tool_response>";
      }
      message.tool_calls = message.tool_call_id = message.name = "";
      // Templates want question and answer by turns: what is told of several calls is one.
      if (answers && !all.empty() && all.back().role == "user") {
        all.back().content += "\n" + message.content;
      } else {
        all.push_back(std::move(message));
      }
    }
  }
  if (request_.form) {
    told += std::string(told.empty() ? "" : "\n\n") +
            "Answer with JSON alone, without any words around it, that keeps this JSON schema:\n" +
            openai::dump(request_.form->schema());
  }
  if (told.empty()) return all;
  if (all.front().role == "system") {
    all.front().content += "\n\n" + told;
  } else {
    all.front().content = told + "\n\n" + all.front().content;
  }
  return all;
}

ConversationOptions HeldAnswer::options(ConversationOptions options) const {
  if (request_.may_call() && family_ != ToolFamily::general) options.tools = openai::dump(request_.tools);
  options.begins = begins_;
  return options;
}

void HeldAnswer::begin(std::size_t number, AnswerOptions& how, AnswerJob& job) {
  text_.clear();
  how.form = nullptr;
  // The same answer again would keep no more than it did.
  if (number > 0) {
    how.temperature = std::max(how.temperature, 0.7);
    if (how.seed) ++*how.seed;
  }
  reader_ = request_.may_call() ? std::make_shared<ToolReader>(family_, request_.tool_names()) : nullptr;
  if (masked()) {
    how.form = std::make_shared<GrammarForm>(request_.form, begins_);
  } else if ((held_to_form() && !begins_.empty()) || (must_call() && family_ != ToolFamily::glm45)) {
    how.form = std::make_shared<BracketForm>(begins_);
  } else if (reader_ && !request_.parallel) {
    how.form = std::make_shared<OneCallForm>(reader_);
  }
  push(begins_, job);
}

void HeldAnswer::give(const std::string& text, AnswerJob& job) {
  if (!text.empty()) job.add(text);
}

void HeldAnswer::give_calls(AnswerJob& job) {
  const std::size_t most =
      request_.parallel ? reader_->calls().size() : std::min<std::size_t>(1, reader_->calls().size());
  for (; told_ < most; ++told_) job.add(reader_->calls()[told_]);
}

void HeldAnswer::push(std::string_view piece, AnswerJob& job) {
  const std::string text = reader_ ? reader_->push(piece) : std::string(piece);
  text_ += text;
  if (!live()) return;
  give(text, job);
  if (reader_) give_calls(job);
}

bool HeldAnswer::finish(const Answer& answer, AnswerJob& job) {
  const std::string rest = reader_ ? reader_->finish() : "";
  text_ += rest;
  if (live()) {
    give(rest, job);
    if (reader_) give_calls(job);
    return true;
  }
  const bool cut = answer.end == Answer::End::length || answer.end == Answer::End::stock;
  const bool calls = reader_ && !reader_->calls().empty();
  if (!cut && must_call() && !calls) return false;
  if (!cut && request_.form && !calls) {
    const std::string_view value = without_fence(text_);
    const openai::Json json = parse_shallow(value);
    if (json.is_discarded() || !request_.form->keeps(json)) return false;
    text_ = std::string(value);
  }
  if (must_call() && calls) text_.clear();
  give(text_, job);
  if (reader_) give_calls(job);
  return true;
}

void HeldAnswer::give_up() const {
  throw Error(Code::usage, must_call() ? "tool_choice" : "response_format",
              fmt::format("no answer of {} kept it; the model may be too small for that, or format_tries allows more",
                          request_.tries));
}

}  // namespace permllm
