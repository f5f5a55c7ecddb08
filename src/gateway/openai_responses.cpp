#include "gateway/openai_responses.h"

#include <fmt/format.h>

#include <utility>

#include "gateway/fields.h"
#include "gateway/openai_chat.h"

namespace permllm::gateway {
namespace {

using In = Json;

constexpr const char* k_stateless =
    "nothing is stored here: send the whole dialogue as input, earlier answers and calls with it";

void add_message(std::vector<Message>& messages, const In& item, const std::string& at) {
  std::string role, content;
  bool some = false;
  for (const auto& [key, value] : item.items()) {
    if (value.is_null() || key == "type" || key == "id" || key == "status" || key == "phase") continue;
    if (key == "role") {
      role = text(value, at + ".role");
      if (role == "developer") role = "system";
      if (role != "system" && role != "user" && role != "assistant")
        wrong(at + ".role", "system, developer, user or assistant");
    } else if (key == "content") {
      content = content_of(value, at + ".content", {"input_text", "output_text", "text"});
      some = true;
    } else {
      throw Error(Code::usage, at + "." + key, "is not known");
    }
  }
  if (role.empty()) wrong(at + ".role", "system, developer, user or assistant");
  if (!some) wrong(at + ".content", "a string, or a list of text parts");
  messages.push_back({role, content});
}

void input_of(Request& request, const In& value) {
  std::vector<Message>& messages = request.messages;
  if (value.is_string()) {
    if (value.get<std::string>().empty()) wrong("input", "a string, not empty, or a list of items");
    messages.push_back({"user", value.get<std::string>()});
    return;
  }
  if (!value.is_array() || value.empty()) wrong("input", "a string, not empty, or a list of items");
  // Behind an assistant's words, or its call before, another one is of the same message.
  Json calls = Json::array();
  const auto close = [&] {
    if (calls.empty()) return;
    if (messages.empty() || messages.back().role != "assistant") messages.push_back({"assistant", ""});
    messages.back().tool_calls = dump(std::exchange(calls, Json::array()));
  };
  for (std::size_t i = 0; i < value.size(); ++i) {
    const In& item = value[i];
    const std::string at = fmt::format("input[{}]", i);
    if (!item.is_object()) wrong(at, "an object");
    const In type = item.value("type", In("message"));
    if (type == "message" || type == "function_call_output") close();
    if (type == "message") {
      add_message(messages, item, at);
    } else if (type == "function_call") {
      calls.push_back(call_of(text(item.value("call_id", In()), at + ".call_id"),
                              text(item.value("name", In()), at + ".name"), item.value("arguments", In())));
    } else if (type == "function_call_output") {
      const std::string id = text(item.value("call_id", In()), at + ".call_id");
      messages.push_back({"tool",
                          content_of(item.value("output", In()), at + ".output", {"input_text", "output_text", "text"}),
                          "", id, ""});
    } else if (type == "item_reference") {
      unsupported(at + ".type", k_stateless);
    } else if (type != "reasoning") {  // what a model thought before is no part of the dialogue
      unsupported(at + ".type", "only messages, function calls and their outputs are taken");
    }
  }
  close();
}

void tools_of(Request& request, const In& value) {
  if (!value.is_array()) wrong("tools", "a list");
  for (std::size_t i = 0; i < value.size(); ++i) {
    const In& tool = value[i];
    const std::string at = fmt::format("tools[{}]", i);
    if (!tool.is_object() || !tool.contains("type")) wrong(at, "an object with a type");
    if (tool["type"] != "function") unsupported(at + ".type", "only functions are called");
    request.tools.push_back(function_of(tool.value("name", In()), tool.value("description", In()),
                                        tool.value("parameters", In()), at, "parameters"));
  }
  request.echo["tools"] = value;
}

void tool_choice_of(Request& request, const In& value) {
  using Calls = Request::Calls;
  request.echo["tool_choice"] = value;
  if (value == "none" || value == "auto") {
    request.calls = value == "none" ? Calls::none : Calls::if_it_likes;
  } else if (value == "required") {
    request.calls = Calls::required;
  } else if (value.is_object() && value.value("type", In()) == "function") {
    request.calls = Calls::required;
    request.tool = text(value.value("name", In()), "tool_choice.name");
  } else {
    wrong("tool_choice", "none, auto, required, or a function by its name");
  }
}

void text_of(Request& request, const In& value) {
  if (!value.is_object()) wrong("text", "an object");
  for (const auto& [key, field] : value.items()) {
    if (field.is_null()) continue;
    if (key == "verbosity") {
      text(field, "text.verbosity");
    } else if (key == "format") {
      if (!field.is_object()) wrong("text.format", "an object");
      form_of(request, field.value("type", In()), field.value("schema", In()), "text.format", "text.format.schema");
    } else {
      throw Error(Code::usage, "text." + key, "is not known");
    }
  }
  request.echo["text"] = value;
}

void include_of(Request& request, const In& value) {
  if (!value.is_array()) wrong("include", "a list");
  for (const In& one : value) {
    if (one == "message.output_text.logprobs") {
      request.answer.log_probabilities = true;
    } else if (one != "reasoning.encrypted_content") {  // there is none
      unsupported("include", "only message.output_text.logprobs can be added to an answer");
    }
  }
}

void stream_options_of(Request&, const In& value) {
  if (!value.is_object()) wrong("stream_options", "an object");
  for (const auto& [key, option] : value.items()) {
    if (option.is_null()) continue;
    if (key != "include_obfuscation") throw Error(Code::usage, "stream_options." + key, "is not known");
    truth(option, "stream_options.include_obfuscation");
  }
}

Field echoed(const char* name, const Field& field) {
  return [=](Request& request, const In& value) {
    field(request, value);
    request.echo[name] = value;
  };
}

const Fields& response_fields() {
  const auto is_false = [](const In& v) { return v == false; };
  static const Fields fields{
      {"input", input_of},
      {"instructions", echoed("instructions", [](Request&, const In& v) { text(v, "instructions"); })},
      {"max_output_tokens",
       [](Request& r, const In& v) { r.max_tokens = whole_number(v, "max_output_tokens", 1, UINT32_MAX); }},
      {"tools", tools_of},
      {"tool_choice", tool_choice_of},
      {"parallel_tool_calls", [](Request& r, const In& v) { r.parallel = truth(v, "parallel_tool_calls"); }},
      {"text", text_of},
      {"include", include_of},
      {"top_logprobs",
       [](Request& r, const In& v) {
         r.answer.top_logprobs = whole_number(v, "top_logprobs", 0, 20);
         r.answer.log_probabilities = r.answer.log_probabilities || r.answer.top_logprobs > 0;
       }},
      {"store", refused("store", "nothing is stored", is_false)},
      {"previous_response_id", refused("previous_response_id", k_stateless)},
      {"conversation", refused("conversation", k_stateless)},
      {"background", refused("background", "an answer lives as long as its connection", is_false)},
      {"prompt", refused("prompt", "there are no stored prompts")},
      {"truncation", refused("truncation", "a dialogue that does not fit is refused, never cut",
                             [](const In& v) { return v == "disabled"; })},
      {"service_tier",
       refused("service_tier", "expected auto or default", [](const In& v) { return v == "auto" || v == "default"; })},
      {"stream_options", stream_options_of},
      {"metadata", echoed("metadata", object_without_effect("metadata"))},
      {"reasoning", object_without_effect("reasoning")},
      {"user", text_without_effect("user")},
      {"safety_identifier", text_without_effect("safety_identifier")},
      {"prompt_cache_key", text_without_effect("prompt_cache_key")},
      {"prompt_cache_retention", text_without_effect("prompt_cache_retention")},
      {"max_tool_calls", without_effect()},
  };
  return fields;
}

// An answer's items: what it thought, its text, its calls, each closed before the next one begins.
class ResponseWriter : public AnswerWriter {
 public:
  ResponseWriter(const Request& request, const Head& head) : request_(request), head_(head) {}

