// A request and its answer as the gateway has them, whichever interface they came by (gateway/dialect.h).
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

namespace permllm::gateway {

using Json = nlohmann::ordered_json;

struct Request {
  bool chat = true;               // else a completion: text that the model continues
  std::string model;              // as asked for; empty: whichever is served
  std::vector<Message> messages;  // of a completion one, with the raw text
  AnswerOptions answer;           // all but max_tokens
  std::optional<std::size_t> max_tokens;
  std::size_t choices = 1;  // answers to it, one behind the other
  bool stream = false, include_usage = false;
  std::optional<bool> think = {};  // whether a model that can think does; none: as the gateway was started
  // Functions that the model may call, as OpenAI's chat has them; whether it must, and which (empty: any); whether several at once.
  Json tools = Json::array();
  enum class Calls { none, if_it_likes, required } calls = Calls::if_it_likes;
  std::string tool = {};
  bool parallel = true;
  std::shared_ptr<const JsonSchema> form = {};  // of the answer; null: any text
  std::size_t tries = 3;                        // answers at most, until one keeps what is required of it
  Json echo = Json::object();                   // fields that the interface's answers repeat

  bool may_call() const { return !tools.empty() && calls != Calls::none; }
  std::vector<std::string> tool_names() const;
};

// A call with its id.
struct Call {
  std::string id;
  ToolCall call;
};

// Of an answer under way, as it comes.
struct Piece {
  enum class Kind { thought, text, call } kind = Kind::text;
  std::size_t choice = 0;
  std::string text = {};
  Call call = {};
};

// What came meanwhile, texts of a kind in one.
std::vector<Piece> joined(const std::vector<Piece>& pieces);

// One of a request's answers.
struct Choice {
  std::string thought, text;
  std::vector<Call> calls;
  Answer::End end = Answer::End::model;
  std::string stop;  // Answer::stop
  std::vector<Answer::Chance> log_probabilities;
  std::vector<float> hidden_state = {};  // Answer::hidden_state
};

struct Costs {
  std::string profile;
  Answer::Cost cost;  // of all choices and tries
  std::size_t stock_tokens = 0;
  std::uint64_t out_of_range = 0;  // of the Answer, as the next
  std::size_t trusted_tokens = 0;
};

std::size_t cached_tokens(const Answer::Cost& cost);  // of the prompt's
// What an answer cost, in the shape that is beside every interface's own (docs/serve.md, "What an answer cost").
Json costs_of(const Costs& costs);
// null where there is no limit.
Json tokens_left(std::uint64_t tokens);

struct Made {
  std::vector<Choice> choices;
  Costs costs;
};

// What all shapes of one answer have in common.
struct Head {
  static Head of(std::string model, std::string fingerprint);
  std::string id;  // 32 hex digits
  std::string model, fingerprint;
  std::int64_t created = 0;  // seconds since 1970
};

// "Smollm2 135M" -> "smollm2-135m".
std::string slug(std::string_view name);
// Letters and digits, so many: of calls and of an answer's parts.
std::string random_id(std::size_t size);
// Text as JSON, with what is no UTF-8 replaced.
std::string dump(const Json& json);

}  // namespace permllm::gateway
