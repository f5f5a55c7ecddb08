#include "gateway/openai_chat.h"

#include <fmt/format.h>

namespace permllm::gateway {
namespace {

using In = Json;

// An assistant's calls of before, their arguments an object where they are one.
std::string calls_of(const In& calls, const std::string& at) {
  if (!calls.is_array()) wrong(at, "a list of calls");
  Json all = Json::array();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const In& call = calls[i];
    const std::string here = fmt::format("{}[{}]", at, i);
    const bool is_call = call.is_object() && call.contains("function") && call["function"].is_object() &&
                         call["function"].contains("name") && call["function"]["name"].is_string();
    if (!is_call) wrong(here, "an object with a function, which has a name and arguments");
    const Json arguments = call["function"].value("arguments", In());
    all.push_back(call_of(call.contains("id") ? text(call["id"], here + ".id") : "", call["function"]["name"],
                          arguments.is_string() ? arguments : In()));
  }
  return all.empty() ? "" : dump(all);
}

void tools_of(Request& request, const In& value) {
  if (!value.is_array()) wrong("tools", "a list");
  for (std::size_t i = 0; i < value.size(); ++i) {
    const In& tool = value[i];
    const std::string at = fmt::format("tools[{}]", i);
    if (!tool.is_object() || !tool.contains("type") || !tool["type"].is_string()) wrong(at, "an object with a type");
    if (tool["type"] != "function") unsupported(at + ".type", "only functions are called");
    if (!tool.contains("function") || !tool["function"].is_object()) wrong(at + ".function", "an object");
    const In& function = tool["function"];
    request.tools.push_back(function_of(function.value("name", In()), function.value("description", In()),
                                        function.value("parameters", In()), at + ".function", "parameters"));
  }
}

void tool_choice_of(Request& request, const In& value) {
  using Calls = Request::Calls;
  if (value == "none" || value == "auto") {
    request.calls = value == "none" ? Calls::none : Calls::if_it_likes;
  } else if (value == "required") {
    request.calls = Calls::required;
  } else if (value.is_object() && value.value("type", In()) == "function" && value.contains("function") &&
             value["function"].is_object()) {
    request.calls = Calls::required;
    request.tool = text(value["function"].value("name", In()), "tool_choice.function.name");
  } else {
    wrong("tool_choice", "none, auto, required, or a function by its name");
  }
}

void template_arguments_of(Request& request, const In& value) {
  if (!value.is_object()) wrong("chat_template_kwargs", "an object");
  for (const auto& [key, argument] : value.items()) {
    if (key != "enable_thinking")
      throw Error(Code::usage, fmt::format("chat_template_kwargs.{:.64}", key), "is not known; enable_thinking is");
    if (!argument.is_null()) request.think = truth(argument, "chat_template_kwargs.enable_thinking");
  }
}

void response_format_of(Request& request, const In& value) {
  const In of = value.is_object() ? value.value("json_schema", In()) : In();
  form_of(request, value.is_object() ? value.value("type", In()) : In(),
          of.is_object() ? of.value("schema", In()) : In(), "response_format", "response_format.json_schema.schema");
}

void stream_options_of(Request& request, const In& value) {
  if (!value.is_object()) wrong("stream_options", "an object");
  for (const auto& [key, option] : value.items()) {
    if (option.is_null()) continue;
    if (key == "include_usage") {
      request.include_usage = truth(option, "stream_options.include_usage");
    } else if (key == "include_obfuscation") {
      truth(option, "stream_options.include_obfuscation");
    } else {
      throw Error(Code::usage, "stream_options." + key, "is not known");
    }
  }
}

// Of chats and completions.
const Fields& shared_fields() {
  static const Fields fields{
      {"stream_options", stream_options_of},
      {"max_tokens", [](Request& r, const In& v) { r.max_tokens = whole_number(v, "max_tokens", 1, UINT32_MAX); }},
      {"stop", [](Request& r, const In& v) { r.answer.stop = texts(v, "stop", 4); }},
      {"n", [](Request& r, const In& v) { r.choices = whole_number(v, "n", 1, 16); }},
      {"user", text_without_effect("user")},
  };
  return fields;
}

const Fields& chat_fields() {
  constexpr const char* k_tools = "expected tools and tool_choice in its place";
  constexpr const char* k_text = "answers are plain text";
  const auto is = [](const char* word) { return [word](const In& v) { return v == word; }; };
  static const Fields fields{
      {"messages", [](Request& r, const In& v) { r.messages = openai_messages(v, "messages"); }},
      {"max_completion_tokens",
       [](Request& r, const In& v) { r.max_tokens = whole_number(v, "max_completion_tokens", 1, UINT32_MAX); }},
      {"continue_final_message",
       [](Request& r, const In& v) { r.answer.goes_on = truth(v, "continue_final_message"); }},
      {"draft", [](Request& r, const In& v) { r.answer.draft = whole_number(v, "draft", 0, k_most_draft); }},
      {"chat_template_kwargs", template_arguments_of},
      {"parallel_tool_calls", [](Request& r, const In& v) { r.parallel = truth(v, "parallel_tool_calls"); }},
      {"tools", tools_of},
      {"tool_choice", tool_choice_of},
      {"response_format", response_format_of},
      {"prompt_cache_key", text_without_effect("prompt_cache_key")},
      {"prompt_cache_retention", text_without_effect("prompt_cache_retention")},
      {"safety_identifier", text_without_effect("safety_identifier")},
      {"reasoning_effort", text_without_effect("reasoning_effort")},
      {"verbosity", text_without_effect("verbosity")},
      {"store", refused("store", "nothing is stored", [](const In& v) { return v == false; })},
      {"metadata", object_without_effect("metadata")},
      {"service_tier",
       refused("service_tier", "expected auto or default", [](const In& v) { return v == "auto" || v == "default"; })},
      {"logprobs", [](Request& r, const In& v) { r.answer.log_probabilities = truth(v, "logprobs"); }},
      {"top_logprobs", [](Request& r, const In& v) { r.answer.top_logprobs = whole_number(v, "top_logprobs", 0, 20); }},
      {"functions", refused("functions", k_tools, empty)},
      {"function_call", refused("function_call", k_tools, is("none"))},
      {"modalities", refused("modalities", k_text, [](const In& v) { return v == In::array({"text"}); })},
      {"audio", refused("audio", k_text)},
  };
  return fields;
}

const Fields& completion_fields() {
  static const Fields fields{
      {"prompt",
       [](Request& r, const In& v) {
         const In& one = v.is_array() && v.size() == 1 ? v[0] : v;
         if (!one.is_string() || one.get<std::string>().empty())
           wrong("prompt", "a string, or a list of one, not empty");
         r.messages = {{"user", one.get<std::string>()}};
       }},
      {"best_of", without_effect()},
      {"echo", refused("echo", "the prompt is not repeated", [](const In& v) { return v == false; })},
      {"suffix", refused("suffix", "text is continued at its end alone", [](const In& v) { return v == ""; })},
      {"logprobs",
       [](Request& r, const In& v) {
         r.answer.log_probabilities = true;
         r.answer.top_logprobs = whole_number(v, "logprobs", 0, 5);
       }},
  };
  return fields;
}

Request read(const In& in, const Fields& fields, bool chat) {
  Request request;
  request.chat = chat;
  read_fields(request, in, {&fields, &shared_fields(), &sampling_fields()});
  complete(request, in, chat ? "messages" : "prompt", "tool_choice", "tool_choice.function.name");
  if (request.answer.goes_on) {
    if (request.messages.size() < 2 || request.messages.back().role != "assistant" ||
        !request.messages.back().tool_calls.empty())
      wrong("continue_final_message", "a last message of the assistant, with its text alone, behind another");
    if (request.may_call() || request.form)
      throw Error(Code::usage, "continue_final_message", "does not go with tools or response_format");
  }
  if (request.include_usage && !request.stream) throw Error(Code::usage, "stream_options", "only goes with stream");
  if (request.answer.top_logprobs > 0 && !request.answer.log_probabilities)
    throw Error(Code::usage, "top_logprobs", "only goes with logprobs");
  return request;
}

Json bytes_of(const std::string& text) {
  Json all = Json::array();
  for (const char byte : text) all.push_back(static_cast<unsigned char>(byte));
  return all;
}

Json chance_of(const Answer::Chance& chance) {
  return {{"token", chance.bytes}, {"logprob", chance.log_probability}, {"bytes", bytes_of(chance.bytes)}};
}

// As completions have them.
Json plain_logprobs_of(const std::vector<Answer::Chance>& chances, bool likeliest) {
  if (chances.empty()) return nullptr;
  Json tokens = Json::array(), logprobs = Json::array(), top = Json::array(), offsets = Json::array();
  std::size_t offset = 0;
  for (const Answer::Chance& chance : chances) {
    tokens.push_back(chance.bytes);
    logprobs.push_back(chance.log_probability);
    offsets.push_back(offset);
    offset += chance.bytes.size();
    Json these = Json::object();
    for (const Answer::Chance& one : chance.likeliest) these[one.bytes] = one.log_probability;
    top.push_back(std::move(these));
  }
  return {{"tokens", tokens},
          {"token_logprobs", logprobs},
          {"top_logprobs", likeliest ? top : Json(nullptr)},
          {"text_offset", offsets}};
}

// In streams that end with the usage it is null before.
class ChatWriter : public AnswerWriter {
 public:
  ChatWriter(const Request& request, const Head& head) : request_(request), head_(head) {}

