#include "structured/json_schema.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "permllm/error.h"

namespace permllm {
namespace {

using Json = JsonSchema::Json;

// Whether the grammar has this text, whole.
bool takes(const JsonSchema& schema, const std::string& text) {
  GrammarState state = schema.state();
  return state.push(text) && state.complete();
}
std::string refused(const Json& schema) {
  try {
    JsonSchema(schema, "s");
  } catch (const Error& error) {
    return error.field();
  }
  return "";
}

const Json k_person =
    Json::parse(R"({"type": "object", "additionalProperties": false, "required": ["name", "age"], "properties": {
  "name": {"type": "string"}, "nick": {"type": ["string", "null"]}, "age": {"type": "integer", "minimum": 0},
  "tags": {"type": "array", "items": {"enum": ["a", "b \"c\"", 3]}, "maxItems": 2}, "friend": {"$ref": "#"}}})");

TEST(JsonSchema, says_which_values_keep_it) {
  const JsonSchema person(k_person, "s");
  for (const char* good :
       {R"({"name":"x","age":1})", R"({"age":2,"name":"x","nick":null})", R"({"name":"","age":0.0,"tags":["a",3]})",
        R"({"name":"x","age":1,"friend":{"name":"y","age":2}})"})
    EXPECT_TRUE(person.keeps(Json::parse(good))) << good;
  for (const char* bad :
       {R"({"name":"x"})", R"({"name":"x","age":-1})", R"({"name":"x","age":1.5})", R"({"name":1,"age":1})",
        R"({"name":"x","age":1,"more":1})", R"({"name":"x","age":1,"tags":["c"]})",
        R"({"name":"x","age":1,"tags":["a","a","a"]})", R"({"name":"x","age":1,"friend":{"name":"y"}})", "[]", "1"})
    EXPECT_FALSE(person.keeps(Json::parse(bad))) << bad;
  EXPECT_FALSE(person.exact());
  EXPECT_EQ(person.begins_with(), '{');
  const auto keeps = [](const char* schema, const char* value) {
    return JsonSchema(Json::parse(schema), "s").keeps(Json::parse(value));
  };
  EXPECT_TRUE(keeps(R"({"anyOf":[{"type":"string","minLength":2},{"const":{"a":1,"b":2}}]})", R"({"b":2,"a":1})"));
  EXPECT_TRUE(keeps(R"({"type":"string","minLength":2,"maxLength":2})", "\"\u00d6\u00d6\""));
  EXPECT_FALSE(keeps(R"({"type":"string","maxLength":2})", "\"abc\""));
  EXPECT_TRUE(keeps(R"({"multipleOf":0.1})", "0.3"));
  EXPECT_FALSE(keeps(R"({"exclusiveMinimum":3})", "3"));
  EXPECT_TRUE(keeps("{}", "[1]"));
}

TEST(JsonSchema, its_grammar_has_what_a_model_may_say) {
  const JsonSchema person(k_person, "s");
  for (const char* good :
       {R"({"name":"x","age":1})", R"({"name": "x", "age": 12})",
        "{\n  \"name\": \"\u00d6\\n\\u00d6\",\n  \"nick\": null,\n  \"age\": 0\n}", R"({"name":"","age":1,"tags":[]})",
        R"({"name":"","age":1,"tags":["a", "b \"c\""]})", R"({"name":"","age":1,"friend":{"name":"","age":1}})"})
    EXPECT_TRUE(takes(person, good)) << good;
  for (const char* bad :
       {R"({"age":1,"name":"x"})", R"({"name":"x"})", R"({"name":"x","age":1)", R"({"name":"x","age":01})",
        R"({"name":"x","age":1.5})", R"({"name":"x","age":1,})", R"({"name":"x","age":1,"tags":["a","a","a"]})",
        "{\"name\":\"\n\",\"age\":1}", "{\"name\":\"\xff\",\"age\":1}", "{\"name\":\"\\ud83d\",\"age\":1}", " {}"})
    EXPECT_FALSE(takes(person, bad)) << bad;
  EXPECT_TRUE(
      takes(JsonSchema(Json::parse(R"({"type":"array","items":{"type":"number"},"minItems":2,"maxItems":3})"), "s"),
            "[1, -0.5e-3,2]"));
  EXPECT_FALSE(
      takes(JsonSchema(Json::parse(R"({"type":"array","items":{"type":"number"},"minItems":2})"), "s"), "[1]"));
  EXPECT_TRUE(takes(JsonSchema(Json::parse(R"({"type":"object","properties":{"a":{"type":"boolean"},"b":{}}})"), "s"),
                    R"({"b":[{"x":[true]}]})"));
  EXPECT_TRUE(takes(JsonSchema(Json::parse(R"({"type":"object","additionalProperties":{"type":"null"}})"), "s"),
                    R"({"x":null,"y":null})"));
  EXPECT_TRUE(takes(JsonSchema::any_object(), R"({"a":{"b":[1,"c",{}]}})"));
  EXPECT_FALSE(takes(JsonSchema::any_object(), "[1]"));
}

