#include "gateway/ollama.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <deque>

#include "gateway/fields.h"
#include "gateway/openai_chat.h"
#include "structured/thoughts.h"

namespace permllm::gateway {
namespace {

using In = Json;

std::string time_of(std::int64_t seconds) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

// Its calls have no ids; those of templates are counted, and what tools say answers them in their order, or by name.
struct Calls {
  struct Open {
    std::string id, name;
  };
  std::deque<Open> open;
  std::size_t count = 0;

  std::string read(const In& in, const std::string& at) {
    if (!in.is_array()) wrong(at, "a list of calls");
    Json all = Json::array();
    open.clear();
    for (std::size_t i = 0; i < in.size(); ++i) {
      const In function = in[i].is_object() ? in[i].value("function", In()) : In();
      if (!function.is_object() || !function.value("name", In()).is_string())
        wrong(fmt::format("{}[{}]", at, i), "an object with a function, which has a name and arguments");
      open.push_back({fmt::format("call{:05}", ++count), function["name"]});
      all.push_back(call_of(open.back().id, open.back().name, function.value("arguments", In())));
    }
    return all.empty() ? "" : dump(all);
  }
  void answer(Message& message) {
    auto call = open.begin();
    while (call != open.end() && !message.name.empty() && call->name != message.name) ++call;
    if (call == open.end()) call = open.begin();
    if (call == open.end()) return;
    message.tool_call_id = call->id;
    message.name = call->name;
    open.erase(call);
  }
};

void messages_of(Request& request, const In& value) {
  if (!value.is_array() || value.empty()) wrong("messages", "a list of at least one message");
  Calls calls;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string at = fmt::format("messages[{}]", i);
    if (!value[i].is_object()) wrong(at, "an object");
    Message message;
    for (const auto& [key, field] : value[i].items()) {
      if (field.is_null() || key == "thinking") continue;
      if (key == "role") {
        message.role = text(field, at + ".role");
        if (message.role != "system" && message.role != "user" && message.role != "assistant" && message.role != "tool")
          wrong(at + ".role", "system, user, assistant or tool");
      } else if (key == "content") {
        message.content = text(field, at + ".content");
      } else if (key == "tool_calls") {
        message.tool_calls = calls.read(field, at + ".tool_calls");
      } else if (key == "tool_name" || key == "name") {
        message.name = text(field, at + "." + key);
      } else if (key == "tool_call_id") {
        message.tool_call_id = text(field, at + ".tool_call_id");
      } else if (key == "images") {
        if (!empty(field)) unsupported(at + ".images", "the model reads text alone");
      } else {
        throw Error(Code::usage, at + "." + key, "is not known");
      }
    }
    if (message.role.empty()) wrong(at + ".role", "system, user, assistant or tool");
    if (message.role != "assistant" && !message.tool_calls.empty())
      wrong(at + ".tool_calls", "none but of an assistant");
    if (message.role == "tool") {
      calls.answer(message);
    } else {
      message.name.clear();
    }
    request.messages.push_back(std::move(message));
  }
}

void tools_of(Request& request, const In& value) {
  if (!value.is_array()) wrong("tools", "a list");
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string at = fmt::format("tools[{}].function", i);
    const In function = value[i].is_object() ? value[i].value("function", In()) : In();
    if (!function.is_object()) wrong(at, "an object");
    request.tools.push_back(function_of(function.value("name", In()), function.value("description", In()),
                                        function.value("parameters", In()), at, "parameters"));
  }
}

void format_of(Request& request, const In& value) {
  if (value == "") return;
  if (value == "json") return form_of(request, "json_object", nullptr, "format", "format");
  if (!value.is_object()) wrong("format", "json, or a JSON schema");
  form_of(request, "json_schema", value, "format", "format");
}

const Fields& option_fields() {
  const auto is = [](double number) { return [number](const In& v) { return v.is_number() && v == number; }; };
  constexpr const char* k_other = "answers are chosen by temperature, top_k, top_p and min_p";
  static const Fields fields = [&] {
    Fields all{
        {"num_predict",
         [](Request& r, const In& v) {
           if (v.is_number_integer() && v.get<std::int64_t>() < 0) return;  // as long as there is room
           r.max_tokens = whole_number(v, "options.num_predict", 1, UINT32_MAX);
         }},
        {"stop", [](Request& r, const In& v) { r.answer.stop = texts(v, "options.stop", 8); }},
        {"repeat_penalty",
         [](Request& r, const In& v) { r.answer.repetition_penalty = number(v, "options.repeat_penalty", 0.01, 10); }},
        {"mirostat", refused("options.mirostat", k_other, is(0))},
        {"typical_p", refused("options.typical_p", k_other, is(1))},
        {"tfs_z", refused("options.tfs_z", k_other, is(1))},
    };
    // Of how a server of its own would run the model.
    for (const char* name :
         {"num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock", "numa",
          "low_vram", "f16_kv", "repeat_last_n", "penalize_newline", "mirostat_tau", "mirostat_eta"})
      all[name] = without_effect();
    return all;
  }();
  return fields;
}