  Json whole(const Made& made) override {
    Json all = head(request_.chat ? "chat.completion" : "text_completion");
    all["choices"] = Json::array();
    for (const Choice& choice : made.choices) {
      Json one{{"index", all["choices"].size()}};
      if (request_.chat) {
        one["message"] = message_of(choice);
      } else {
        one["text"] = choice.text;
      }
      one["logprobs"] = logprobs(choice);
      one["finish_reason"] = openai_finish(choice);
      all["choices"].push_back(one);
    }
    all["usage"] = openai_usage(made.costs);
    return all;
  }

  std::string begin() override { return begin_choice(0); }
  std::string piece(const Piece& piece) override {
    std::string out = begin_choice(piece.choice);
    switch (piece.kind) {
      case Piece::Kind::thought:
        if (!request_.chat) return out;
        return out + event(chunk(piece.choice, {{"reasoning_content", piece.text}}));
      case Piece::Kind::text:
        return out + event(chunk(piece.choice, request_.chat ? Json{{"content", piece.text}} : Json(piece.text)));
      case Piece::Kind::call:
        break;
    }
    const std::size_t index = calls_[piece.choice]++;
    const auto delta = [&](const Json& of) { return event(chunk(piece.choice, {{"tool_calls", Json::array({of})}})); };
    return out +
           delta({{"index", index},
                  {"id", piece.call.id},
                  {"type", "function"},
                  {"function", {{"name", piece.call.call.name}, {"arguments", ""}}}}) +
           delta({{"index", index}, {"function", {{"arguments", piece.call.call.arguments}}}});
  }
  std::string end(const Made& made) override {
    std::string out;
    for (std::size_t i = 0; i < made.choices.size(); ++i) {
      out += begin_choice(i);
      Json last = chunk(i, request_.chat ? Json::object() : Json(""), openai_finish(made.choices[i]));
      last["choices"][0]["logprobs"] = logprobs(made.choices[i]);
      // In every stream it is told that numbers were out of range.
      if (made.costs.out_of_range > 0 && i + 1 == made.choices.size())
        last["permllm"] = {{"out_of_range", made.costs.out_of_range}, {"trusted_tokens", made.costs.trusted_tokens}};
      out += event(last);
    }
    if (request_.include_usage) {
      Json usage = head(request_.chat ? "chat.completion.chunk" : "text_completion");
      usage["choices"] = Json::array();
      usage["usage"] = openai_usage(made.costs);
      out += event(usage);
    }
    return out + "data: [DONE]\n\n";
  }
  std::string fail(const Refusal& refusal) override { return event(openai_error(refusal)); }

