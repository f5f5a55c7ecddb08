#include "gateway/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

namespace permllm::gateway {

void wrong(const std::string& field, const std::string& expected) {
  throw Error(Code::usage, field, "expected " + expected);
}
void unsupported(const std::string& field, const std::string& why) { throw Error(Code::unsupported, field, why); }

Json parse_body(std::string_view body) {
  constexpr int k_most_depth = 32;
  constexpr std::size_t k_most_keys = 1024;  // each takes a look at all that are there
  std::vector<std::set<std::string>> keys;   // of the objects that are not closed yet
  const auto check = [&](int depth, Json::parse_event_t event, const Json& value) {
    if (depth > k_most_depth)
      throw Error(Code::usage, "body", fmt::format("is nested more than {} levels deep", k_most_depth));
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event != Json::parse_event_t::key) return true;
    if (!keys.back().insert(value.get<std::string>()).second)
      throw Error(Code::usage, fmt::format("{:.64}", value.get<std::string>()), "is given twice");
    if (keys.back().size() > k_most_keys)
      throw Error(Code::usage, "body", fmt::format("has an object of more than {} fields", k_most_keys));
    return true;
  };
  try {
    Json in = Json::parse(body, check);
    if (!in.is_object()) throw Error(Code::usage, "body", "expected a JSON object");
    return in;
  } catch (const Json::parse_error& error) {  // its own words quote the text
    throw Error(Code::usage, "body", fmt::format("is no JSON, at byte {}", error.byte));
  } catch (const Json::exception&) {
    throw Error(Code::usage, "body", "is no JSON: a number is too large");
  }
}

double number(const Json& value, const std::string& field, double least, double most) {
  const double x = value.is_number() ? value.get<double>() : NAN;
  if (!(x >= least && x <= most)) wrong(field, fmt::format("a number from {} to {}", least, most));
  return x;
}

std::size_t whole_number(const Json& value, const std::string& field, std::uint64_t least, std::uint64_t most) {
  const bool whole = value.is_number_integer() && (value.is_number_unsigned() || value.get<std::int64_t>() >= 0);
  if (!whole || value.get<std::uint64_t>() < least || value.get<std::uint64_t>() > most) {
    wrong(field, most < UINT32_MAX ? fmt::format("a whole number from {} to {}", least, most)
                                   : fmt::format("a whole number of at least {}", least));
  }
  return value.get<std::uint64_t>();
}

bool truth(const Json& value, const std::string& field) {
  if (!value.is_boolean()) wrong(field, "true or false");
  return value.get<bool>();
}

std::string text(const Json& value, const std::string& field) {
  if (!value.is_string()) wrong(field, "a string");
  return value.get<std::string>();
}

bool empty(const Json& value) { return value.is_null() || ((value.is_array() || value.is_object()) && value.empty()); }

std::vector<std::string> texts(const Json& value, const std::string& field, std::size_t most) {
  const std::string expected = fmt::format("a string, or up to {} of them, none empty", most);
  const Json all = value.is_array() ? value : Json::array({value});
  if (all.size() > most) wrong(field, expected);
  std::vector<std::string> out;
  for (const Json& one : all) {
    if (!one.is_string() || one.get<std::string>().empty()) wrong(field, expected);
    out.push_back(one.get<std::string>());
  }
  return out;
}

void read_fields(Request& request, const Json& in, std::initializer_list<const Fields*> tables) {
  for (const auto& [key, value] : in.items()) {
    if (value.is_null()) continue;  // is how clients leave a field out, of this interface or of another's
    const Field* field = nullptr;
    for (const Fields* table : tables) {
      if (const auto found = table->find(key); field == nullptr && found != table->end()) field = &found->second;
    }
    if (field == nullptr)
      throw Error(Code::usage, fmt::format("{:.64}", key), "is not known here, and nothing is ignored silently");
    (*field)(request, value);
  }
}

Field refused(const std::string& name, const std::string& why, const std::function<bool(const Json&)>& harmless) {
  return [=](Request&, const Json& value) {
    if (!harmless(value)) unsupported(name, why);
  };
}
Field text_without_effect(const std::string& name) {
  return [=](Request&, const Json& value) { text(value, name); };
}
Field object_without_effect(const std::string& name) {
  return [=](Request&, const Json& value) {
    if (!value.is_object()) wrong(name, "an object");
  };
}
Field without_effect() {
  return [](Request&, const Json&) {};
}

namespace {

void logit_bias_of(Request& request, const Json& value) {
  if (!value.is_object()) wrong("logit_bias", "an object of token ids");
  for (const auto& [key, bias] : value.items()) {
    std::uint32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) wrong("logit_bias", "ids of tokens, as of /tokenize");
    request.answer.logit_bias.emplace_back(id, number(bias, "logit_bias", -100, 100));
  }
}

}  // namespace

