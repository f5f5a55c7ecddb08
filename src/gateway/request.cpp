// Requests, field by field: what is not honoured is refused by name.
#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "gateway/openai.h"

namespace permllm::openai {
namespace {

using In = Json;

constexpr int k_most_depth = 32;

[[noreturn]] void wrong(const std::string& field, const std::string& expected) {
  throw Error(Code::usage, field, "expected " + expected);
}
[[noreturn]] void unsupported(const std::string& field, const std::string& why) {
  throw Error(Code::unsupported, field, why);
}

In parse(std::string_view body) {
  std::vector<std::set<std::string>> keys;  // of the objects that are not closed yet
  const auto check = [&](int depth, In::parse_event_t event, const In& value) {
    if (depth > k_most_depth)
      throw Error(Code::usage, "body", fmt::format("is nested more than {} levels deep", k_most_depth));
    if (event == In::parse_event_t::object_start) keys.emplace_back();
    if (event == In::parse_event_t::object_end) keys.pop_back();
    if (event == In::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      throw Error(Code::usage, fmt::format("{:.64}", value.get<std::string>()), "is given twice");
    }
    return true;
  };
  try {
    In in = In::parse(body, check);
    if (!in.is_object()) throw Error(Code::usage, "body", "expected a JSON object");
    return in;
  } catch (const In::parse_error& error) {  // its own words quote the text
    throw Error(Code::usage, "body", fmt::format("is no JSON, at byte {}", error.byte));
  } catch (const In::exception&) {
    throw Error(Code::usage, "body", "is no JSON: a number is too large");
  }
}

double number(const In& value, const std::string& field, double least, double most) {
  const double x = value.is_number() ? value.get<double>() : NAN;
  if (!(x >= least && x <= most)) wrong(field, fmt::format("a number from {} to {}", least, most));
  return x;
}

std::size_t whole_number(const In& value, const std::string& field, std::uint64_t least, std::uint64_t most) {
  const bool whole = value.is_number_integer() && (value.is_number_unsigned() || value.get<std::int64_t>() >= 0);
  if (!whole || value.get<std::uint64_t>() < least || value.get<std::uint64_t>() > most) {
    wrong(field, most < UINT32_MAX ? fmt::format("a whole number from {} to {}", least, most)
                                   : fmt::format("a whole number of at least {}", least));
  }
  return value.get<std::uint64_t>();
}

bool truth(const In& value, const std::string& field) {
  if (!value.is_boolean()) wrong(field, "true or false");
  return value.get<bool>();
}

std::string text(const In& value, const std::string& field) {
  if (!value.is_string()) wrong(field, "a string");
  return value.get<std::string>();
}

bool empty(const In& value) { return value.is_null() || ((value.is_array() || value.is_object()) && value.empty()); }

std::string content_of(const In& content, const std::string& field) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array() || content.empty()) wrong(field, "a string, or a list of text parts");
  std::string all;
  for (std::size_t i = 0; i < content.size(); ++i) {
    const In& part = content[i];
    const std::string at = fmt::format("{}[{}]", field, i);
    if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) wrong(at, "an object with a type");
    if (part["type"] != "text") unsupported(at + ".type", "only text parts are taken: the model reads text alone");
    if (!part.contains("text")) wrong(at + ".text", "a string");
    for (const auto& [key, value] : part.items()) {
      if (key != "type" && key != "text" && !value.is_null()) throw Error(Code::usage, at + "." + key, "is not known");
    }
    all += (i > 0 ? "\n" : "") + text(part["text"], at + ".text");
  }
  return all;
}

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
    const std::string arguments =
        call["function"].value("arguments", In()).is_string() ? call["function"]["arguments"].get<std::string>() : "{}";
    const Json parsed = parse_shallow(arguments);
    all.push_back(
        {{"id", call.contains("id") ? text(call["id"], here + ".id") : ""},
         {"type", "function"},
         {"function",
          {{"name", call["function"]["name"]}, {"arguments", parsed.is_object() ? parsed : Json(arguments)}}}});
  }
  return all.empty() ? "" : dump(all);
}