 private:
  Json head(const char* object) const {
    return {{"id", (request_.chat ? "chatcmpl-" : "cmpl-") + head_.id},
            {"object", object},
            {"created", head_.created},
            {"model", head_.model},
            {"system_fingerprint", head_.fingerprint}};
  }
  Json chunk(std::size_t choice, const Json& delta_or_text, const char* finish = nullptr) const {
    Json all = head(request_.chat ? "chat.completion.chunk" : "text_completion");
    all["choices"] = Json::array({{{"index", choice},
                                   {request_.chat ? "delta" : "text", delta_or_text},
                                   {"logprobs", nullptr},
                                   {"finish_reason", finish == nullptr ? Json(nullptr) : Json(finish)}}});
    if (request_.include_usage) all["usage"] = nullptr;
    return all;
  }
  std::string begin_choice(std::size_t choice) {
    if (choice < calls_.size()) return {};
    calls_.resize(choice + 1);
    return request_.chat ? event(chunk(choice, {{"role", "assistant"}, {"content", ""}})) : "";
  }
  static Json message_of(const Choice& choice) {
    Json message{{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    if (!choice.calls.empty() && choice.text.empty()) message["content"] = nullptr;
    if (!choice.thought.empty()) message["reasoning_content"] = choice.thought;
    for (const Call& call : choice.calls) {
      message["tool_calls"].push_back({{"id", call.id},
                                       {"type", "function"},
                                       {"function", {{"name", call.call.name}, {"arguments", call.call.arguments}}}});
    }
    return message;
  }
  Json logprobs(const Choice& choice) const {
    if (!request_.chat) return plain_logprobs_of(choice.log_probabilities, request_.answer.top_logprobs > 0);
    if (choice.log_probabilities.empty()) return nullptr;
    return {{"content", openai_logprobs(choice.log_probabilities)}, {"refusal", nullptr}};
  }

  const Request& request_;
  const Head& head_;
  std::vector<std::size_t> calls_;  // so far, of each choice that has begun
};

}  // namespace

std::vector<Message> openai_messages(const In& in, const std::string& field) {
  if (!in.is_array() || in.empty()) wrong(field, "a list of at least one message");
  std::vector<Message> messages;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::string at = fmt::format("{}[{}]", field, i);
    if (!in[i].is_object()) wrong(at, "an object");
    Message message;
    bool content = false;
    for (const auto& [key, value] : in[i].items()) {
      if (value.is_null()) continue;  // is how clients leave a field out, here as anywhere
      if (key == "role") {
        message.role = text(value, at + ".role");
        if (message.role == "developer") message.role = "system";
        if (message.role == "function") unsupported(at + ".role", "expected tool in its place");
        if (message.role != "system" && message.role != "user" && message.role != "assistant" && message.role != "tool")
          wrong(at + ".role", "system, developer, user, assistant or tool");
      } else if (key == "content") {
        message.content = content_of(value, at + ".content");
        content = true;
      } else if (key == "name") {
        message.name = text(value, at + ".name");
      } else if (key == "tool_call_id") {
        message.tool_call_id = text(value, at + ".tool_call_id");
      } else if (key == "tool_calls") {
        message.tool_calls = calls_of(value, at + ".tool_calls");
      } else if (key == "reasoning_content" || key == "reasoning") {
        text(value, at + "." + key);  // what a model thought before is no part of the dialogue
      } else if (key == "function_call" || key == "refusal" || key == "audio" || key == "annotations") {
        if (!empty(value))
          unsupported(at + "." + key, "only text is taken");  // clients send an answer's empty ones back
      } else {
        throw Error(Code::usage, at + "." + key, "is not known");
      }
    }
    if (message.role.empty()) wrong(at + ".role", "system, developer, user, assistant or tool");
    if (message.role != "assistant" && !message.tool_calls.empty())
      wrong(at + ".tool_calls", "none but of an assistant");
    if (message.role == "tool" && message.tool_call_id.empty())
      wrong(at + ".tool_call_id", "the id of the call that is answered");
    if (message.role != "tool") message.name.clear();  // no template says who else speaks
    if (!content && message.tool_calls.empty()) wrong(at + ".content", "a string, or a list of text parts");
    messages.push_back(std::move(message));
  }
  return messages;
}

Json openai_error(const Refusal& refusal) {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
  Json error{{"message", refusal.message},
             {"type", refusal.type},
             {"param", or_null(refusal.param)},
             {"code", or_null(refusal.code)}};
  if (!refusal.plain.empty()) error["plain"] = refusal.plain;
  if (!refusal.reason.empty()) error["reason"] = refusal.reason;
  return {{"error", error}};
}

Json OpenAiChat::error(const Refusal& refusal) const { return openai_error(refusal); }

Json openai_usage(const Costs& costs) {
  const Answer::Cost& c = costs.cost;
  return {{"prompt_tokens", c.prompt_tokens},
          {"completion_tokens", c.answer_tokens},
          {"total_tokens", c.prompt_tokens + c.answer_tokens},
          {"prompt_tokens_details", {{"cached_tokens", cached_tokens(c)}}},
          {"permllm", costs_of(costs)}};
}

const char* openai_finish(const Choice& choice) {
  if (choice.end == Answer::End::length || choice.end == Answer::End::stock) return "length";
  return choice.calls.empty() ? "stop" : "tool_calls";
}

Json openai_logprobs(const std::vector<Answer::Chance>& chances) {
  Json content = Json::array();
  for (const Answer::Chance& chance : chances) {
    Json one = chance_of(chance), likeliest = Json::array();
    for (const Answer::Chance& other : chance.likeliest) likeliest.push_back(chance_of(other));
    one["top_logprobs"] = likeliest;
    content.push_back(one);
  }
  return content;
}

Request OpenAiChat::read(std::string_view body) const {
  const In in = parse_body(body);
  const In most = in.value("max_tokens", In()), twin = in.value("max_completion_tokens", In());
  if (!most.is_null() && !twin.is_null() && most != twin) {
    throw Error(Code::usage, "max_tokens", "is another than max_completion_tokens; give one of them");
  }
  return gateway::read(in, chat_fields(), true);
}

Request OpenAiCompletions::read(std::string_view body) const {
  const In in = parse_body(body);
  const Request request = gateway::read(in, completion_fields(), false);
  const In best = in.value("best_of", In());
  if (!best.is_null() && best != request.choices) unsupported("best_of", "each answer that is made is given back: n");
  return request;
}

std::unique_ptr<AnswerWriter> OpenAiChat::writer(const Request& request, const Head& head, std::size_t) const {
  return std::make_unique<ChatWriter>(request, head);
}

Text read_text(std::string_view body) {
  const In in = parse_body(body);
  Text all;
  for (const auto& [key, value] : in.items()) {
    if (value.is_null()) continue;
    if (key == "content") {
      all.content = text(value, "content");
    } else if (key == "messages") {
      all.messages = openai_messages(value, "messages");
    } else if (key == "model") {
      all.model = text(value, "model");
    } else {
      throw Error(Code::usage, fmt::format("{:.64}", key), "is not known here");
    }
  }
  if (all.content.has_value() == !all.messages.empty())
    throw Error(Code::usage, "content", "expected either content or messages");
  return all;
}

Tokens read_tokens(std::string_view body) {
  const In in = parse_body(body);
  Tokens all;
  for (const auto& [key, value] : in.items()) {
    if (value.is_null()) continue;
    if (key == "model") {
      all.model = text(value, "model");
    } else if (key == "tokens") {
      if (!value.is_array()) wrong("tokens", "a list of ids");
      for (const In& id : value)
        all.ids.push_back(static_cast<std::uint32_t>(whole_number(id, "tokens", 0, UINT32_MAX - 1)));
    } else {
      throw Error(Code::usage, fmt::format("{:.64}", key), "is not known here");
    }
  }
  return all;
}

}  // namespace permllm::gateway
