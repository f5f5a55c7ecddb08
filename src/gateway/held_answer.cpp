#include "gateway/held_answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace permllm {
namespace {

using Kind = gateway::Piece::Kind;

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

HeldAnswer::HeldAnswer(const gateway::Request& request, const std::string& chat_template, bool named)
    : request_(request),
      family_(tool_family(chat_template)),
      thinks_(request.chat && has_thoughts(chat_template)),
      named_(named) {
  if (must_call()) {
    const auto names = request.tool_names();
    const std::string name = !request.tool.empty() ? request.tool : names.size() == 1 ? names[0] : "";
    begins_ = call_begins(family_, name);
    if (named_ && !name.empty()) hold_arguments(name);
  } else if (held_to_form() && request.form->begins_with() != '\0') {
    begins_ = request.form->begins_with();
  } else if (request.answer.goes_on) {
    begins_ = request.messages.back().content;
  }
}

// A schema that is beyond the grammar holds nothing: the arguments are as the model writes them.
void HeldAnswer::hold_arguments(const std::string& name) {
  const auto ends = call_ends(family_);
  if (!ends) return;
  for (const gateway::Json& tool : request_.tools) {
    if (tool["function"]["name"] != name || !tool["function"].contains("parameters")) continue;
    try {
      arguments_ = std::make_shared<const JsonSchema>(tool["function"]["parameters"], "parameters");
      ends_ = *ends;
    } catch (const Error&) {
    }
  }
  if (arguments_ && arguments_->begins_with() != '{') arguments_ = nullptr;
}

std::vector<Message> HeldAnswer::messages() const {
  std::vector<Message> all = request_.messages;
  if (request_.answer.goes_on) all.pop_back();  // which is how the answer begins
  std::string told;
  if (family_ == ToolFamily::general) {
    if (request_.may_call()) told = tools_as_text(request_.tools);
    for (Message message : std::exchange(all, {})) {
      const bool answers = message.role == "tool";
      if (!message.tool_calls.empty()) {
        std::vector<ToolCall> calls;
        for (const gateway::Json& call : gateway::Json::parse(message.tool_calls))
          calls.push_back({call["function"]["name"], gateway::dump(call["function"]["arguments"])});
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
            gateway::dump(request_.form->schema());
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
  if (request_.may_call() && family_ != ToolFamily::general) options.tools = gateway::dump(request_.tools);
  options.begins = begins_;
  if (request_.think) options.think = *request_.think;
  return options;
}

void HeldAnswer::begin(std::size_t number, bool within_thought, AnswerOptions& how, AnswerJob& job) {
  text_.clear();
  thought_.clear();
  thoughts_.reset();
  if (thinks_) thoughts_.emplace(within_thought);
  how.form = nullptr;
  // The same answer again would keep no more than it did.
  if (number > 0) {
    how.temperature = std::max(how.temperature, 0.7);
    if (how.seed) ++*how.seed;
  }
  reader_ = request_.may_call() ? std::make_shared<ToolReader>(family_, request_.tool_names()) : nullptr;
  if (masked()) {
    how.form = std::make_shared<GrammarForm>(request_.form, begins_);
  } else if (arguments_) {
    how.form = std::make_shared<GrammarForm>(arguments_, "");
  } else if ((held_to_form() && !begins_.empty()) || (must_call() && family_ != ToolFamily::glm45)) {
    how.form = std::make_shared<BracketForm>(begins_);
  } else if (reader_ && !request_.parallel) {
    how.form = std::make_shared<OneCallForm>(reader_);
  }
  if (!how.goes_on) push(begins_, job);  // else whoever asked has it
}

void HeldAnswer::give_calls(AnswerJob& job) {
  const std::size_t most =
      request_.parallel ? reader_->calls().size() : std::min<std::size_t>(1, reader_->calls().size());
  for (; told_ < most; ++told_) job.add(reader_->calls()[told_]);
}

void HeldAnswer::read(const ThoughtReader::Parts& parts, bool ended, AnswerJob& job) {
  std::string text = reader_ ? reader_->push(parts.text) : parts.text;
  if (ended && reader_) text += reader_->finish();
  thought_ += parts.thought;
  text_ += text;
  if (!live()) return;
  if (!parts.thought.empty()) job.add(Kind::thought, parts.thought);
  if (!text.empty()) job.add(Kind::text, text);
  if (reader_) give_calls(job);
}

void HeldAnswer::push(std::string_view piece, AnswerJob& job) {
  read(thoughts_ ? thoughts_->push(piece) : ThoughtReader::Parts{"", std::string(piece)}, false, job);
}

bool HeldAnswer::finish(const Answer& answer, AnswerJob& job) {
  if (arguments_ && answer.end == Answer::End::stop && answer.stop.empty()) push(ends_, job);
  read(thoughts_ ? thoughts_->finish() : ThoughtReader::Parts{}, true, job);
  if (live()) return true;
  const bool cut = answer.end == Answer::End::length || answer.end == Answer::End::stock;
  const bool calls = reader_ && !reader_->calls().empty();
  if (!cut && must_call() && !calls) return false;
  if (!cut && request_.form && !calls) {
    const std::string_view value = without_fence(text_);
    const gateway::Json json = parse_shallow(value);
    if (json.is_discarded() || !request_.form->keeps(json)) return false;
    text_ = std::string(value);
  }
  if (must_call() && calls) text_.clear();
  if (!thought_.empty()) job.add(Kind::thought, thought_);
  if (!text_.empty()) job.add(Kind::text, text_);
  if (reader_) give_calls(job);
  return true;
}

void HeldAnswer::give_up() const {
  throw Error(Code::usage, must_call() ? "tool_choice" : "response_format",
              fmt::format("no answer of {} kept it; the model may be too small for that, or format_tries allows more",
                          request_.tries));
}

}  // namespace permllm