const Fields& sampling_fields() {
  static const Fields fields{
      {"model", [](Request& r, const Json& v) { r.model = text(v, "model"); }},
      {"stream", [](Request& r, const Json& v) { r.stream = truth(v, "stream"); }},
      {"temperature", [](Request& r, const Json& v) { r.answer.temperature = number(v, "temperature", 0, 2); }},
      {"top_p",
       [](Request& r, const Json& v) {
         r.answer.top_p = std::max(number(v, "top_p", 0, 1), 1e-9);  // 0 is the best token
       }},
      {"top_k", [](Request& r, const Json& v) { r.answer.top_k = whole_number(v, "top_k", 0, UINT32_MAX); }},
      {"min_p", [](Request& r, const Json& v) { r.answer.min_p = number(v, "min_p", 0, 1); }},
      {"seed",
       [](Request& r, const Json& v) {
         if (!v.is_number_integer()) wrong("seed", "a whole number");
         r.answer.seed =
             v.is_number_unsigned() ? v.get<std::uint64_t>() : static_cast<std::uint64_t>(v.get<std::int64_t>());
       }},
      {"presence_penalty",
       [](Request& r, const Json& v) { r.answer.presence_penalty = number(v, "presence_penalty", -2, 2); }},
      {"frequency_penalty",
       [](Request& r, const Json& v) { r.answer.frequency_penalty = number(v, "frequency_penalty", -2, 2); }},
      {"repetition_penalty",
       [](Request& r, const Json& v) { r.answer.repetition_penalty = number(v, "repetition_penalty", 0.01, 10); }},
      {"logit_bias", logit_bias_of},
      {"format_tries", [](Request& r, const Json& v) { r.tries = whole_number(v, "format_tries", 1, 8); }},
  };
  return fields;
}

std::string content_of(const Json& content, const std::string& field, std::initializer_list<const char*> types) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array() || content.empty()) wrong(field, "a string, or a list of text parts");
  std::string all;
  for (std::size_t i = 0; i < content.size(); ++i) {
    const Json& part = content[i];
    const std::string at = fmt::format("{}[{}]", field, i);
    if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) wrong(at, "an object with a type");
    if (std::none_of(types.begin(), types.end(), [&](const char* type) { return part["type"] == type; }))
      unsupported(at + ".type", "only text parts are taken: the model reads text alone");
    if (!part.contains("text")) wrong(at + ".text", "a string");
    for (const auto& [key, value] : part.items()) {
      const bool says_nothing =
          key == "cache_control" || key == "annotations" || key == "logprobs" || key == "citations";
      if (key != "type" && key != "text" && !value.is_null() && !says_nothing)
        throw Error(Code::usage, at + "." + key, "is not known");
    }
    if (i > 0) all += '\n';
    all += text(part["text"], at + ".text");
  }
  return all;
}

Json function_of(const Json& name, const Json& description, const Json& parameters, const std::string& at,
                 const char* parameters_name) {
  const std::string called = name.is_null() ? "" : text(name, at + ".name");
  const bool plain = std::all_of(called.begin(), called.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '-';
  });
  if (called.empty() || called.size() > 64 || !plain)
    wrong(at + ".name", "up to 64 letters, digits, underscores or dashes");
  if (!parameters.is_null() && !parameters.is_object()) wrong(at + "." + parameters_name, "a JSON schema");
  Json function{{"name", called}};
  if (!description.is_null()) function["description"] = text(description, at + ".description");
  if (!parameters.is_null()) function["parameters"] = parameters;
  return {{"type", "function"}, {"function", function}};
}

Json call_of(const std::string& id, const std::string& name, const Json& arguments) {
  const Json parsed = arguments.is_string() ? parse_shallow(arguments.get<std::string>()) : arguments;
  return {{"id", id},
          {"type", "function"},
          {"function",
           {{"name", name},
            {"arguments", parsed.is_object()    ? parsed
                          : arguments.is_null() ? Json::object()
                                                : arguments}}}};
}

void form_of(Request& request, const Json& type, const Json& schema, const std::string& at,
             const std::string& schema_at) {
  if (type == "text") return;
  if (type == "json_object") {
    request.form = std::make_shared<const JsonSchema>(JsonSchema::any_object());
  } else if (type == "json_schema") {
    if (schema.is_null()) wrong(schema_at, "a JSON schema");
    request.form = std::make_shared<const JsonSchema>(schema, schema_at);
  } else {
    wrong(at + ".type", "text, json_object or json_schema");
  }
}

void complete(Request& request, const Json& in, const char* messages, const char* tool_choice, const char* tool_name) {
  // Who narrows the choice, or wants several answers, wants one by chance: the likeliest token needs none of these. OpenAI's temperature is 1 where none
  // is given.
  const bool given = in.contains("temperature") && !in["temperature"].is_null();
  const AnswerOptions& how = request.answer;
  if (!given && (how.top_p < 1 || how.top_k > 0 || how.min_p > 0 || request.choices > 1))
    request.answer.temperature = 1;
  if (request.messages.empty()) wrong(messages, request.chat ? "a list of at least one message" : "a string");
  const std::vector<std::string> names = request.tool_names();
  if (request.calls == Request::Calls::required && names.empty())
    wrong(tool_choice, "none or auto where there are no tools");
  if (!request.tool.empty() && std::find(names.begin(), names.end(), request.tool) == names.end())
    wrong(tool_name, "one of the tools'");
}

}  // namespace permllm::gateway
