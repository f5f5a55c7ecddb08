// Requests and answers of Anthropic's Messages as data.
#include "gateway/anthropic_messages.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "gateway/dialect_events.h"

namespace permllm::gateway {
namespace {

Request read(const Json& body) { return AnthropicMessages().read(body.dump()); }
std::string refused(const Json& body) { return field_refused(AnthropicMessages(), body); }
const Json k_asked = Json::parse(R"({"model":"m","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]})");
Json with(const std::string& field, const Json& value) {
  Json body = k_asked;
  body[field] = value;
  return body;
}
std::string message(const Json& one) {
  return refused(with("messages", Json::array({one, {{"role", "user"}, {"content", "?"}}})));
}

TEST(Messages, blocks_are_read_into_messages) {
  const Request request = read(Json::parse(
      R"({"model":"m","max_tokens":5,"system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}],
    "messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":""},{"type":"text","text":"I look."},{"type":"tool_use","id":"t1","name":"f","input":{"x":1}}]},
      {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"20"}],"is_error":false},{"type":"text","text":"And?"}]}]})"));
  ASSERT_EQ(request.messages.size(), 5u);
  EXPECT_EQ(request.messages[0].role + request.messages[0].content, "systemBe brief.");
  EXPECT_EQ(request.messages[1].content, "a\nb");
  EXPECT_EQ(request.messages[2].content, "I look.");
  EXPECT_EQ(Json::parse(request.messages[2].tool_calls)[0]["function"],
            (Json{{"name", "f"}, {"arguments", {{"x", 1}}}}));
  EXPECT_EQ(request.messages[3].role, "tool");
  EXPECT_EQ(request.messages[3].tool_call_id, "t1");
  EXPECT_EQ(request.messages[3].content, "20");
  EXPECT_EQ(request.messages[4].content, "And?");
}

