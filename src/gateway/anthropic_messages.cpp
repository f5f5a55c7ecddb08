#include "gateway/anthropic_messages.h"

#include <fmt/format.h>

#include <utility>

#include "gateway/fields.h"

namespace permllm::gateway {
namespace {

using In = Json;

void only_known(const In& block, const std::string& at, std::initializer_list<const char*> known) {
  for (const auto& [key, value] : block.items()) {
    const auto is = [&, &name = key](const char* one) { return name == one; };
    if (!value.is_null() && !is("type") && !is("cache_control") && std::none_of(known.begin(), known.end(), is))
      throw Error(Code::usage, at + "." + key, "is not known");
  }
}

// A message's blocks: its text, an assistant's calls, and what came of calls, which are messages of their own.
void add_message(std::vector<Message>& messages, const In& in, const std::string& at) {
  if (!in.is_object()) wrong(at, "an object");
  only_known(in, at, {"role", "content"});
  const std::string role = text(in.value("role", In()), at + ".role");
  if (role != "user" && role != "assistant" && role != "system") wrong(at + ".role", "user or assistant");
  const In content = in.value("content", In());
  Message message{role, ""};
  if (content.is_string()) {
    message.content = content.get<std::string>();
    messages.push_back(message);
    return;
  }
  if (!content.is_array() || content.empty()) wrong(at + ".content", "a string, or a list of blocks");
  Json calls = Json::array();
  bool words = false, results = false;
  for (std::size_t i = 0; i < content.size(); ++i) {
    const In& block = content[i];
    const std::string here = fmt::format("{}.content[{}]", at, i);
    const In type = block.is_object() ? block.value("type", In()) : In();
    if (type == "text") {
      only_known(block, here, {"text", "citations"});
      if (std::exchange(words, true)) message.content += '\n';
      message.content += text(block.value("text", In()), here + ".text");
    } else if (type == "tool_use" && role == "assistant") {
      only_known(block, here, {"id", "name", "input", "caller"});
      const In input = block.value("input", In());
      if (!input.is_object()) wrong(here + ".input", "an object");
      calls.push_back(
          call_of(text(block.value("id", In()), here + ".id"), text(block.value("name", In()), here + ".name"), input));
    } else if (type == "tool_result" && role == "user") {
      only_known(block, here, {"tool_use_id", "content", "is_error"});
      const In result = block.value("content", In());
      messages.push_back({"tool", empty(result) ? "" : content_of(result, here + ".content"), "",
                          text(block.value("tool_use_id", In()), here + ".tool_use_id"), ""});
      results = true;
    } else if (type != "thinking" &&
               type != "redacted_thinking") {  // what a model thought before is no part of the dialogue
      unsupported(here + ".type", "only text, an assistant's tool_use and a user's tool_result are taken");
    }
  }
  if (!calls.empty()) message.tool_calls = dump(calls);
  if (words || !calls.empty() || !results) messages.push_back(message);
}

void messages_of(Request& request, const In& value) {
  if (!value.is_array() || value.empty()) wrong("messages", "a list of at least one message");
  for (std::size_t i = 0; i < value.size(); ++i)
    add_message(request.messages, value[i], fmt::format("messages[{}]", i));
  if (value.back()["role"] == "assistant")
    unsupported("messages", "an answer begins anew: the last message is a user's");
}

void tools_of(Request& request, const In& value) {
  if (!value.is_array()) wrong("tools", "a list");
  for (std::size_t i = 0; i < value.size(); ++i) {
    const In& tool = value[i];
    const std::string at = fmt::format("tools[{}]", i);
    if (!tool.is_object()) wrong(at, "an object");
    if (const In type = tool.value("type", In()); !type.is_null() && type != "custom")
      unsupported(at + ".type", "only tools of the client's own are called");
    request.tools.push_back(function_of(tool.value("name", In()), tool.value("description", In()),
                                        tool.value("input_schema", In()), at, "input_schema"));
  }
}

void tool_choice_of(Request& request, const In& value) {
  using Calls = Request::Calls;
  const In type = value.is_object() ? value.value("type", In()) : In();
  if (type == "auto" || type == "none") {
    request.calls = type == "none" ? Calls::none : Calls::if_it_likes;
  } else if (type == "any" || type == "tool") {
    request.calls = Calls::required;
    if (type == "tool") request.tool = text(value.value("name", In()), "tool_choice.name");
  } else {
    wrong("tool_choice.type", "auto, any, tool or none");
  }
  if (const In one = value.value("disable_parallel_tool_use", In()); !one.is_null())
    request.parallel = !truth(one, "tool_choice.disable_parallel_tool_use");
}

void output_config_of(Request& request, const In& value) {
  if (!value.is_object()) wrong("output_config", "an object");
  for (const auto& [key, field] : value.items()) {
    if (field.is_null()) continue;
    if (key == "effort") {
      text(field, "output_config.effort");
    } else if (key == "format") {
      if (!field.is_object()) wrong("output_config.format", "an object");
      form_of(request, field.value("type", In()), field.value("schema", In()), "output_config.format",
              "output_config.format.schema");
    } else {
      throw Error(Code::usage, "output_config." + key, "is not known");
    }
  }
}

void thinking_of(Request& request, const In& value) {
  const In type = value.is_object() ? value.value("type", In()) : In();
  if (type == "enabled" || type == "disabled") {
    request.think = type == "enabled";
  } else if (type != "adaptive") {
    wrong("thinking.type", "enabled, adaptive or disabled");
  }
}

const Fields& message_fields() {
  static const Fields fields{
      {"messages", messages_of},
      {"system", [](Request&, const In& v) { content_of(v, "system"); }},
      {"max_tokens", [](Request& r, const In& v) { r.max_tokens = whole_number(v, "max_tokens", 1, UINT32_MAX); }},
      {"stop_sequences",
       [](Request& r, const In& v) {
         if (!v.is_array()) wrong("stop_sequences", "a list");
         r.answer.stop = texts(v, "stop_sequences", 8);
       }},
      {"tools", tools_of},
      {"tool_choice", tool_choice_of},
      {"output_config", output_config_of},
      {"output_format",
       [](Request& r, const In& v) {
         output_config_of(r, {{"format", v}});
       }},
      {"thinking", thinking_of},
      {"metadata", object_without_effect("metadata")},
      {"cache_control", object_without_effect("cache_control")},
      {"service_tier", refused("service_tier", "expected auto or standard_only",
                               [](const In& v) { return v == "auto" || v == "standard_only"; })},
      {"mcp_servers", refused("mcp_servers", "only tools of the client's own are called", empty)},
      {"container", refused("container", "nothing is run here")},
      {"context_management", refused("context_management", "a dialogue is taken as it is", empty)},
  };
  return fields;
}

const char* stop_reason(const Choice& choice) {
  if (choice.end == Answer::End::length || choice.end == Answer::End::stock) return "max_tokens";
  if (!choice.calls.empty()) return "tool_use";
  return choice.stop.empty() ? "end_turn" : "stop_sequence";
}
Json stop_sequence(const Choice& choice) {
  return std::string_view(stop_reason(choice)) == "stop_sequence" ? Json(choice.stop) : Json(nullptr);
}

Json usage_of(std::size_t input, std::size_t cached, std::size_t output) {
  return {{"input_tokens", input},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", cached},
          {"output_tokens", output},
          {"service_tier", "standard"}};
}
Json usage_of(const Costs& costs) {
  const std::size_t cached = cached_tokens(costs.cost);
  Json usage = usage_of(costs.cost.prompt_tokens - cached, cached, costs.cost.answer_tokens);
  usage["permllm"] = costs_of(costs);
  return usage;
}

// What was said by the model in a call is an object as far as this program could read it.
Json input_of(const Call& call) {
  const Json input = parse_shallow(call.call.arguments);
  return input.is_object() ? input : Json::object();
}

Json error_of(const Refusal& refusal) {
  const char* type = refusal.status == 401   ? "authentication_error"
                     : refusal.status == 403 ? "permission_error"
                     : refusal.status == 404 ? "not_found_error"
                     : refusal.status == 413 ? "request_too_large"
                     : refusal.status == 429 ? "rate_limit_error"
                     : refusal.status == 503 ? "overloaded_error"
                     : refusal.status >= 500 ? "api_error"
                                             : "invalid_request_error";
  // A person reads the message alone, so the parameter stands in it.
  const std::string_view said = refusal.message;
  const bool named = !refusal.param.empty() && !said.starts_with(refusal.param);
  Json error{{"type", type}, {"message", named ? refusal.param + ": " + refusal.message : refusal.message}};
  if (!refusal.code.empty()) error["code"] = refusal.code;
  if (!refusal.plain.empty()) error["plain"] = refusal.plain;
  return {{"type", "error"}, {"error", error}};
}

class MessageWriter : public AnswerWriter {
 public:
  MessageWriter(const Head& head, std::size_t prompt_tokens) : head_(head), prompt_tokens_(prompt_tokens) {}

