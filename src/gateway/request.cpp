// Requests, field by field: what is not honoured is refused by name.
#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "gateway/openai.h"

namespace permllm::openai {
namespace {

using In = nlohmann::json;

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
      if (key != "type" && key != "text") throw Error(Code::usage, at + "." + key, "is not known");
    }
    all += (i > 0 ? "\n" : "") + text(part["text"], at + ".text");
  }
  return all;
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
      if (key == "role") {
        message.role = text(value, at + ".role");
        if (message.role == "developer") message.role = "system";
        if (message.role == "tool" || message.role == "function") unsupported(at + ".role", "tools are not offered");
        if (message.role != "system" && message.role != "user" && message.role != "assistant")
          wrong(at + ".role", "system, developer, user or assistant");
      } else if (key == "content") {
        message.content = content_of(value, at + ".content");
        content = true;
      } else if (key == "tool_calls" || key == "function_call" || key == "refusal" || key == "audio" ||
                 key == "annotations") {
        if (!empty(value))
          unsupported(at + "." + key, "only text is taken");  // clients send an answer's empty ones back
      } else {
        throw Error(Code::usage, at + "." + key, "is not known");
      }
    }
    if (message.role.empty()) wrong(at + ".role", "system, developer, user or assistant");
    if (!content) wrong(at + ".content", "a string, or a list of text parts");
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

void stream_options_of(Request& request, const In& value) {
  if (!value.is_object()) wrong("stream_options", "an object");
  for (const auto& [key, option] : value.items()) {
    if (key != "include_usage") throw Error(Code::usage, "stream_options." + key, "is not known");
    if (!option.is_null()) request.include_usage = truth(option, "stream_options.include_usage");
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
      {"user", [](Request&, const In& v) { text(v, "user"); }},
      {"logit_bias", refused("logit_bias", k_distribution, empty)},
      {"presence_penalty", refused("presence_penalty", k_distribution, is_zero)},
      {"frequency_penalty", refused("frequency_penalty", k_distribution, is_zero)},
  };
  return fields;
}

// Of chats alone.
Fields chat_fields() {
  constexpr const char* k_tools = "tools are not offered";
  constexpr const char* k_text = "answers are plain text";
  const auto is = [](const char* word) { return [word](const In& v) { return v == word; }; };
  return {
      {"messages", [](Request& r, const In& v) { r.messages = messages_of(v); }},
      {"max_completion_tokens",
       [](Request& r, const In& v) { r.max_tokens = whole_number(v, "max_completion_tokens", 1, UINT32_MAX); }},
      {"store", refused("store", "nothing is stored", [](const In& v) { return v == false; })},
      {"metadata",
       [](Request&, const In& v) {
         if (!v.is_object()) wrong("metadata", "an object");
       }},
      {"service_tier",
       refused("service_tier", "expected auto or default", [](const In& v) { return v == "auto" || v == "default"; })},
      {"logprobs", refused("logprobs", "probabilities are not reported", [](const In& v) { return v == false; })},
      {"top_logprobs", refused("top_logprobs", "probabilities are not reported", [](const In& v) { return v == 0; })},
      {"tools", refused("tools", k_tools, empty)},
      {"tool_choice", refused("tool_choice", k_tools, is("none"))},
      {"functions", refused("functions", k_tools, empty)},
      {"function_call", refused("function_call", k_tools, is("none"))},
      {"response_format", refused("response_format", k_text,
                                  [](const In& v) {
                                    return v == In{{"type", "text"}};
                                  })},
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
    auto field = fields.find(key);
    if (field == fields.end()) {
      field = shared_fields().find(key);
      if (field == shared_fields().end())
        throw Error(Code::usage, fmt::format("{:.64}", key), "is not known here, and nothing is ignored silently");
    }
    if (!value.is_null()) field->second(request, value);  // null is how clients leave a field out
  }
  // Who narrows the choice wants one: the likeliest token needs none of these. OpenAI's temperature is 1 where none is given.
  const bool given = in.contains("temperature") && !in["temperature"].is_null();
  const AnswerOptions& how = request.answer;
  if (!given && (how.top_p < 1 || how.top_k > 0 || how.min_p > 0)) request.answer.temperature = 1;
  if (request.messages.empty())
    wrong(chat ? "messages" : "prompt", chat ? "a list of at least one message" : "a string");
  if (request.include_usage && !request.stream) throw Error(Code::usage, "stream_options", "only goes with stream");
  return request;
}

}  // namespace

Request parse_chat(std::string_view body) {
  const In in = parse(body);
  if (in.contains("max_tokens") && in.contains("max_completion_tokens") &&
      in["max_tokens"] != in["max_completion_tokens"]) {
    throw Error(Code::usage, "max_tokens", "is another than max_completion_tokens; give one of them");
  }
  return read(in, chat_fields(), true);
}

Request parse_completion(std::string_view body) { return read(parse(body), completion_fields(), false); }

Text parse_text(std::string_view body) {
  const In in = parse(body);
  Text all;
  for (const auto& [key, value] : in.items()) {
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
