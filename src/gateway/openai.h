// The HTTP interface of OpenAI as data: requests are read into what the library takes, answers and errors put into its shapes.
// Nothing here knows of sockets. docs/serve.md lists the fields.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "permllm/client.h"
#include "structured/json_schema.h"
#include "structured/tool_calls.h"

namespace permllm::openai {

using Json = nlohmann::ordered_json;

struct Request {
  bool chat = true;               // else a completion: text that the model continues
  std::string model;              // as asked for; empty: whichever is served
  std::vector<Message> messages;  // of a completion one, with the raw text
  AnswerOptions answer;           // all but max_tokens
  std::optional<std::size_t> max_tokens;
  bool stream = false, include_usage = false;
  // Functions that the model may call, as they were given; whether it must, and which (empty: any); whether several at once.
  Json tools = Json::array();
  enum class Calls { none, if_it_likes, required } calls = Calls::if_it_likes;
  std::string tool = {};
  bool parallel = true;
  std::shared_ptr<const JsonSchema> form = {};  // of response_format; null: any text
  std::size_t tries = 3;                        // answers at most, until one keeps what is required of it

  bool may_call() const { return !tools.empty() && calls != Calls::none; }
  std::vector<std::string> tool_names() const;
};

// Errors, each with the parameter's name as its field: usage (a value out of its range, a field that is missing or not known), unsupported (a field of
// OpenAI's that this program does not honour). None quotes a value.
Request parse_chat(std::string_view body);
Request parse_completion(std::string_view body);
// Of /tokenize: content, or messages.
struct Text {
  std::optional<std::string> content;
  std::vector<Message> messages;
};
Text parse_text(std::string_view body);

// An error as it is answered.
struct Refusal {
  int status = 500;
  std::string type = "server_error", message;
  std::string param = {}, code = {};  // empty: null
  int retry_after = 0;                // seconds; 0: not said
  std::string allow = {};             // of 405: the methods that may be
  std::string plain = {};             // of a reason: sentences for the person at the page, cause and remedy
};
Json body_of(const Refusal& refusal);
// What a fault of the library or of parse_* is to whoever asked.
Refusal refusal_of(const Error& error);

Refusal invalid(const std::string& message, const std::string& param = {}, const std::string& code = {},
                int status = 400);

// "Smollm2 135M" -> "smollm2-135m".
std::string slug(std::string_view name);

struct Costs {
  std::string profile;
  Answer::Cost cost;
  std::size_t stock_tokens = 0;
  std::uint64_t out_of_range = 0;  // of the Answer, as the next
  std::size_t trusted_tokens = 0;
};
// null where there is no limit.
Json tokens_left(std::uint64_t tokens);
Json usage_of(const Costs& costs);
const char* finish_reason(Answer::End end);
// Of the tokens of an answer; null where they are not wanted.
Json logprobs_of(const std::vector<Answer::Chance>& chances);
// A call with its id.
struct Call {
  std::string id;
  ToolCall call;
};

// One answer in its shapes: whole, or as a stream's chunks.
class Shape {
 public:
  Shape(bool chat, std::string model, std::string fingerprint);
  // In streams that end with the usage it is null before.
  Json chunk(const Json& delta_or_text, const char* finish, bool include_usage) const;
  Json first_chunk(bool include_usage) const;  // of a chat: the role
  Json text_chunk(const std::string& text, bool include_usage) const;
  // usage: of the whole answer; of it, in every stream, that numbers were out of range. logprobs: of its tokens.
  Json last_chunk(const char* finish, bool include_usage, const Json& usage, const Json& logprobs = nullptr) const;
  Json usage_chunk(const Json& usage) const;
  Json whole(const std::string& text, const char* finish, const Json& usage, const std::vector<Call>& calls = {},
             const Json& logprobs = nullptr) const;
  // The index-th call, in two events: whose it is, and its arguments.
  std::string call_events(std::size_t index, const Call& call, bool include_usage) const;
  bool chat() const { return chat_; }

 private:
  Json head(const char* object) const;
  bool chat_;
  std::string id_, model_, fingerprint_;
  std::int64_t created_;
};

// An event of a stream: "data: ...\n\n".
std::string event(const Json& json);
// Text as JSON, with what is no UTF-8 replaced.
std::string dump(const Json& json);

}  // namespace permllm::openai