  Json whole(const Made& made) override {
    const Choice& choice = made.choices.front();
    Json content = Json::array();
    if (!choice.thought.empty())
      content.push_back({{"type", "thinking"}, {"thinking", choice.thought}, {"signature", ""}});
    if (!choice.text.empty()) content.push_back({{"type", "text"}, {"text", choice.text}});
    for (const Call& call : choice.calls) {
      content.push_back({{"type", "tool_use"}, {"id", call.id}, {"name", call.call.name}, {"input", input_of(call)}});
    }
    Json all = message(usage_of(made.costs));
    all["content"] = content;
    all["stop_reason"] = stop_reason(choice);
    all["stop_sequence"] = stop_sequence(choice);
    return all;
  }

  std::string begin() override { return say("message_start", {{"message", message(usage_of(prompt_tokens_, 0, 0))}}); }
  std::string ping() override { return say("ping", Json::object()); }
  std::string piece(const Piece& piece) override {
    std::string out;
    if (open_ != piece.kind || piece.kind == Piece::Kind::call) {
      out = close();
      open_ = piece.kind;
      out += say("content_block_start", {{"index", blocks_}, {"content_block", block_of(piece)}});
    }
    switch (piece.kind) {
      case Piece::Kind::thought:
        return out += delta({{"type", "thinking_delta"}, {"thinking", piece.text}});
      case Piece::Kind::text:
        return out += delta({{"type", "text_delta"}, {"text", piece.text}});
      case Piece::Kind::call:
        break;
    }
    out += delta({{"type", "input_json_delta"}, {"partial_json", piece.call.call.arguments}});
    return out += close();
  }
  std::string end(const Made& made) override {
    const Choice& choice = made.choices.front();
    std::string out = close();
    out += say("message_delta",
               {{"delta", {{"stop_reason", stop_reason(choice)}, {"stop_sequence", stop_sequence(choice)}}},
                {"usage", usage_of(made.costs)}});
    return out += say("message_stop", Json::object());
  }
  std::string fail(const Refusal& refusal) override { return event(error_of(refusal), "error"); }

