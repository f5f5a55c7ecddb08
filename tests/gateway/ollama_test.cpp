// Requests and answers of Ollama's interface as data.
#include "gateway/ollama.h"

#include <gtest/gtest.h>

#include "gateway/dialect_events.h"

namespace permllm::gateway {
namespace {

Request read(const Json& body) { return OllamaChat().read(body.dump()); }
std::string refused(const Json& body) { return field_refused(OllamaChat(), body); }
const Json k_chat = Json::parse(R"({"model":"m","messages":[{"role":"user","content":"Hi"}]})");
Json with(const std::string& field, const Json& value) {
  Json body = k_chat;
  body[field] = value;
  return body;
}

TEST(Ollama, a_chat_is_read_with_its_options) {
  const Request request = read(Json::parse(
      R"({"model":"m:latest","messages":[{"role":"system","content":"s"},{"role":"user","content":"a","images":[]},
      {"role":"assistant","content":"","thinking":"hm","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}},{"function":{"name":"g","arguments":{}}}]},
      {"role":"tool","tool_name":"g","content":"21"},{"role":"tool","content":"20"}],
    "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}],
    "options":{"num_predict":7,"temperature":0.5,"seed":3,"top_k":2,"stop":["x"],"num_ctx":4096,"repeat_penalty":1.1,"mirostat":0},
    "think":false,"keep_alive":"5m","stream":false})"));
  EXPECT_EQ(request.model, "m:latest");
  ASSERT_EQ(request.messages.size(), 5u);
  const Json calls = Json::parse(request.messages[2].tool_calls);
  EXPECT_EQ(calls[0]["function"]["arguments"], (Json{{"x", 1}}));
  // What a tool said finds its call, by its name or by its turn.
  EXPECT_EQ(request.messages[3].tool_call_id, calls[1]["id"]);
  EXPECT_EQ(request.messages[4].tool_call_id, calls[0]["id"]);
  EXPECT_EQ(request.messages[4].name, "f");
  EXPECT_EQ(request.max_tokens, 7u);
  EXPECT_EQ(request.answer.temperature, 0.5);
  EXPECT_EQ(request.answer.repetition_penalty, 1.1);
  EXPECT_EQ(request.answer.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(request.think, false);
  EXPECT_FALSE(request.stream);
  EXPECT_TRUE(read(k_chat).stream);  // where nothing else is asked for
  EXPECT_FALSE(read(with("options", {{"num_predict", -1}})).max_tokens);
  EXPECT_TRUE(read(with("format", "json")).form->keeps(Json::object()));
  EXPECT_TRUE(read(with("format", {{"type", "array"}})).form->keeps(Json::array()));
  EXPECT_FALSE(read(with("format", "")).form);
}

TEST(Ollama, generate_asks_one_question_or_goes_on_with_raw_text) {
  const auto generate = [](const Json& body) { return OllamaGenerate().read(body.dump()); };
  const Request request = generate({{"model", "m"}, {"prompt", "p"}, {"system", "s"}});
  ASSERT_EQ(request.messages.size(), 2u);
  EXPECT_EQ(request.messages[0].role + request.messages[0].content, "systems");
  EXPECT_TRUE(request.chat && request.stream);
  EXPECT_FALSE(generate({{"prompt", "p"}, {"raw", true}}).chat);
  EXPECT_EQ(field_refused(OllamaGenerate(), {{"prompt", ""}}), "prompt");
  EXPECT_EQ(field_refused(OllamaGenerate(), {{"prompt", "p"}, {"suffix", "s"}}), "suffix unsupported");
  EXPECT_EQ(field_refused(OllamaGenerate(), {{"prompt", "p"}, {"context", {1}}}), "context unsupported");
}

TEST(Ollama, what_is_not_honoured_is_refused_by_name) {
  EXPECT_EQ(refused(with("options", {{"mirostat", 1}})), "options.mirostat unsupported");
  EXPECT_EQ(refused(with("options", {{"unheard_of", 1}})), "unheard_of");
  EXPECT_EQ(refused(with("format", "yaml")), "format");
  EXPECT_EQ(refused(with("messages", Json::array({{{"role", "user"}, {"content", "a"}, {"images", {"x"}}}}))),
            "messages[0].images unsupported");
  EXPECT_EQ(refused(with("messages", Json::array({{{"content", "a"}}}))), "messages[0].role");
  EXPECT_EQ(refused(with("raw", true)), "raw");
}

TEST(Ollama, an_answer_is_lines_and_the_last_one_counts) {
  const Head head{"id", "m", "fp", 1'700'000'000};
  const Request request = read(k_chat);
  Made made;
  made.choices.push_back({"hm", "ab", {{"id7", {"f", "{\"x\":1}"}}}, Answer::End::length, "", {}});
  made.costs.cost.prompt_tokens = 5;
  made.costs.cost.answer_tokens = 3;
  made.costs.cost.token_seconds = 0.5;
  const auto writer = OllamaChat().writer(request, head, 0);
  std::string bytes = writer->begin();
  bytes += writer->piece({Piece::Kind::thought, 0, "hm", {}});
  bytes += writer->piece({Piece::Kind::text, 0, "ab", {}});
  bytes += writer->ping();
  bytes += writer->piece({Piece::Kind::call, 0, "", made.choices[0].calls[0]});
  bytes += writer->end(made);
  std::vector<Json> lines;
  for (std::size_t from = 0, end = 0; (end = bytes.find('\n', from)) != std::string::npos; from = end + 1)
    lines.push_back(Json::parse(bytes.substr(from, end - from)));
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines[0]["message"]["thinking"], "hm");
  EXPECT_EQ(lines[1], (Json{{"model", "m"},
                            {"created_at", "2023-11-14T22:13:20Z"},
                            {"message", {{"role", "assistant"}, {"content", "ab"}}},
                            {"done", false}}));
  EXPECT_EQ(lines[2]["message"]["content"], "");  // a sign of life
  EXPECT_EQ(lines[3]["message"]["tool_calls"][0]["function"]["arguments"], (Json{{"x", 1}}));
  EXPECT_EQ(lines[4]["done_reason"], "length");
  EXPECT_EQ(lines[4]["eval_count"], 3);
  EXPECT_EQ(lines[4]["eval_duration"], 1'000'000'000);
  const Json whole = OllamaChat().writer(request, head, 0)->whole(made);
  EXPECT_EQ(whole["message"]["content"], "ab");
  EXPECT_EQ(whole["done"], true);
  EXPECT_EQ(OllamaGenerate().writer(request, head, 0)->whole(made)["response"], "ab");
  EXPECT_EQ(writer->fail(invalid("m")), "{\"error\":\"m\"}\n");
  EXPECT_EQ(OllamaChat().error(invalid("m", "p"))["error"], "m");
}

TEST(Ollama, models_are_told_of) {
  Client::Model served;
  served.name = "Tiny";
  served.architecture = "llama";
  served.id = "abc";
  served.context = 64;
  const std::string plain = "{{ messages }}", thinking = "<think></think>";
  const OllamaModel model{"tiny:latest", 1'700'000'000, served, plain};
  EXPECT_EQ(model.listed()["name"], "tiny:latest");
  EXPECT_EQ(model.listed()["digest"], "abc");
  EXPECT_EQ(model.running()["context_length"], 64);
  EXPECT_EQ(model.shown()["model_info"]["llama.context_length"], 64);
  EXPECT_EQ(model.shown()["capabilities"], Json::array({"completion", "tools"}));
  EXPECT_EQ((OllamaModel{"t", 0, served, thinking}.shown()["capabilities"].size()), 3u);
  EXPECT_EQ(ollama_name(R"({"model":"tiny","verbose":true})"), "tiny");
  EXPECT_EQ(ollama_name(R"({"name":"tiny"})"), "tiny");
}

}  // namespace
}  // namespace permllm::gateway