std::vector<Message> messages_of(const In& in) {
  if (!in.is_array() || in.empty()) wrong("messages", "a list of at least one message");
  std::vector<Message> messages;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::string at = fmt::format("messages[{}]", i);
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

using Field = std::function<void(Request&, const In&)>;
using Fields = std::map<std::string, Field>;

Field refused(
    const std::string& name, const std::string& why,
    const std::function<bool(const In&)>& harmless = [](const In&) { return false; }) {
  return [=](Request&, const In& value) {
    if (!harmless(value)) unsupported(name, why);
  };
}

// A text that changes nothing here.
Field without_effect(const std::string& name) {
  return [=](Request&, const In& value) { text(value, name); };
}

void stop_of(Request& request, const In& value) {
  const auto add = [&](const In& one) {
    if (!one.is_string() || one.get<std::string>().empty())
      wrong("stop", "a string, or up to four of them, none empty");
    request.answer.stop.push_back(one.get<std::string>());
  };
  if (value.is_array()) {
    if (value.size() > 4) wrong("stop", "at most four strings");
    for (const In& one : value) add(one);
  } else {
    add(value);
  }
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
    const std::string name = function.contains("name") ? text(function["name"], at + ".function.name") : "";
    const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '-';
    });
    if (name.empty() || name.size() > 64 || !plain)
      wrong(at + ".function.name", "up to 64 letters, digits, underscores or dashes");
    if (function.contains("description") && !function["description"].is_null())
      text(function["description"], at + ".function.description");
    if (function.contains("parameters") && !function["parameters"].is_null() && !function["parameters"].is_object())
      wrong(at + ".function.parameters", "a JSON schema");
    Json known{{"name", name}};
    for (const char* key : {"description", "parameters"}) {
      if (function.contains(key) && !function[key].is_null()) known[key] = function[key];
    }
    request.tools.push_back({{"type", "function"}, {"function", known}});
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