const Fields& shared_fields() {
  static const Fields fields{
      {"options",
       [](Request& r, const In& v) {
         if (!v.is_object()) wrong("options", "an object");
         read_fields(r, v, {&option_fields(), &sampling_fields()});
       }},
      {"format", format_of},
      {"think",
       [](Request& r, const In& v) {
         if (!v.is_boolean() && !v.is_string()) wrong("think", "true, false, or how much");
         r.think = v.is_string() || v.get<bool>();
       }},
      {"keep_alive", without_effect()},
      {"logprobs", [](Request& r, const In& v) { r.answer.log_probabilities = truth(v, "logprobs"); }},
      {"top_logprobs", [](Request& r, const In& v) { r.answer.top_logprobs = whole_number(v, "top_logprobs", 0, 20); }},
  };
  return fields;
}

const Fields& chat_fields() {
  static const Fields fields{{"messages", messages_of}, {"tools", tools_of}};
  return fields;
}

const Fields& generate_fields() {
  static const Fields fields{
      {"prompt", [](Request&, const In& v) { text(v, "prompt"); }},
      {"system", [](Request&, const In& v) { text(v, "system"); }},
      {"raw", [](Request& r, const In& v) { r.chat = !truth(v, "raw"); }},
      {"suffix", refused("suffix", "text is continued at its end alone", [](const In& v) { return v == ""; })},
      {"template", refused("template", "the model's own is used", [](const In& v) { return v == ""; })},
      {"context", refused("context", "send the dialogue to /api/chat", empty)},
      {"images", refused("images", "the model reads text alone", empty)},
  };
  return fields;
}

Request read_with(const In& in, const Fields& fields) {
  Request request;
  request.stream = true;  // where nothing else is asked for
  read_fields(request, in, {&fields, &shared_fields(), &sampling_fields()});
  return request;
}

// Lines of JSON, the last one with what it took.
class LineWriter : public AnswerWriter {
 public:
  LineWriter(const Request& request, const Head& head, bool chat) : request_(request), head_(head), chat_(chat) {}

  Json whole(const Made& made) override {
    const Choice& choice = made.choices.front();
    Json calls = Json::array();
    for (const Call& call : choice.calls) calls.push_back(call_json(calls.size(), call));
    return last(made, said(choice.text, choice.thought, calls));
  }
  std::string piece(const Piece& piece) override {
    const bool thought = piece.kind == Piece::Kind::thought;
    Json calls = Json::array();
    if (piece.kind == Piece::Kind::call) calls.push_back(call_json(calls_++, piece.call));
    return line(said(thought ? "" : piece.text, thought ? piece.text : "", calls));
  }
  std::string ping() override { return line(said("", "", Json::array())); }
  std::string end(const Made& made) override { return line(last(made, said("", "", Json::array()))); }
  std::string fail(const Refusal& refusal) override { return line({{"error", refusal.message}}); }