 private:
  Json message(const Json& usage) const {
    return {{"id", "msg_" + head_.id},  {"type", "message"},      {"role", "assistant"},      {"model", head_.model},
            {"content", Json::array()}, {"stop_reason", nullptr}, {"stop_sequence", nullptr}, {"usage", usage}};
  }
  // As it begins.
  static Json block_of(const Piece& piece) {
    switch (piece.kind) {
      case Piece::Kind::thought:
        return {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
      case Piece::Kind::text:
        return {{"type", "text"}, {"text", ""}};
      case Piece::Kind::call:
        break;
    }
    return {{"type", "tool_use"}, {"id", piece.call.id}, {"name", piece.call.call.name}, {"input", Json::object()}};
  }
  static std::string say(const char* type, const Json& fields) {
    Json all{{"type", type}};
    all.update(fields);
    return event(all, type);
  }
  std::string delta(const Json& of) const { return say("content_block_delta", {{"index", blocks_}, {"delta", of}}); }
  std::string close() {
    return std::exchange(open_, std::nullopt) ? say("content_block_stop", {{"index", blocks_++}}) : "";
  }

  const Head& head_;
  const std::size_t prompt_tokens_;
  std::size_t blocks_ = 0;  // that are closed
  std::optional<Piece::Kind> open_;
};

}  // namespace

Request AnthropicMessages::read(std::string_view body, bool counted) const {
  const In in = parse_body(body);
  Request request;
  read_fields(request, in, {&message_fields(), &sampling_fields()});
  if (!counted && !request.max_tokens) wrong("max_tokens", "a whole number of at least 1");
  if (const In system = in.value("system", In()); !empty(system)) {
    if (const std::string words = content_of(system, "system"); !words.empty())
      request.messages.insert(request.messages.begin(), {"system", words});
  }
  complete(request, in, "messages", "tool_choice", "tool_choice.name");
  return request;
}
Request AnthropicMessages::read(std::string_view body) const { return read(body, false); }

std::unique_ptr<AnswerWriter> AnthropicMessages::writer(const Request&, const Head& head,
                                                        std::size_t prompt_tokens) const {
  return std::make_unique<MessageWriter>(head, prompt_tokens);
}

Json AnthropicMessages::error(const Refusal& refusal) const { return error_of(refusal); }

}  // namespace permllm::gateway