  Json whole(const Made& made) override {
    const Choice& choice = made.choices.front();
    if (!choice.thought.empty()) output_.push_back(thought_item(random_id(24), choice.thought));
    if (!choice.text.empty() || choice.calls.empty())
      output_.push_back(text_item(random_id(24), choice.text, logprobs(choice), complete(choice)));
    for (const Call& call : choice.calls) output_.push_back(call_item(random_id(24), call));
    return response(complete(choice) ? "completed" : "incomplete", &made);
  }

  std::string begin() override {
    std::string out = say("response.created", {{"response", response("in_progress")}});
    return out += say("response.in_progress", {{"response", response("in_progress")}});
  }
  std::string piece(const Piece& piece) override {
    std::string out;
    if (!open_ || *open_ != piece.kind) out = close();
    if (piece.kind == Piece::Kind::call) return out += call_events(piece.call);
    if (!open_) out += open(piece.kind);
    text_ += piece.text;
    if (piece.kind == Piece::Kind::thought)
      return out += say_in_part("response.reasoning_text.delta", "delta", piece.text);
    Json delta = part_place();
    delta["delta"] = piece.text;
    delta["logprobs"] = Json::array();
    return out += say("response.output_text.delta", delta);
  }
  std::string end(const Made& made) override {
    const Choice& choice = made.choices.front();
    logprobs_ = logprobs(choice);
    std::string out;
    if (!open_ && output_.empty()) out += open(Piece::Kind::text);  // an answer of no words is one, too
    out += close(complete(choice));
    const char* status = complete(choice) ? "completed" : "incomplete";
    return out += say(fmt::format("response.{}", status), {{"response", response(status, &made)}});
  }
  std::string fail(const Refusal& refusal) override {
    Json failed = response("failed");
    failed["error"] = {{"code", refusal.code.empty() ? "server_error" : refusal.code}, {"message", refusal.message}};
    return say("response.failed", {{"response", failed}});
  }