 private:
  static std::string line(const Json& json) { return dump(json) + "\n"; }
  static Json call_json(std::size_t index, const Call& call) {
    const Json arguments = parse_shallow(call.call.arguments);
    return {{"id", call.id},
            {"function",
             {{"index", index},
              {"name", call.call.name},
              {"arguments", arguments.is_object() ? arguments : Json::object()}}}};
  }
  Json said(const std::string& text, const std::string& thought, const Json& calls) const {
    Json all{{"model", head_.model}, {"created_at", time_of(head_.created)}};
    if (chat_) {
      all["message"] = {{"role", "assistant"}, {"content", text}};
      if (!thought.empty()) all["message"]["thinking"] = thought;
      if (!calls.empty()) all["message"]["tool_calls"] = calls;
    } else {
      all["response"] = text;
      if (!thought.empty()) all["thinking"] = thought;
    }
    all["done"] = false;
    return all;
  }
  Json last(const Made& made, Json all) const {
    const auto nanoseconds = [](double seconds) { return static_cast<std::int64_t>(seconds * 1e9); };
    const Choice& choice = made.choices.front();
    const Answer::Cost& cost = made.costs.cost;
    const bool cut = choice.end == Answer::End::length || choice.end == Answer::End::stock;
    all["done"] = true;
    all["done_reason"] = cut ? "length" : "stop";
    all["total_duration"] = nanoseconds(cost.seconds);
    all["load_duration"] = nanoseconds(cost.offline_seconds);
    all["prompt_eval_count"] = cost.prompt_tokens;
    all["prompt_eval_duration"] = nanoseconds(cost.first_token_seconds);
    all["eval_count"] = cost.answer_tokens;
    all["eval_duration"] =
        nanoseconds(cost.token_seconds * static_cast<double>(cost.answer_tokens > 0 ? cost.answer_tokens - 1 : 0));
    if (request_.answer.log_probabilities) all["logprobs"] = openai_logprobs(choice.log_probabilities);
    all["permllm"] = costs_of(made.costs);
    return all;
  }

  const Request& request_;
  const Head& head_;
  const bool chat_;
  std::size_t calls_ = 0;
};

}  // namespace

Request OllamaChat::read(std::string_view body) const {
  const In in = parse_body(body);
  Request request = read_with(in, chat_fields());
  complete(request, in.value("options", In::object()), "messages", "tools", "tools");
  return request;
}

Request OllamaGenerate::read(std::string_view body) const {
  const In in = parse_body(body);
  Request request = read_with(in, generate_fields());
  const auto words = [&](const char* key) {
    const In value = in.value(key, In());
    return value.is_null() ? "" : value.get<std::string>();
  };
  const std::string prompt = words("prompt"), system = words("system");
  if (prompt.empty()) wrong("prompt", "a text, not empty");
  if (!system.empty() && request.chat) request.messages.push_back({"system", system});
  request.messages.push_back({"user", prompt});
  complete(request, in.value("options", In::object()), "prompt", "tools", "tools");
  return request;
}

std::unique_ptr<AnswerWriter> OllamaChat::writer(const Request& request, const Head& head, std::size_t) const {
  return std::make_unique<LineWriter>(request, head, true);
}
std::unique_ptr<AnswerWriter> OllamaGenerate::writer(const Request& request, const Head& head, std::size_t) const {
  return std::make_unique<LineWriter>(request, head, false);
}

Json OllamaChat::error(const Refusal& refusal) const {
  Json error{{"error", refusal.message}};
  if (!refusal.code.empty()) error["code"] = refusal.code;
  if (!refusal.plain.empty()) error["plain"] = refusal.plain;
  return error;
}

Json OllamaModel::listed() const {
  return {{"name", name},
          {"model", name},
          {"modified_at", time_of(created)},
          {"size", 0},  // the weights are the provider's
          {"digest", model.id},
          {"details",
           {{"parent_model", ""},
            {"format", "gguf"},
            {"family", model.architecture},
            {"families", Json::array({model.architecture})},
            {"parameter_size", ""},
            {"quantization_level", ""}}}};
}

Json OllamaModel::running() const {
  constexpr std::int64_t k_year = 365 * 86400;
  Json all = listed();
  all["expires_at"] = time_of(created + k_year);
  all["size_vram"] = 0;
  all["context_length"] = model.context;
  return all;
}

Json OllamaModel::shown() const {
  Json abilities = Json::array({"completion", "tools"});
  if (has_thoughts(chat_template)) abilities.push_back("thinking");
  return {{"modelfile", ""},
          {"parameters", ""},
          {"template", chat_template},
          {"details", listed()["details"]},
          {"model_info",
           {{"general.architecture", model.architecture},
            {"general.basename", model.name},
            {model.architecture + ".block_count", model.layers},
            {model.architecture + ".context_length", model.context}}},
          {"capabilities", abilities},
          {"modified_at", time_of(created)}};
}

std::string ollama_name(std::string_view body) {
  const In in = parse_body(body);
  for (const auto& [key, value] : in.items()) {
    if (key != "model" && key != "name" && key != "verbose" && key != "system" && key != "template" && key != "options")
      throw Error(Code::usage, fmt::format("{:.64}", key), "is not known here");
  }
  for (const char* key : {"model", "name"}) {
    if (const In name = in.value(key, In()); !name.is_null()) return text(name, key);
  }
  return "";
}

}  // namespace permllm::gateway
