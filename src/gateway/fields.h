// The fields of requests, read one by one: what is not honoured is refused by name.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/request.h"

namespace permllm::gateway {

// Errors of all: usage, or unsupported where it says so; the field is the one that they are given.
[[noreturn]] void wrong(const std::string& field, const std::string& expected);
[[noreturn]] void unsupported(const std::string& field, const std::string& why);

// An object; nothing in it is given twice, and it is not nested deeper than anybody needs.
Json parse_body(std::string_view body);

double number(const Json& value, const std::string& field, double least, double most);
std::size_t whole_number(const Json& value, const std::string& field, std::uint64_t least, std::uint64_t most);
bool truth(const Json& value, const std::string& field);
std::string text(const Json& value, const std::string& field);
bool empty(const Json& value);  // null, {} or []
// Up to so many texts, or one by itself.
std::vector<std::string> texts(const Json& value, const std::string& field, std::size_t most);

using Field = std::function<void(Request&, const Json&)>;
using Fields = std::map<std::string, Field>;
// Each field of the object that is not null, by the first table that knows it.
void read_fields(Request& request, const Json& in, std::initializer_list<const Fields*> tables);

Field refused(
    const std::string& name, const std::string& why,
    const std::function<bool(const Json&)>& harmless = [](const Json&) { return false; });
Field text_without_effect(const std::string& name);
Field object_without_effect(const std::string& name);
Field without_effect();

// Fields that several interfaces have under the same name: temperature, top_p, top_k, min_p, seed, stream, model, penalties, logit_bias.
const Fields& sampling_fields();

// The texts of a content: a string, or a list of parts of these types, joined by line ends.
std::string content_of(const Json& content, const std::string& field,
                       std::initializer_list<const char*> types = {"text"});
// A function that the model may call, into OpenAI's shape.
Json function_of(const Json& name, const Json& description, const Json& parameters, const std::string& at,
                 const char* parameters_name);
// A call of before, its arguments an object where they are one.
Json call_of(const std::string& id, const std::string& name, const Json& arguments);
// {"type": "json_schema", ...} and the like, the schema at `schema`.
void form_of(Request& request, const Json& type, const Json& schema, const std::string& at,
             const std::string& schema_at);

// What each request needs, whichever interface it came by: messages, a tool that is there, a temperature where the choice is narrowed.
void complete(Request& request, const Json& in, const char* messages, const char* tool_choice, const char* tool_name);

}  // namespace permllm::gateway
