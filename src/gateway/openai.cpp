#include "gateway/openai.h"

#include <fmt/format.h>

#include <chrono>

#include "base/reason.h"
#include "rand/seed.h"
#include "wire/plain.h"

namespace permllm::openai {
namespace {

Json bytes(const char* to, std::uint64_t sent, const char* from, std::uint64_t received) {
  return {{to, sent}, {from, received}};
}
Json or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }
// "try again" -> "Try again."
std::string sentence(std::string clause) {
  clause[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(clause[0])));
  return clause + ".";
}

}  // namespace

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
std::string event(const Json& json) { return "data: " + dump(json) + "\n\n"; }

Json body_of(const Refusal& refusal) {
  Json error{{"message", refusal.message},
             {"type", refusal.type},
             {"param", or_null(refusal.param)},
             {"code", or_null(refusal.code)}};
  if (!refusal.plain.empty()) error["plain"] = refusal.plain;
  return {{"error", error}};
}

Refusal invalid(const std::string& message, const std::string& param, const std::string& code, int status) {
  return {status, "invalid_request_error", message, param, code};
}

Refusal refusal_of(const Error& error) {
  Reason reason = reason_for_user(error);
  if (reason == Reason::none && error.code() == Code::resource) reason = Reason::busy;
  const std::string message = for_person(error);
  if (reason != Reason::none) {
    const ReasonFacts& facts = facts_of(reason);
    return {facts.http_status, facts.type,        message, "",
            facts.code,        facts.retry_after, "",      sentence(facts.cause) + " " + sentence(facts.remedy)};
  }
  // What a peer makes of this program's messages is nothing that the client did.
  const bool ours = !error.by_peer();
  if (ours && error.code() == Code::unsupported) return invalid(message, error.field(), "unsupported_parameter");
  if (ours && error.code() == Code::usage) return invalid(message, error.field());
  if (ours && error.code() == Code::file) return {500, "server_error", message};
  return {502, "server_error", message, "", "peer_fault"};
}

std::string slug(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const auto u = static_cast<unsigned char>(c);
    const bool kept = std::isalnum(u) != 0 && u < 128;
    if (kept || c == '.' || c == '_') {
      out += static_cast<char>(std::tolower(u));
    } else if (!out.empty() && out.back() != '-') {
      out += '-';
    }
  }
  while (out.ends_with('-')) out.pop_back();
  return out.empty() ? "permllm" : out;
}

Json tokens_left(std::uint64_t tokens) { return tokens > INT64_MAX / 2 ? Json(nullptr) : Json(tokens); }

Json usage_of(const Costs& costs) {
  const Answer::Cost& c = costs.cost;
  return {{"prompt_tokens", c.prompt_tokens},
          {"completion_tokens", c.answer_tokens},
          {"total_tokens", c.prompt_tokens + c.answer_tokens},
          {"prompt_tokens_details", {{"cached_tokens", c.prompt_tokens - std::min(c.prompt_tokens, c.fed_tokens)}}},
          {"permllm",
           {{"profile", costs.profile},
            {"online_bytes", bytes("sent", c.online.sent, "received", c.online.received)},
            {"offline_bytes",
             {{"to_provider", c.offline_provider.sent},
              {"from_provider", c.offline_provider.received},
              {"to_helper", c.offline_helper.sent},
              {"from_helper", c.offline_helper.received}}},
            {"set_up_bytes", bytes("sent", c.set_up.sent, "received", c.set_up.received)},
            {"round_trips", c.round_trips},
            {"drafts",
             {{"passes", c.passes},
              {"tokens", c.drafted_tokens},
              {"rejected", c.rejected_tokens},
              {"rejected_offline_bytes", c.rejected_bytes}}},
            {"seconds",
             {{"offline", c.offline_seconds},
              {"first_token", c.first_token_seconds},
              {"per_token", c.token_seconds},
              {"total", c.seconds}}},
            {"out_of_range", costs.out_of_range},
            {"trusted_tokens", costs.trusted_tokens},
            {"stock_tokens", costs.stock_tokens},
            {"tokens_left", tokens_left(c.tokens_left)}}}};
}