// By whatever way a text comes about that the grammar lets through, it is JSON and keeps the schema.
TEST(JsonSchema, each_text_of_its_grammar_keeps_it) {
  std::mt19937 random(5);
  for (
      const Json& schema :
      {k_person, Json{{"type", "object"}},
       Json::parse(
           R"({"anyOf":[{"type":"number"},{"type":"array","items":{"type":"string"},"minItems":1},{"const":"x"}]})")}) {
    Json without = schema;
    if (without.contains("properties")) without["properties"]["age"].erase("minimum");
    const JsonSchema held(without, "s");
    EXPECT_TRUE(held.exact());
    for (int i = 0; i < 60; ++i) {
      GrammarState state = held.state();
      std::string text;
      // Brackets and quotes that close are drawn more often, so that there is an end.
      while (!(state.complete() && (random() % 3 == 0 || state.next().none()))) {
        const auto next = state.next();
        std::vector<char> bytes;
        for (std::size_t byte = 0; byte < 256; ++byte) {
          if (next.test(byte))
            bytes.insert(bytes.end(), std::string("\"]}").find(static_cast<char>(byte)) != std::string::npos ? 200 : 1,
                         static_cast<char>(byte));
        }
        ASSERT_FALSE(bytes.empty()) << text;
        const char byte = bytes[random() % bytes.size()];
        ASSERT_TRUE(state.push({&byte, 1}));
        text += byte;
      }
      const Json value = Json::parse(text, nullptr, false);
      EXPECT_FALSE(value.is_discarded()) << text;
      EXPECT_TRUE(held.keeps(value)) << text;
    }
  }
}

TEST(JsonSchema, what_it_cannot_keep_is_refused_by_name) {
  for (const auto& [schema, field] : std::vector<std::pair<const char*, const char*>>{
           {R"({"type":"string","pattern":"a"})", "s.pattern"},
           {R"({"properties":{"a":{"not":{}}}})", "s.properties.not"},
           {R"({"type":"text"})", "s.type"},
           {R"({"enum":[]})", "s.enum"},
           {R"({"$ref":"#/$defs/a"})", "$ref"},
           {R"({"$ref":"http://a"})", "$ref"},
           {R"({"$ref":"#"})", "$ref"},
           {R"({"anyOf":[{"$ref":"#"}]})", "anyOf"},
           {R"({"anyOf":[{"$ref":"#/$defs/b"}],"$defs":{"b":{"anyOf":[{"type":"null"},{"$ref":"#"}]}}})", "anyOf"},
           {R"({"allOf":[{},{}]})", "s.allOf"},
           {R"({"minItems":-1})", "s.minItems"},
           {R"({"type":"array","minItems":1000})", "minItems, maxItems"},
           {R"([1])", "s"},
           {"false", "s"}})
    EXPECT_EQ(refused(Json::parse(schema)), field) << schema;
  std::string deep = "{}";
  for (int i = 0; i < 100; ++i) deep = R"({"items":)" + deep + "}";
  EXPECT_NE(refused(Json::parse(deep)), "");
}

// A chain of references is as long as whoever wrote it likes, and each of its schemas is within the one before.
TEST(JsonSchema, a_chain_of_references_has_an_end) {
  const auto chain = [](int links) {
    Json schema{{"$ref", "#/$defs/a0"}};
    for (int i = 0; i < links; ++i)
      schema["$defs"][fmt::format("a{}", i)] = {{"properties", {{"x", {{"$ref", fmt::format("#/$defs/a{}", i + 1)}}}}}};
    schema["$defs"][fmt::format("a{}", links)] = {{"type", "null"}};
    return schema;
  };
  EXPECT_EQ(refused(chain(100)), "");
  EXPECT_EQ(refused(chain(3000)), "$ref");
}

// Alternatives that part and meet again at each of 60 levels: 2^60 ways.
TEST(JsonSchema, ways_that_meet_again_are_gone_once) {
  Json schema{{"$ref", "#/$defs/a0"}};
  for (int i = 0; i < 60; ++i) {
    const Json next = {{{"$ref", fmt::format("#/$defs/a{}", i + 1)}}, {{"$ref", fmt::format("#/$defs/b{}", i + 1)}}};
    for (const char* of : {"a", "b"}) schema["$defs"][fmt::format("{}{}", of, i)] = {{"anyOf", next}};
  }
  schema["$defs"]["a60"] = {{"type", "integer"}};
  schema["$defs"]["b60"] = {{"const", "yes"}};
  const JsonSchema made(schema, "s");
  EXPECT_TRUE(made.keeps(12));
  EXPECT_TRUE(made.keeps("yes"));
  EXPECT_FALSE(made.keeps("no"));
  GrammarState state = made.state();
  EXPECT_FALSE(state.push("no"));
  EXPECT_TRUE(state.push("\"yes\""));
  EXPECT_TRUE(state.complete());
}

// The same schema under two names, and what is beside the known properties.
TEST(JsonSchema, values_of_one_schema_are_looked_at_each_by_itself) {
  const JsonSchema made(
      Json::parse(
          R"({"properties":{"a":{"$ref":"#/$defs/n"},"b":{"$ref":"#/$defs/n"}},"$defs":{"n":{"type":"integer"}}})"),
      "s");
  EXPECT_TRUE(made.keeps(Json::parse(R"({"a":1,"b":2,"c":"any"})")));
  EXPECT_FALSE(made.keeps(Json::parse(R"({"a":1,"b":"2"})")));
  EXPECT_FALSE(made.keeps(Json::parse(R"({"a":"1","b":2})")));
}

}  // namespace
}  // namespace permllm