TEST(Messages, fields_are_read) {
  const Request request = read(Json::parse(
      R"({"model":"m","max_tokens":7,"messages":[{"role":"user","content":"Hi"}],"stream":true,"temperature":0.5,"top_k":3,
    "stop_sequences":["x","y"],"tools":[{"name":"f","description":"d","input_schema":{"type":"object"}}],"tool_choice":{"type":"any","disable_parallel_tool_use":true},
    "thinking":{"type":"enabled","budget_tokens":1024},"metadata":{"user_id":"u"},"service_tier":"auto"})"));
  EXPECT_EQ(request.max_tokens, 7u);
  EXPECT_EQ(request.answer.stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(request.tools[0]["function"],
            (Json{{"name", "f"}, {"description", "d"}, {"parameters", {{"type", "object"}}}}));
  EXPECT_TRUE(request.stream && !request.parallel && request.calls == Request::Calls::required);
  EXPECT_EQ(request.think, true);
  EXPECT_TRUE(read(with("output_config", Json::parse(R"({"format":{"type":"json_schema","schema":{"type":"array"}}})")))
                  .form->keeps(Json::array()));
  Json counted = k_asked;
  counted.erase("max_tokens");
  EXPECT_EQ(refused(counted), "max_tokens");
  EXPECT_EQ(AnthropicCount().read(counted.dump()).messages.size(), 1u);
}

TEST(Messages, what_is_not_honoured_is_refused_by_name) {
  EXPECT_EQ(refused(with("container", "c")), "container unsupported");
  EXPECT_EQ(refused(with("tools", Json::array({{{"type", "web_search_20250305"}, {"name", "web_search"}}}))),
            "tools[0].type unsupported");
  EXPECT_EQ(refused(with("tool_choice", {{"type", "sometimes"}})), "tool_choice.type");
  EXPECT_EQ(refused(with("stop_sequences", "x")), "stop_sequences");
  EXPECT_EQ(refused(with("unheard_of", 1)), "unheard_of");
  EXPECT_EQ(message({{"role", "king"}, {"content", "a"}}), "messages[0].role");
  EXPECT_EQ(message({{"role", "user"}, {"content", Json::array({{{"type", "image"}}})}}),
            "messages[0].content[0].type unsupported");
  EXPECT_EQ(message({{"role", "user"}, {"content", Json::array({{{"type", "text"}, {"text", "a"}, {"other", 1}}})}}),
            "messages[0].content[0].other");
  EXPECT_EQ(refused(with("messages", Json::array({{{"role", "assistant"}, {"content", "a"}}}))),
            "messages unsupported");
}

Made made_of() {
  Made made;
  made.choices.push_back({"hm", "ab", {{"id7", {"f", "{\"x\":1}"}}}, Answer::End::model, "", {}});
  made.costs.cost.prompt_tokens = 5;
  made.costs.cost.fed_tokens = 2;
  made.costs.cost.answer_tokens = 3;
  return made;
}

TEST(Messages, an_answer_is_a_list_of_blocks) {
  const Head head = Head::of("m", "fp");
  const Request request = read(k_asked);
  Made made = made_of();
  const auto whole = [&] { return AnthropicMessages().writer(request, head, 5)->whole(made); };
  const Json all = whole();
  EXPECT_EQ(all["type"], "message");
  ASSERT_EQ(all["content"].size(), 3u);
  EXPECT_EQ(all["content"][0]["thinking"], "hm");
  EXPECT_EQ(all["content"][1], (Json{{"type", "text"}, {"text", "ab"}}));
  EXPECT_EQ(all["content"][2], (Json{{"type", "tool_use"}, {"id", "id7"}, {"name", "f"}, {"input", {{"x", 1}}}}));
  EXPECT_EQ(all["stop_reason"], "tool_use");
  EXPECT_EQ(all["usage"]["input_tokens"], 2);
  EXPECT_EQ(all["usage"]["cache_read_input_tokens"], 3);
  made.choices[0].calls.clear();
  EXPECT_EQ(whole()["stop_reason"], "end_turn");
  made.choices[0].end = Answer::End::stop;
  made.choices[0].stop = "x";
  EXPECT_EQ(whole()["stop_reason"], "stop_sequence");
  EXPECT_EQ(whole()["stop_sequence"], "x");
  made.choices[0].end = Answer::End::length;
  EXPECT_EQ(whole()["stop_reason"], "max_tokens");
}

TEST(Messages, a_stream_opens_and_closes_each_block) {
  const Head head = Head::of("m", "fp");
  const Request request = read(k_asked);
  const Made made = made_of();
  const auto writer = AnthropicMessages().writer(request, head, 5);
  std::string bytes = writer->begin();
  bytes += writer->piece({Piece::Kind::thought, 0, "hm", {}});
  bytes += writer->piece({Piece::Kind::text, 0, "a", {}});
  bytes += writer->ping();
  bytes += writer->piece({Piece::Kind::text, 0, "b", {}});
  bytes += writer->piece({Piece::Kind::call, 0, "", made.choices[0].calls[0]});
  bytes += writer->end(made);
  const auto events = named_events(bytes);
  std::string told;
  for (const Json& event : events) {
    const std::string type = event["type"];
    told +=
        type == "content_block_start" ? fmt::format("[{}", event["index"].get<int>())
        : type == "content_block_delta"
            ? event["delta"].value("text", event["delta"].value("thinking", event["delta"].value("partial_json", "")))
        : type == "content_block_stop" ? "]"
                                       : " " + type + " ";
  }
  EXPECT_EQ(told, " message_start [0hm][1a ping b][2{\"x\":1}] message_delta  message_stop ");
  EXPECT_EQ(events[0]["message"]["usage"]["input_tokens"], 5);
  EXPECT_EQ(events[0]["message"]["content"], Json::array());
  const Json& last = events[events.size() - 2];
  EXPECT_EQ(last["delta"], (Json{{"stop_reason", "tool_use"}, {"stop_sequence", nullptr}}));
  EXPECT_EQ(last["usage"]["output_tokens"], 3);
}

TEST(Messages, errors_have_anthropics_shape) {
  const Json error = AnthropicMessages().error(refusal_of(Error(Code::usage, "max_tokens", "expected 1")));
  EXPECT_EQ(error["type"], "error");
  EXPECT_EQ(error["error"]["type"], "invalid_request_error");
  EXPECT_NE(error["error"]["message"].get<std::string>().find("max_tokens"), std::string::npos);
  for (const auto& [status, type] : std::map<int, std::string>{{401, "authentication_error"},
                                                               {403, "permission_error"},
                                                               {404, "not_found_error"},
                                                               {413, "request_too_large"},
                                                               {429, "rate_limit_error"},
                                                               {500, "api_error"},
                                                               {503, "overloaded_error"}})
    EXPECT_EQ(AnthropicMessages().error(invalid("m", "", "", status))["error"]["type"], type);
  const auto failed = AnthropicMessages().writer({}, {}, 0)->fail(invalid("m"));
  EXPECT_TRUE(failed.starts_with("event: error\ndata: {\"type\":\"error\"")) << failed;
}

}  // namespace
}  // namespace permllm::gateway
