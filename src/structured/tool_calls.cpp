#include "structured/tool_calls.h"

#include <algorithm>

namespace permllm {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view k_open = "<tool_call>", k_close = "</tool_call>", k_calls = "[TOOL_CALLS]",
                           k_python = "<|python_tag|>", k_arguments = "[ARGS]", k_key = "<arg_key>",
                           k_key_end = "</arg_key>", k_value = "<arg_value>", k_value_end = "</arg_value>";
constexpr std::string_view k_blanks = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(k_blanks), text.size()));
  return text.substr(0, text.find_last_not_of(k_blanks) + 1);
}
std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
Json parsed(std::string_view text) { return parse_shallow(text); }

// The first JSON value of a text, by its brackets; nothing where it does not end.
std::string_view first_value(std::string_view text) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if ((c == '}' || c == ']') && depth > 0 && --depth == 0) {
      return text.substr(0, i + 1);
    }
  }
  return {};
}

// Of the end of the text what may be the beginning of the mark.
std::size_t beginning_at_end(std::string_view text, std::string_view mark) {
  for (std::size_t size = std::min(mark.size() - 1, text.size()); size > 0; --size) {
    if (text.ends_with(mark.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace

Json parse_shallow(std::string_view text) {
  constexpr std::size_t k_deepest = 64, k_most_colons = 8192;  // a key of an object takes a look at all before it
  std::size_t depth = 0, colons = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') ++i;
    if (c == '"' && (!in_string || text[i] == '"')) in_string = !in_string;
    if (in_string) continue;
    if ((c == '{' || c == '[') && ++depth > k_deepest) return Json(Json::value_t::discarded);
    if (c == ':' && ++colons > k_most_colons) return Json(Json::value_t::discarded);
    if ((c == '}' || c == ']') && depth > 0) --depth;
  }
  return Json::parse(text, nullptr, false);
}

ToolFamily tool_family(std::string_view t) {
  const auto has = [&](std::string_view text) { return t.find(text) != std::string_view::npos; };
  if (!has("tools")) return ToolFamily::general;
  if (has(k_calls)) return ToolFamily::mistral;
  if (has(k_key)) return ToolFamily::glm45;
  if (has(k_open)) return ToolFamily::hermes;
  if (has(k_python) || has("\"parameters\": ") || has("ipython")) return ToolFamily::llama3;
  if (has("<|observation|>")) return ToolFamily::glm4;
  return ToolFamily::hermes;
}

std::string tools_as_text(const Json& tools) {
  std::string text = "You may call functions. They are, one JSON object a line:\n<tools>\n";
  for (const Json& tool : tools) text += dump(tool) + "\n";
  return text +
         "</tools>\nTo call one, answer with a JSON object of its name and arguments between these marks, once for "
         "each call:\n"
         "<tool_call>\n{\"name\": NAME, \"arguments\": ARGUMENTS}\n</tool_call>";
}

std::string calls_as_text(const std::vector<ToolCall>& calls) {
  std::string text;
  for (const ToolCall& call : calls)
    text += std::string(text.empty() ? "" : "\n") + "<tool_call>\n{\"name\": " + dump(call.name) +
            ", \"arguments\": " + call.arguments + "}\n</tool_call>";
  return text;
}

std::string call_begins(ToolFamily family, const std::string& name) {
  const std::string quoted = "{\"name\": \"" + (name.empty() ? "" : name + "\", ");
  switch (family) {
    case ToolFamily::general:
    case ToolFamily::hermes:
      return "<tool_call>\n" + quoted + (name.empty() ? "" : "\"arguments\": ");
    case ToolFamily::llama3:
      return quoted + (name.empty() ? "" : "\"parameters\": ");
    case ToolFamily::mistral:
      return "[" + quoted + (name.empty() ? "" : "\"arguments\": ");
    case ToolFamily::glm4:
      return name.empty() ? "" : name + "\n";
    case ToolFamily::glm45:
      return "<tool_call>" + (name.empty() ? "" : name + "\n");
  }
  return "";
}

std::optional<std::string> call_ends(ToolFamily family) {
  switch (family) {
    case ToolFamily::general:
    case ToolFamily::hermes:
      return "}\n</tool_call>";
    case ToolFamily::llama3:
      return "}";
    case ToolFamily::mistral:
      return "}]";
    case ToolFamily::glm4:
      return "";
    case ToolFamily::glm45:
      break;
  }
  return std::nullopt;
}

bool ToolReader::is_tool(std::string_view name) const {
  return std::find(names_.begin(), names_.end(), name) != names_.end();
}

std::string ToolReader::push(std::string_view piece) {
  held_ += piece;
  return take(false);
}
std::string ToolReader::finish() { return take(true); }

std::string ToolReader::take(bool ended) {
  std::string out;
  const auto give = [&](std::size_t size) {
    out += held_.substr(0, size);
    held_.erase(0, size);
    begun_ = begun_ || out.find_first_not_of(k_blanks) != std::string::npos;
  };
  for (;;) {
    // Without a mark of its own a call is the whole answer.
    if (!begun_ && calls_.empty() && may_be_bare(held_)) {
      if (!ended) return out;
      if (take_bare(held_)) held_.clear();
    }
    std::size_t first = std::string::npos;
    std::string_view mark;
    for (const std::string_view one : {k_open, k_calls, k_python}) {
      if (const std::size_t at = held_.find(one); at < first) {
        first = at;
        mark = one;
      }
    }
    if (first == std::string::npos) {
      std::size_t keep = 0;
      for (const std::string_view one : {k_open, k_calls, k_python})
        keep = std::max(keep, beginning_at_end(held_, one));
      // Blanks before a call are none of the text.
      std::size_t sure = held_.size() - keep;
      while (sure > 0 && k_blanks.find(held_[sure - 1]) != std::string_view::npos) --sure;
      give(ended ? held_.size() : sure);
      if (ended && !calls_.empty() && trimmed(out).empty()) out.clear();
      return out;
    }
    give(std::string_view(held_).substr(0, first).find_last_not_of(k_blanks) + 1);
    first = held_.find(mark);
    const std::string_view behind = std::string_view(held_).substr(first + mark.size());
    if (mark != k_open) {
      if (!ended) return out;
      if (!take_bare(behind)) give(held_.size());
      held_.clear();
      return out;
    }
    const std::size_t end = behind.find(k_close);
    if (end == std::string_view::npos && !ended) return out;
    // A model may end its answer before the mark.
    if (!take_block(behind.substr(0, end))) {
      give(end == std::string_view::npos ? held_.size() : first + mark.size() + end + k_close.size());
      continue;
    }
    held_.erase(0, end == std::string_view::npos ? held_.size() : first + mark.size() + end + k_close.size());
  }
}

// Whether an answer that begins like this may be a call without a mark.
bool ToolReader::may_be_bare(std::string_view text) const {
  text = trimmed(text);
  if (text.empty()) return false;
  if (text.front() == '{' || text.front() == '[' || std::string_view("```json").starts_with(text.substr(0, 7)))
    return !text.starts_with(k_calls);
  if (family_ != ToolFamily::glm4 && family_ != ToolFamily::mistral) return false;
  return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) {
    return std::string_view(name).starts_with(text.substr(0, name.size()));
  });
}

bool ToolReader::take_json(const Json& json) {
  if (json.is_array()) {
    const std::size_t before = calls_.size();
    if (!json.empty() && std::all_of(json.begin(), json.end(), [&](const Json& one) { return take_json(one); }))
      return true;
    calls_.resize(before);
    return false;
  }
  if (!json.is_object()) return false;
  const Json& call = json.contains("function") && json["function"].is_object() ? json["function"] : json;
  if (!call.contains("name") || !call["name"].is_string() || !is_tool(call["name"].get<std::string>())) return false;
  const Json none = Json::object();
  const Json& arguments = call.contains("arguments")    ? call["arguments"]
                          : call.contains("parameters") ? call["parameters"]
                                                        : none;
  const Json inner = arguments.is_string() ? parsed(arguments.get<std::string>()) : arguments;
  if (!inner.is_object()) return false;
  calls_.push_back({call["name"], dump(inner)});
  return true;
}

// name{...}, name\n{...} or name[ARGS]{...}, several behind one another.
bool ToolReader::take_named(std::string_view text) {
  const std::size_t before = calls_.size();
  for (text = trimmed(text); !text.empty(); text = trimmed(text)) {
    const std::size_t brace = text.find('{');
    std::string_view name = trimmed(text.substr(0, brace));
    if (name.ends_with(k_arguments)) name = trimmed(name.substr(0, name.size() - k_arguments.size()));
    const std::string_view value =
        brace == std::string_view::npos ? std::string_view() : first_value(text.substr(brace));
    if (!is_tool(name) || value.empty() || !parsed(value).is_object()) {
      calls_.resize(before);
      return false;
    }
    calls_.push_back({std::string(name), dump(parsed(value))});
    text.remove_prefix(brace + value.size());
    if (text.starts_with(k_calls)) text.remove_prefix(k_calls.size());
  }
  return calls_.size() > before;
}

bool ToolReader::take_bare(std::string_view text) {
  text = trimmed(text);
  if (text.starts_with("```")) {
    text.remove_prefix(std::min(text.find('\n'), text.size()));
    text = trimmed(text.substr(0, text.rfind("```")));
  }
  if (const Json whole = parsed(text); !whole.is_discarded()) return take_json(whole);
  // Several, joined by ; or by nothing; what comes behind the last is talk.
  const std::size_t before = calls_.size();
  for (std::string_view rest = text; rest.starts_with('{') || rest.starts_with('[');) {
    const std::string_view value = first_value(rest);
    if (value.empty() || !take_json(parsed(value))) break;
    rest = trimmed(rest.substr(value.size()));
    if (rest.starts_with(';')) rest = trimmed(rest.substr(1));
  }
  return calls_.size() > before || take_named(text);
}

bool ToolReader::take_block(std::string_view block) {
  block = trimmed(block);
  if (const Json json = parsed(block); !json.is_discarded()) return take_json(json);
  if (const std::string_view value = first_value(block); block.starts_with('{') && !value.empty())
    return take_json(parsed(value));
  // GLM-4.5
  const std::size_t first = std::min(block.find(k_key), block.size());
  const std::string_view name = trimmed(block.substr(0, first));
  if (!is_tool(name)) return take_named(block);
  Json arguments = Json::object();
  for (std::string_view rest = block.substr(first); !rest.empty();) {
    const auto between = [&](std::string_view open, std::string_view close, std::string& to) {
      const std::size_t begin = rest.find(open), end = rest.find(close);
      if (begin == std::string_view::npos || end == std::string_view::npos || end < begin) return false;
      to = rest.substr(begin + open.size(), end - begin - open.size());
      rest.remove_prefix(end + close.size());
      return true;
    };
    std::string key, value;
    if (!between(k_key, k_key_end, key) || !between(k_value, k_value_end, value)) return false;
    const Json json = parsed(value);
    arguments[std::string(trimmed(key))] = json.is_discarded() ? Json(value) : json;
    rest = trimmed(rest);
  }
  calls_.push_back({std::string(name), dump(arguments)});
  return true;
}

}  // namespace permllm
