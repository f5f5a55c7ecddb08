// Tools as models know them: how a request names them, and how an answer calls them, by the forms of the families that there are.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace permllm {

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON, as the model wrote it
  bool operator==(const ToolCall&) const = default;
};

enum class ToolFamily {
  general,  // the template knows of no tools: they are told in the first message, called as Hermes does
  hermes,   // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, once for each; Qwen, SmolLM3
  llama3,   // {"name": ..., "parameters": {...}}, perhaps behind <|python_tag|>, several joined by ;
  mistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or a name and its arguments
  glm4,     // a name, and its arguments on the next line
  glm45,    // <tool_call>name <arg_key>k</arg_key><arg_value>v</arg_value>...</tool_call>
};
// By the model's chat template.
ToolFamily tool_family(std::string_view chat_template);

// JSON of somebody's making; discarded where it is none, or is nested so deep that a reader would not come back.
nlohmann::ordered_json parse_shallow(std::string_view text);

// What a template without tools is given in its place: a text for the first message.
std::string tools_as_text(const nlohmann::ordered_json& tools);
// Of calls in earlier answers, for such a template.
std::string calls_as_text(const std::vector<ToolCall>& calls);
// How an answer begins that calls a tool; name empty: any.
std::string call_begins(ToolFamily family, const std::string& name);
// What closes a call that began so, by its name, behind its arguments; nothing where they are no JSON object.
std::optional<std::string> call_ends(ToolFamily family);

// Reads an answer as it comes.
class ToolReader {
 public:
  // names: of the tools that there are; what names another is text.
  ToolReader(ToolFamily family, std::vector<std::string> names) : family_(family), names_(std::move(names)) {}

  // The text beside the calls that is sure by now.
  std::string push(std::string_view piece);
  // The rest of it, at the answer's end.
  std::string finish();
  // So far, in order.
  const std::vector<ToolCall>& calls() const { return calls_; }

 private:
  std::string take(bool ended);
  bool may_be_bare(std::string_view text) const;
  bool take_block(std::string_view block);
  bool take_bare(std::string_view text);
  bool take_json(const nlohmann::ordered_json& json);
  bool take_named(std::string_view text);
  bool is_tool(std::string_view name) const;

  const ToolFamily family_;
  const std::vector<std::string> names_;
  std::string held_;
  bool begun_ = false;  // text was given out: what is called without a mark stands at the beginning alone
  std::vector<ToolCall> calls_;
};

}  // namespace permllm
