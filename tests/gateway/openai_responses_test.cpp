// Requests and answers of OpenAI's Responses as data.
#include "gateway/openai_responses.h"

#include <gtest/gtest.h>

#include "gateway/dialect_events.h"

namespace permllm::gateway {
namespace {

Request read(const Json& body) { return OpenAiResponses().read(body.dump()); }
std::string refused(const Json& body) { return field_refused(OpenAiResponses(), body); }
Json with(const std::string& field, const Json& value) { return {{"input", "Hi"}, {field, value}}; }

TEST(Responses, input_is_a_text_or_items) {
  EXPECT_EQ(read({{"input", "Hi"}}).messages.at(0).content, "Hi");
  const Request request = read(Json::parse(R"({"model":"m","instructions":"Be brief.","input":[
    {"role":"developer","content":"Be kind."},
    {"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
    {"type":"reasoning","id":"rs_1","summary":[]},
    {"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"I look.","annotations":[],"logprobs":[]}]},
    {"type":"function_call","id":"fc_1","call_id":"c1","name":"f","arguments":"{\"x\":1}","status":"completed"},
    {"type":"function_call","call_id":"c2","name":"g","arguments":"{}"},
    {"type":"function_call_output","call_id":"c1","output":"20"},
    {"type":"function_call_output","call_id":"c2","output":[{"type":"input_text","text":"21"}]}]})"));
  ASSERT_EQ(request.messages.size(), 5u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[0].content, "Be brief.\n\nBe kind.");
  EXPECT_EQ(request.messages[1].content, "a\nb");
  EXPECT_EQ(request.messages[2].content, "I look.");
  const Json calls = Json::parse(request.messages[2].tool_calls);
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0]["function"]["arguments"], (Json{{"x", 1}}));
  EXPECT_EQ(calls[1]["id"], "c2");
  EXPECT_EQ(request.messages[3].role, "tool");
  EXPECT_EQ(request.messages[3].tool_call_id, "c1");
  EXPECT_EQ(request.messages[4].content, "21");
}

TEST(Responses, fields_are_read) {
  const Request request =
      read(Json::parse(R"({"input":"Hi","max_output_tokens":7,"temperature":0.5,"stream":true,"store":false,
    "tools":[{"type":"function","name":"f","description":"d","parameters":{"type":"object"},"strict":true}],"tool_choice":{"type":"function","name":"f"},
    "parallel_tool_calls":false,"include":["message.output_text.logprobs","reasoning.encrypted_content"],"top_logprobs":2,"truncation":"disabled",
    "text":{"verbosity":"low"},"reasoning":{"effort":"low"},"metadata":{"a":"b"},"previous_response_id":null,"background":false})"));
  EXPECT_EQ(request.max_tokens, 7u);
  EXPECT_TRUE(request.stream && !request.parallel && request.answer.log_probabilities);
  EXPECT_EQ(request.tools[0]["function"],
            (Json{{"name", "f"}, {"description", "d"}, {"parameters", {{"type", "object"}}}}));
  EXPECT_EQ(request.tool, "f");
  EXPECT_TRUE(
      read(with("text",
                Json::parse(R"({"format":{"type":"json_schema","name":"n","schema":{"type":"array"},"strict":true}})")))
          .form->keeps(Json::array()));
}

TEST(Responses, what_is_not_honoured_is_refused_by_name) {
  for (const auto& [field, value] : std::map<std::string, Json>{{"store", true},
                                                                {"previous_response_id", "resp_1"},
                                                                {"conversation", "c"},
                                                                {"background", true},
                                                                {"truncation", "auto"},
                                                                {"include", Json::array({"file_search_call.results"})},
                                                                {"prompt", {{"id", "p"}}}})
    EXPECT_EQ(refused(with(field, value)), field + " unsupported");
  EXPECT_EQ(refused(Json::object()), "input");
  EXPECT_EQ(refused({{"input", ""}}), "input");
  EXPECT_EQ(refused({{"input", Json::array({{{"type", "item_reference"}, {"id", "x"}}})}}),
            "input[0].type unsupported");
  EXPECT_EQ(
      refused({{"input", Json::array({{{"role", "user"}, {"content", Json::array({{{"type", "input_image"}}})}}})}}),
      "input[0].content[0].type unsupported");
  EXPECT_EQ(refused(with("tools", Json::array({{{"type", "web_search"}}}))), "tools[0].type unsupported");
  EXPECT_EQ(refused(with("messages", Json::array())), "messages");
}

Made made_of(const std::string& text) {
  Made made;
  made.choices.push_back({"hm", text, {{"id7", {"f", "{\"x\":1}"}}}, Answer::End::model, "", {}});
  made.costs.cost.prompt_tokens = 5;
  made.costs.cost.fed_tokens = 2;
  made.costs.cost.answer_tokens = 3;
  return made;
}

TEST(Responses, an_answer_is_a_list_of_items) {
  const Head head = Head::of("m", "fp");
  const Request request = read(with("instructions", "Be brief."));
  const Json whole = OpenAiResponses().writer(request, head, 0)->whole(made_of("a"));
  EXPECT_EQ(whole["id"], "resp_" + head.id);
  EXPECT_EQ(whole["object"], "response");
  EXPECT_EQ(whole["status"], "completed");
  EXPECT_EQ(whole["instructions"], "Be brief.");
  EXPECT_EQ(whole["store"], false);
  ASSERT_EQ(whole["output"].size(), 3u);
  EXPECT_EQ(whole["output"][0]["content"][0]["text"], "hm");
  EXPECT_EQ(whole["output"][1]["content"][0]["type"], "output_text");
  EXPECT_EQ(whole["output"][1]["content"][0]["text"], "a");
  EXPECT_EQ(whole["output"][2]["type"], "function_call");
  EXPECT_EQ(whole["output"][2]["call_id"], "id7");
  EXPECT_EQ(whole["output"][2]["arguments"], "{\"x\":1}");
  EXPECT_EQ(whole["usage"]["input_tokens_details"]["cached_tokens"], 3);
  EXPECT_EQ(whole["usage"]["total_tokens"], 8);
  Made cut = made_of("a");
  cut.choices[0].end = Answer::End::length;
  const Json incomplete = OpenAiResponses().writer(request, head, 0)->whole(cut);
  EXPECT_EQ(incomplete["status"], "incomplete");
  EXPECT_EQ(incomplete["incomplete_details"]["reason"], "max_output_tokens");
}

// The order that clients rely on; what was streamed is what stands at the end.
TEST(Responses, a_stream_opens_and_closes_each_item_and_part) {
  const Head head = Head::of("m", "fp");
  const Request request = read({{"input", "Hi"}});
  const Made made = made_of("ab");
  const auto writer = OpenAiResponses().writer(request, head, 0);
  std::string bytes = writer->begin();
  bytes += writer->piece({Piece::Kind::thought, 0, "hm", {}});
  bytes += writer->piece({Piece::Kind::text, 0, "a", {}});
  bytes += writer->ping();
  bytes += writer->piece({Piece::Kind::text, 0, "b", {}});
  bytes += writer->piece({Piece::Kind::call, 0, "", made.choices[0].calls[0]});
  bytes += writer->end(made);
  const auto events = named_events(bytes);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < events.size(); ++i) {
    names.push_back(events[i]["type"].get<std::string>().substr(9));
    EXPECT_EQ(events[i]["sequence_number"], i);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"created",
                                             "in_progress",
                                             "output_item.added",
                                             "content_part.added",
                                             "reasoning_text.delta",
                                             "reasoning_text.done",
                                             "content_part.done",
                                             "output_item.done",
                                             "output_item.added",
                                             "content_part.added",
                                             "output_text.delta",
                                             "output_text.delta",
                                             "output_text.done",
                                             "content_part.done",
                                             "output_item.done",
                                             "output_item.added",
                                             "function_call_arguments.delta",
                                             "function_call_arguments.done",
                                             "output_item.done",
                                             "completed"}));
  EXPECT_EQ(events[10]["delta"], "a");
  EXPECT_EQ(events[10]["output_index"], 1);
  EXPECT_EQ(events[10]["item_id"], events[8]["item"]["id"]);
  EXPECT_EQ(events[12]["text"], "ab");
  EXPECT_EQ(events[15]["item"]["arguments"], "");
  EXPECT_EQ(events[17]["arguments"], "{\"x\":1}");
  const Json last = events.back()["response"];
  EXPECT_EQ(last["status"], "completed");
  for (std::size_t i = 0, item = 0; i < events.size(); ++i) {
    if (names[i] == "output_item.done") {
      EXPECT_EQ(events[i]["item"], last["output"][item++]);
    }
  }
  EXPECT_EQ(last["usage"]["output_tokens"], 3);
  const auto fails = OpenAiResponses().writer(request, head, 0);
  EXPECT_EQ(named_events(fails->fail(invalid("m", "", "c"))).at(0)["response"]["error"],
            (Json{{"code", "c"}, {"message", "m"}}));
}

}  // namespace
}  // namespace permllm::gateway