 private:
  static bool complete(const Choice& choice) {
    return choice.end != Answer::End::length && choice.end != Answer::End::stock;
  }
  static Json logprobs(const Choice& choice) { return openai_logprobs(choice.log_probabilities); }
  static Json text_part(const std::string& text, const Json& logprobs) {
    return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}, {"logprobs", logprobs}};
  }
  static Json text_item(const std::string& id, const std::string& text, const Json& logprobs, bool to_the_end) {
    return {{"type", "message"},
            {"id", "msg_" + id},
            {"status", to_the_end ? "completed" : "incomplete"},
            {"role", "assistant"},
            {"content", Json::array({text_part(text, logprobs)})}};
  }
  static Json thought_part(const std::string& text) { return {{"type", "reasoning_text"}, {"text", text}}; }
  static Json thought_item(const std::string& id, const std::string& text) {
    return {{"type", "reasoning"},
            {"id", "rs_" + id},
            {"summary", Json::array()},
            {"content", Json::array({thought_part(text)})}};
  }
  static Json call_item(const std::string& id, const Call& call) {
    return {{"type", "function_call"},          {"id", "fc_" + id},     {"call_id", call.id}, {"name", call.call.name},
            {"arguments", call.call.arguments}, {"status", "completed"}};
  }

  Json response(const char* status, const Made* made = nullptr) const {
    const auto echo = [&](const char* name, const Json& otherwise) { return request_.echo.value(name, otherwise); };
    Json all{{"id", "resp_" + head_.id},
             {"object", "response"},
             {"created_at", head_.created},
             {"status", status},
             {"background", false},
             {"error", nullptr},
             {"incomplete_details", nullptr},
             {"instructions", echo("instructions", nullptr)},
             {"max_output_tokens", request_.max_tokens ? Json(*request_.max_tokens) : Json(nullptr)},
             {"max_tool_calls", nullptr},
             {"model", head_.model},
             {"output", output_},
             {"parallel_tool_calls", request_.parallel},
             {"previous_response_id", nullptr},
             {"reasoning", {{"effort", nullptr}, {"summary", nullptr}}},
             {"service_tier", "default"},
             {"store", false},
             {"temperature", request_.answer.temperature},
             {"text", echo("text", {{"format", {{"type", "text"}}}})},
             {"tool_choice", echo("tool_choice", "auto")},
             {"tools", echo("tools", Json::array())},
             {"top_logprobs", request_.answer.top_logprobs},
             {"top_p", request_.answer.top_p},
             {"truncation", "disabled"},
             {"usage", nullptr},
             {"user", nullptr},
             {"metadata", echo("metadata", Json::object())}};
    if (made == nullptr) return all;
    const Answer::Cost& cost = made->costs.cost;
    if (!complete(made->choices.front())) all["incomplete_details"] = {{"reason", "max_output_tokens"}};
    all["usage"] = {{"input_tokens", cost.prompt_tokens},
                    {"input_tokens_details", {{"cached_tokens", cached_tokens(cost)}}},
                    {"output_tokens", cost.answer_tokens},
                    {"output_tokens_details", {{"reasoning_tokens", 0}}},
                    {"total_tokens", cost.prompt_tokens + cost.answer_tokens},
                    {"permllm", costs_of(made->costs)}};
    return all;
  }

