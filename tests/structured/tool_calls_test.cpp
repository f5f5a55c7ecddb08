#include "structured/tool_calls.h"

#include <gtest/gtest.h>

namespace permllm {
namespace {

using Json = nlohmann::ordered_json;
using Calls = std::vector<ToolCall>;

const ToolCall k_rome{"weather", R"({"city":"Rome"})"}, k_oslo{"weather", R"({"city":"Oslo"})"}, k_now{"now", "{}"};

struct Read {
  std::string text;
  Calls calls;
  bool operator==(const Read&) const = default;
};
void PrintTo(const Read& read, std::ostream* out) {
  *out << testing::PrintToString(read.text);
  for (const ToolCall& call : read.calls) *out << ", " << call.name << call.arguments;
}
// Whatever pieces it comes in.
Read read(ToolFamily family, const std::string& answer) {
  Read whole;
  for (std::size_t piece = 1; piece <= answer.size(); piece = piece < 8 ? piece + 1 : 2 * piece) {
    ToolReader reader(family, {"weather", "now"});
    Read one;
    for (std::size_t at = 0; at < answer.size(); at += piece) one.text += reader.push(answer.substr(at, piece));
    one.text += reader.finish();
    one.calls = reader.calls();
    if (piece == 1) whole = one;
    EXPECT_EQ(one, whole) << piece;
  }
  return whole;
}

TEST(ToolFamilies, are_known_by_their_templates) {
  EXPECT_EQ(tool_family("{% for m in messages %}{{ m.content }}{% endfor %}"), ToolFamily::general);
  EXPECT_EQ(tool_family("{% if tools %}<tool_call>{% endif %}"), ToolFamily::hermes);
  EXPECT_EQ(tool_family("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]"), ToolFamily::mistral);
  EXPECT_EQ(tool_family("{{ tools }}<tool_call><arg_key>"), ToolFamily::glm45);
  EXPECT_EQ(tool_family("{{ tools }}<|observation|>"), ToolFamily::glm4);
  EXPECT_EQ(tool_family("{% if tools %}Environment: ipython{% endif %}"), ToolFamily::llama3);
}

TEST(ToolCalls, are_read_in_each_familys_form) {
  const std::string rome = R"({"name": "weather", "arguments": {"city": "Rome"}})",
                    oslo = R"({"name": "weather", "arguments": {"city": "Oslo"}})";
  for (const ToolFamily family : {ToolFamily::hermes, ToolFamily::general}) {
    EXPECT_EQ(read(family, "<tool_call>\n" + rome + "\n</tool_call>"), (Read{"", {k_rome}}));
    EXPECT_EQ(read(family, "I look.\n<tool_call>" + rome + "</tool_call>\n<tool_call>\n" + oslo + "\n</tool_call>"),
              (Read{"I look.", {k_rome, k_oslo}}));
    EXPECT_EQ(read(family, "<tool_call>\n" + rome), (Read{"", {k_rome}}));  // ended without the mark
    EXPECT_EQ(read(family, rome), (Read{"", {k_rome}}));
    EXPECT_EQ(read(family, "```json\n" + rome + "\n```"), (Read{"", {k_rome}}));
  }
  EXPECT_EQ(read(ToolFamily::llama3, R"({"name": "weather", "parameters": {"city": "Rome"}})"), (Read{"", {k_rome}}));
  EXPECT_EQ(read(ToolFamily::llama3, "<|python_tag|>" + rome + "; " + oslo), (Read{"", {k_rome, k_oslo}}));
  EXPECT_EQ(read(ToolFamily::llama3,
                 R"({"type": "function", "function": {"name": "weather", "parameters": "{\"city\":\"Rome\"}"}})"),
            (Read{"", {k_rome}}));
  EXPECT_EQ(read(ToolFamily::mistral, "[TOOL_CALLS][" + rome + ", " + oslo + "]"), (Read{"", {k_rome, k_oslo}}));
  EXPECT_EQ(read(ToolFamily::mistral, " [" + rome + "]"),
            (Read{"", {k_rome}}));  // where the mark is a token that is no text
  EXPECT_EQ(read(ToolFamily::mistral, R"([TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]now[ARGS]{})"),
            (Read{"", {k_rome, k_now}}));
  EXPECT_EQ(read(ToolFamily::glm4, "weather\n{\"city\": \"Rome\"}"), (Read{"", {k_rome}}));
  EXPECT_EQ(read(ToolFamily::glm45,
                 "So.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</"
                 "tool_call><tool_call>now\n</tool_call>"),
            (Read{"So.", {k_rome, k_now}}));
}

TEST(ToolCalls, what_calls_no_tool_is_text) {
  for (const std::string text :
       {"Rome is warm.", "{\"a\": 1}", "[1, 2]", "{\"name\": \"other\", \"arguments\": {}}",
        "<tool_call>nonsense</tool_call>", "a <tool", "1 < 2 <", "{\"name\": \"weather\", \"arguments\": [1]}",
        "{ not json", "now is the time", "```json\n1\n```", "<tool_call>{\"name\": \"wea"}) {
    for (const ToolFamily family :
         {ToolFamily::hermes, ToolFamily::llama3, ToolFamily::mistral, ToolFamily::glm4, ToolFamily::glm45})
      EXPECT_EQ(read(family, text), (Read{text, {}})) << text;
  }
  // Of a text before a call nothing is lost, and nothing waits for long.
  ToolReader reader(ToolFamily::hermes, {"now"});
  EXPECT_EQ(reader.push("One moment. "), "One moment.");
  EXPECT_EQ(reader.push("Yes <to"), " Yes");
  EXPECT_EQ(reader.push("ast>"), " <toast>");
}

TEST(ToolCalls, are_written_as_they_are_read) {
  const Read again = read(ToolFamily::general, calls_as_text({k_rome, k_now}));
  EXPECT_EQ(again, (Read{"", {k_rome, k_now}}));
  const std::string told = tools_as_text(Json::array({{{"type", "function"}, {"function", {{"name", "weather"}}}}}));
  EXPECT_NE(told.find("{\"type\":\"function\",\"function\":{\"name\":\"weather\"}}\n</tools>"), std::string::npos)
      << told;
  // A forced call, and what a model may say behind its beginning.
  for (const auto& [family, rest] : std::vector<std::pair<ToolFamily, std::string>>{
           {ToolFamily::general, "{\"city\":\"Rome\"}}\n</tool_call>"},
           {ToolFamily::hermes, "{\"city\":\"Rome\"}}\n</tool_call>"},
           {ToolFamily::llama3, "{\"city\":\"Rome\"}}"},
           {ToolFamily::mistral, "{\"city\":\"Rome\"}}]"},
           {ToolFamily::glm4, "{\"city\":\"Rome\"}"},
           {ToolFamily::glm45, "<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>"}})
    EXPECT_EQ(read(family, call_begins(family, "weather") + rest), (Read{"", {k_rome}})) << static_cast<int>(family);
}

}  // namespace
}  // namespace permllm