const char* finish_reason(Answer::End end) {
  return end == Answer::End::length || end == Answer::End::stock ? "length" : "stop";
}

Json logprobs_of(const std::vector<Answer::Chance>& chances) {
  if (chances.empty()) return nullptr;
  Json content = Json::array();
  for (const Answer::Chance& chance : chances) {
    Json all = Json::array();
    for (const char byte : chance.bytes) all.push_back(static_cast<unsigned char>(byte));
    content.push_back({{"token", chance.bytes},
                       {"logprob", chance.log_probability},
                       {"bytes", all},
                       {"top_logprobs", Json::array()}});
  }
  return {{"content", content}, {"refusal", nullptr}};
}

Shape::Shape(bool chat, std::string model, std::string fingerprint)
    : chat_(chat),
      id_(fmt::format("{}-{:016x}{:016x}", chat ? "chatcmpl" : "cmpl", random_number(), random_number())),
      model_(std::move(model)),
      fingerprint_(std::move(fingerprint)),
      created_(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                   .count()) {}

Json Shape::head(const char* object) const {
  return {
      {"id", id_}, {"object", object}, {"created", created_}, {"model", model_}, {"system_fingerprint", fingerprint_}};
}

Json Shape::chunk(const Json& delta_or_text, const char* finish, bool include_usage) const {
  Json all = head(chat_ ? "chat.completion.chunk" : "text_completion");
  all["choices"] = Json::array({{{"index", 0},
                                 {chat_ ? "delta" : "text", delta_or_text},
                                 {"logprobs", nullptr},
                                 {"finish_reason", finish == nullptr ? Json(nullptr) : Json(finish)}}});
  if (include_usage) all["usage"] = nullptr;
  return all;
}
Json Shape::first_chunk(bool include_usage) const {
  return chunk({{"role", "assistant"}, {"content", ""}}, nullptr, include_usage);
}
Json Shape::text_chunk(const std::string& text, bool include_usage) const {
  return chunk(chat_ ? Json{{"content", text}} : Json(text), nullptr, include_usage);
}
Json Shape::last_chunk(const char* finish, bool include_usage, const Json& usage, const Json& logprobs) const {
  Json all = chunk(chat_ ? Json::object() : Json(""), finish, include_usage);
  all["choices"][0]["logprobs"] = logprobs;
  const Json own = usage.value("permllm", Json::object());
  if (own.value("out_of_range", std::uint64_t{0}) > 0)
    all["permllm"] = {{"out_of_range", own["out_of_range"]}, {"trusted_tokens", own["trusted_tokens"]}};
  return all;
}
std::string Shape::call_events(std::size_t index, const Call& call, bool include_usage) const {
  const auto delta = [&](const Json& of) {
    return event(chunk({{"tool_calls", Json::array({of})}}, nullptr, include_usage));
  };
  return delta({{"index", index},
                {"id", call.id},
                {"type", "function"},
                {"function", {{"name", call.call.name}, {"arguments", ""}}}}) +
         delta({{"index", index}, {"function", {{"arguments", call.call.arguments}}}});
}
Json Shape::usage_chunk(const Json& usage) const {
  Json all = head(chat_ ? "chat.completion.chunk" : "text_completion");
  all["choices"] = Json::array();
  all["usage"] = usage;
  return all;
}

Json Shape::whole(const std::string& text, const char* finish, const Json& usage, const std::vector<Call>& calls,
                  const Json& logprobs) const {
  Json all = head(chat_ ? "chat.completion" : "text_completion");
  Json choice{{"index", 0}};
  if (chat_) {
    choice["message"] = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
    if (!calls.empty() && text.empty()) choice["message"]["content"] = nullptr;
    for (const Call& call : calls) {
      choice["message"]["tool_calls"].push_back(
          {{"id", call.id},
           {"type", "function"},
           {"function", {{"name", call.call.name}, {"arguments", call.call.arguments}}}});
    }
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = logprobs;
  choice["finish_reason"] = finish;
  all["choices"] = Json::array({choice});
  all["usage"] = usage;
  return all;
}

}  // namespace permllm::openai