  std::string say(const std::string& type, const Json& fields) {
    Json all{{"type", type}, {"sequence_number", said_++}};
    all.update(fields);
    return event(all, type);
  }
  Json part_place() const { return {{"item_id", id_}, {"output_index", output_.size()}, {"content_index", 0}}; }
  std::string say_in_part(const char* type, const char* name, const Json& value) {
    Json all = part_place();
    all[name] = value;
    return say(type, all);
  }

  std::string open(Piece::Kind kind) {
    open_ = kind;
    text_.clear();
    const bool thought = kind == Piece::Kind::thought;
    const std::string id = random_id(24);
    Json item = thought ? thought_item(id, "") : text_item(id, "", Json::array(), false);
    id_ = item["id"];
    item["content"] = Json::array();
    if (!thought) item["status"] = "in_progress";
    std::string out = say("response.output_item.added", {{"output_index", output_.size()}, {"item", item}});
    return out += say_in_part("response.content_part.added", "part",
                              thought ? thought_part("") : text_part("", Json::array()));
  }
  std::string close(bool to_the_end = true) {
    if (!open_) return {};
    const bool thought = *std::exchange(open_, std::nullopt) == Piece::Kind::thought;
    std::string out;
    if (thought) {
      out = say_in_part("response.reasoning_text.done", "text", text_);
    } else {
      Json done = part_place();
      done["text"] = text_;
      done["logprobs"] = logprobs_;
      out = say("response.output_text.done", done);
    }
    const std::string bare = id_.substr(id_.find('_') + 1);
    const Json part = thought ? thought_part(text_) : text_part(text_, logprobs_);
    const Json item = thought ? thought_item(bare, text_) : text_item(bare, text_, logprobs_, to_the_end);
    out += say_in_part("response.content_part.done", "part", part);
    out += say("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
    output_.push_back(item);
    return out;
  }
  std::string call_events(const Call& call) {
    const Json item = call_item(random_id(24), call);
    Json begun = item;
    begun["arguments"] = "";
    begun["status"] = "in_progress";
    const Json place{{"item_id", item["id"]}, {"output_index", output_.size()}};
    Json delta = place, done = place;
    delta["delta"] = done["arguments"] = call.call.arguments;
    done["name"] = call.call.name;
    std::string out = say("response.output_item.added", {{"output_index", output_.size()}, {"item", begun}});
    out += say("response.function_call_arguments.delta", delta);
    out += say("response.function_call_arguments.done", done);
    out += say("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
    output_.push_back(item);
    return out;
  }

  const Request& request_;
  const Head& head_;
  std::size_t said_ = 0;
  Json output_ = Json::array(), logprobs_ = Json::array();
  std::optional<Piece::Kind> open_;  // the item under way, its id and its text
  std::string id_, text_;
};

}  // namespace

Request OpenAiResponses::read(std::string_view body) const {
  const In in = parse_body(body);
  Request request;
  read_fields(request, in, {&response_fields(), &sampling_fields()});
  if (request.messages.empty()) wrong("input", "a string, not empty, or a list of items");
  if (const In first = in.value("instructions", In()); first.is_string() && !first.get<std::string>().empty()) {
    if (request.messages.front().role == "system") {  // templates know of one
      request.messages.front().content = first.get<std::string>() + "\n\n" + request.messages.front().content;
    } else {
      request.messages.insert(request.messages.begin(), {"system", first.get<std::string>()});
    }
  }
  complete(request, in, "input", "tool_choice", "tool_choice.name");
  return request;
}

std::unique_ptr<AnswerWriter> OpenAiResponses::writer(const Request& request, const Head& head, std::size_t) const {
  return std::make_unique<ResponseWriter>(request, head);
}

Json OpenAiResponses::error(const Refusal& refusal) const { return openai_error(refusal); }

}  // namespace permllm::gateway