void response_format_of(Request& request, const In& value) {
  const In type = value.is_object() ? value.value("type", In()) : In();
  if (type == "text") return;
  if (type == "json_object") {
    request.form = std::make_shared<const JsonSchema>(JsonSchema::any_object());
  } else if (type == "json_schema") {
    const In of = value.value("json_schema", In());
    if (!of.is_object() || !of.contains("schema")) wrong("response_format.json_schema.schema", "a JSON schema");
    request.form = std::make_shared<const JsonSchema>(of["schema"], "response_format.json_schema.schema");
  } else {
    wrong("response_format.type", "text, json_object or json_schema");
  }
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

const Fields& shared_fields() {
  const auto is_zero = [](const In& v) { return v.is_number() && v.get<double>() == 0; };
  constexpr const char* k_distribution = "the answer is chosen among the model's own logits, which are not changed";
  static const Fields fields{
      {"model", [](Request& r, const In& v) { r.model = text(v, "model"); }},
      {"stream", [](Request& r, const In& v) { r.stream = truth(v, "stream"); }},
      {"stream_options", stream_options_of},
      {"max_tokens", [](Request& r, const In& v) { r.max_tokens = whole_number(v, "max_tokens", 1, UINT32_MAX); }},
      {"temperature", [](Request& r, const In& v) { r.answer.temperature = number(v, "temperature", 0, 2); }},
      {"top_p", [](Request& r,
                   const In& v) { r.answer.top_p = std::max(number(v, "top_p", 0, 1), 1e-9); }},  // 0 is the best token
      {"top_k", [](Request& r, const In& v) { r.answer.top_k = whole_number(v, "top_k", 0, UINT32_MAX); }},
      {"min_p", [](Request& r, const In& v) { r.answer.min_p = number(v, "min_p", 0, 1); }},
      {"seed",
       [](Request& r, const In& v) {
         if (!v.is_number_integer()) wrong("seed", "a whole number");
         r.answer.seed =
             v.is_number_unsigned() ? v.get<std::uint64_t>() : static_cast<std::uint64_t>(v.get<std::int64_t>());
       }},
      {"stop", stop_of},
      {"n", refused("n", "only one answer a request", [](const In& v) { return v == 1; })},
      {"user", without_effect("user")},
      {"logit_bias", refused("logit_bias", k_distribution, empty)},
      {"presence_penalty", refused("presence_penalty", k_distribution, is_zero)},
      {"frequency_penalty", refused("frequency_penalty", k_distribution, is_zero)},
  };
  return fields;
}

// Of chats alone.
Fields chat_fields() {
  constexpr const char* k_tools = "expected tools and tool_choice in its place";
  constexpr const char* k_text = "answers are plain text";
  const auto is = [](const char* word) { return [word](const In& v) { return v == word; }; };
  return {
      {"messages", [](Request& r, const In& v) { r.messages = messages_of(v); }},
      {"max_completion_tokens",
       [](Request& r, const In& v) { r.max_tokens = whole_number(v, "max_completion_tokens", 1, UINT32_MAX); }},
      {"parallel_tool_calls", [](Request& r, const In& v) { r.parallel = truth(v, "parallel_tool_calls"); }},
      {"tools", tools_of},
      {"tool_choice", tool_choice_of},
      {"response_format", response_format_of},
      {"format_tries", [](Request& r, const In& v) { r.tries = whole_number(v, "format_tries", 1, 8); }},
      {"prompt_cache_key", without_effect("prompt_cache_key")},
      {"prompt_cache_retention", without_effect("prompt_cache_retention")},
      {"safety_identifier", without_effect("safety_identifier")},
      {"reasoning_effort", without_effect("reasoning_effort")},
      {"verbosity", without_effect("verbosity")},
      {"store", refused("store", "nothing is stored", [](const In& v) { return v == false; })},
      {"metadata",
       [](Request&, const In& v) {
         if (!v.is_object()) wrong("metadata", "an object");
       }},
      {"service_tier",
       refused("service_tier", "expected auto or default", [](const In& v) { return v == "auto" || v == "default"; })},
      {"logprobs", [](Request& r, const In& v) { r.answer.log_probabilities = truth(v, "logprobs"); }},
      {"top_logprobs",
       refused("top_logprobs", "only the chosen token's is reported", [](const In& v) { return v == 0; })},
      {"functions", refused("functions", k_tools, empty)},
      {"function_call", refused("function_call", k_tools, is("none"))},
      {"modalities", refused("modalities", k_text, [](const In& v) { return v == In::array({"text"}); })},
      {"audio", refused("audio", k_text)},
  };
}

Fields completion_fields() {
  return {
      {"prompt",
       [](Request& r, const In& v) {
         const In& one = v.is_array() && v.size() == 1 ? v[0] : v;
         if (!one.is_string() || one.get<std::string>().empty())
           wrong("prompt", "a string, or a list of one, not empty");
         r.messages = {{"user", one.get<std::string>()}};
       }},
      {"best_of", refused("best_of", "only one answer a request", [](const In& v) { return v == 1; })},
      {"echo", refused("echo", "the prompt is not repeated", [](const In& v) { return v == false; })},
      {"suffix", refused("suffix", "text is continued at its end alone", [](const In& v) { return v == ""; })},
      {"logprobs", refused("logprobs", "probabilities are not reported")},
  };
}

Request read(const In& in, const Fields& fields, bool chat) {
  Request request;
  request.chat = chat;
  for (const auto& [key, value] : in.items()) {
    if (value.is_null()) continue;  // is how clients leave a field out, of this interface or of another's
    auto field = fields.find(key);
    if (field == fields.end()) {
      field = shared_fields().find(key);
      if (field == shared_fields().end())
        throw Error(Code::usage, fmt::format("{:.64}", key), "is not known here, and nothing is ignored silently");
    }
    field->second(request, value);
  }
  // Who narrows the choice wants one: the likeliest token needs none of these. OpenAI's temperature is 1 where none is given.
  const bool given = in.contains("temperature") && !in["temperature"].is_null();
  const AnswerOptions& how = request.answer;
  if (!given && (how.top_p < 1 || how.top_k > 0 || how.min_p > 0)) request.answer.temperature = 1;
  if (request.messages.empty())
    wrong(chat ? "messages" : "prompt", chat ? "a list of at least one message" : "a string");
  const std::vector<std::string> names = request.tool_names();
  if (request.calls == Request::Calls::required && names.empty())
    wrong("tool_choice", "none or auto where there are no tools");
  if (!request.tool.empty() && std::find(names.begin(), names.end(), request.tool) == names.end())
    wrong("tool_choice.function.name", "one of the tools'");
  if (request.include_usage && !request.stream) throw Error(Code::usage, "stream_options", "only goes with stream");
  return request;
}

}  // namespace

std::vector<std::string> Request::tool_names() const {
  std::vector<std::string> names;
  for (const Json& one : tools) names.push_back(one["function"]["name"]);
  return names;
}

Request parse_chat(std::string_view body) {
  const In in = parse(body);
  const In most = in.value("max_tokens", In()), twin = in.value("max_completion_tokens", In());
  if (!most.is_null() && !twin.is_null() && most != twin) {
    throw Error(Code::usage, "max_tokens", "is another than max_completion_tokens; give one of them");
  }
  return read(in, chat_fields(), true);
}

Request parse_completion(std::string_view body) { return read(parse(body), completion_fields(), false); }

Text parse_text(std::string_view body) {
  const In in = parse(body);
  Text all;
  for (const auto& [key, value] : in.items()) {
    if (value.is_null()) continue;
    if (key == "content") {
      all.content = text(value, "content");
    } else if (key == "messages") {
      all.messages = messages_of(value);
    } else if (key != "model") {
      throw Error(Code::usage, fmt::format("{:.64}", key), "is not known here");
    }
  }
  if (all.content.has_value() == !all.messages.empty())
    throw Error(Code::usage, "content", "expected either content or messages");
  return all;
}

}  // namespace permllm::openai
