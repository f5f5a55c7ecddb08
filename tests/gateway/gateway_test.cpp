// The gateway as its clients meet it: `permllm serve` in a process of its own, with a provider and a helper in theirs, over real sockets.
#include <fmt/format.h>

#include <numeric>
#include <regex>
#include <sstream>

#include "base/temporary_directory.h"
#include "gateway/harness.h"

namespace permllm::gateway_test {
namespace {

class GatewayTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    temporary = std::make_unique<TemporaryDirectory>();
    folder = temporary->path();
    parties = std::make_unique<Parties>(folder / "fast");
    gateway = parties->gateway();
    relay = std::make_unique<test::DelayRelay>(parties->provider->port(), 10ms);
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(gateway->end(), 0) << parties->logged();
    gateway.reset();
    relay.reset();
    parties.reset();
    temporary.reset();
  }
  static std::unique_ptr<Service> slow_gateway(const std::string& options = "") {
    return parties->gateway(options, 100000, relay->address());
  }

  static inline std::unique_ptr<TemporaryDirectory> temporary;
  static inline std::filesystem::path folder;
  static inline std::unique_ptr<Parties> parties;
  static inline std::unique_ptr<test::DelayRelay> relay;
  static inline std::unique_ptr<Service> gateway;
};

TEST_F(GatewayTest, answers_a_chat_and_says_what_it_cost) {
  const Reply reply = post(*gateway, k_chats, chat());
  ASSERT_EQ(reply.status, 200) << reply.text;
  EXPECT_EQ(reply.header("Content-Type"), "application/json");
  const Json answer = reply.json();
  EXPECT_EQ(answer["object"], "chat.completion");
  EXPECT_EQ(answer["model"], "tiny");
  EXPECT_TRUE(answer["system_fingerprint"].get<std::string>().starts_with("fp_"));
  EXPECT_EQ(answer["choices"].size(), 1u);
  EXPECT_EQ(answer["choices"][0]["message"]["role"], "assistant");
  EXPECT_FALSE(answer["choices"][0]["message"]["content"].get<std::string>().empty());
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  const Json usage = answer["usage"], ours = usage["permllm"];
  EXPECT_EQ(usage["completion_tokens"], 6);
  EXPECT_EQ(usage["total_tokens"], usage["prompt_tokens"].get<int>() + 6);
  EXPECT_EQ(ours["profile"], "paper");
  for (const char* key : {"sent", "received"}) {
    EXPECT_GT(ours["online_bytes"][key], 0);
    EXPECT_TRUE(ours["set_up_bytes"].contains(key));
  }
  for (const char* key : {"to_provider", "from_provider", "to_helper", "from_helper"})
    EXPECT_TRUE(ours["offline_bytes"].contains(key)) << key;
  EXPECT_GT(ours["round_trips"], 6);
  EXPECT_GT(ours["drafts"]["passes"], 0);
  for (const char* key : {"tokens", "rejected", "rejected_offline_bytes"}) EXPECT_EQ(ours["drafts"][key], 0) << key;
  for (const char* key : {"offline", "first_token", "per_token", "total"}) EXPECT_GT(ours["seconds"][key], 0) << key;
  EXPECT_LE(ours["tokens_left"], 100000 - 6);
  EXPECT_TRUE(ours.contains("stock_tokens"));

  // Greedy unless asked otherwise; choices with a seed are repeatable.
  const auto text = [](const Reply& r) { return r.json()["choices"][0]["message"]["content"]; };
  EXPECT_EQ(text(post(*gateway, k_chats, chat())), text(reply));
  const Json warm{{"temperature", 2}, {"top_k", 2}, {"seed", 1}};
  EXPECT_EQ(text(post(*gateway, k_chats, chat(k_question, warm))),
            text(post(*gateway, k_chats, chat(k_question, warm))));
}

TEST_F(GatewayTest, a_stream_has_the_chunks_that_strict_clients_expect) {
  const Json whole = post(*gateway, k_chats, chat()).json();
  const Reply reply =
      post(*gateway, k_chats, chat(k_question, {{"stream", true}, {"stream_options", {{"include_usage", true}}}}));
  ASSERT_EQ(reply.status, 200);
  EXPECT_EQ(reply.header("Content-Type"), "text/event-stream");
  EXPECT_EQ(reply.header("Cache-Control"), "no-store");
  const auto events = events_of(reply.text);
  ASSERT_GE(events.size(), 5u);  // one text at least: what has come meanwhile is told together
  EXPECT_EQ(events.back(), "done");
  std::string text;
  for (std::size_t i = 0; i + 1 < events.size(); ++i) {
    const Json& chunk = events[i];
    for (const char* key : {"id", "created", "model", "system_fingerprint"}) EXPECT_EQ(chunk[key], events[0][key]) << i;
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    if (i + 2 == events.size()) {
      EXPECT_EQ(chunk["choices"], Json::array());
      EXPECT_EQ(chunk["usage"]["completion_tokens"], 6);
      continue;
    }
    EXPECT_TRUE(chunk.at("usage").is_null());
    const Json& choice = chunk["choices"][0];
    EXPECT_EQ(choice["index"], 0);
    if (i + 3 == events.size()) {
      EXPECT_EQ(choice["delta"], Json::object());
      EXPECT_EQ(choice["finish_reason"], "length");
      continue;
    }
    EXPECT_TRUE(choice.at("finish_reason").is_null());
    EXPECT_EQ(choice["delta"].contains("role"), i == 0);
    if (i == 0) {
      EXPECT_EQ(choice["delta"], (Json{{"role", "assistant"}, {"content", ""}}));
    }
    text += choice["delta"]["content"].get<std::string>();
  }
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);

  for (const Json& chunk : events_of(post(*gateway, k_chats, chat(k_question, {{"stream", true}})).text)) {
    EXPECT_TRUE(chunk == "done" || !chunk.contains("usage"));  // where it was not asked for
  }
}

TEST_F(GatewayTest, a_stop_text_ends_an_answer_before_it) {
  const std::string text =
      post(*gateway, k_chats, chat(k_question, {{"max_tokens", 12}})).json()["choices"][0]["message"]["content"];
  std::size_t from = text.size() / 2;
  while (from < text.size() && (text[from] & 0xC0) == 0x80) ++from;
  const std::string stop = text.substr(from, 1);
  const Json stopped =
      post(*gateway, k_chats, chat(k_question, {{"max_tokens", 12}, {"stop", {"nowhere", stop}}})).json();
  EXPECT_EQ(stopped["choices"][0]["message"]["content"], text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
}

TEST_F(GatewayTest, an_answer_goes_on_where_it_ended) {
  const std::string begun = "It is";
  Json body = chat(k_question, {{"max_tokens", 3}});
  const Json asked = post(*gateway, k_chats, body).json();
  body["continue_final_message"] = true;
  body["messages"].push_back({{"role", "assistant"}, {"content", begun}});
  const Json went_on = post(*gateway, k_chats, body).json();
  // The model was fed what the question alone feeds, and behind it the answer's beginning: no end of it, and no other answer.
  const std::size_t more = post(*gateway, "/tokenize", {{"content", begun}}).json()["count"];
  EXPECT_EQ(went_on["usage"]["prompt_tokens"].get<std::size_t>(),
            asked["usage"]["prompt_tokens"].get<std::size_t>() + more);
  const std::string text = went_on["choices"][0]["message"]["content"];
  EXPECT_FALSE(text.empty() || text.starts_with(begun)) << text;
  body.erase("continue_final_message");
  EXPECT_GT(post(*gateway, k_chats, body).json()["usage"]["prompt_tokens"], went_on["usage"]["prompt_tokens"]);
}

TEST_F(GatewayTest, completions_go_on_with_the_raw_text) {
  const Reply reply = post(*gateway, "/v1/completions", {{"prompt", "It is"}, {"max_tokens", 4}});
  ASSERT_EQ(reply.status, 200) << reply.text;
  const Json answer = reply.json();
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], post(*gateway, "/tokenize", {{"content", "It is"}}).json()["count"]);
  const auto events =
      events_of(post(*gateway, "/v1/completions", {{"prompt", {"It is"}}, {"max_tokens", 4}, {"stream", true}}).text);
  std::string text;
  for (const Json& chunk : events) {
    if (chunk != "done") text += chunk["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(text, answer["choices"][0]["text"]);
  EXPECT_EQ(events[events.size() - 2]["choices"][0]["finish_reason"], "length");
}

TEST_F(GatewayTest, the_likelihood_of_each_chosen_token_is_told) {
  const Json asked{{"max_tokens", 3}, {"logprobs", true}};
  const Json choice = post(*gateway, k_chats, chat(k_question, asked)).json()["choices"][0];
  ASSERT_EQ(choice["logprobs"]["content"].size(), 3u);
  for (const Json& token : choice["logprobs"]["content"]) {
    EXPECT_LE(token["logprob"], 0);
    EXPECT_GT(token["logprob"], -20);
    EXPECT_EQ(token["top_logprobs"], Json::array());
  }
  Json streamed = asked;
  streamed["stream"] = true;
  const std::vector<Json> events = events_of(post(*gateway, k_chats, chat(k_question, streamed)).text);
  const Json last = events.at(events.size() - 2)["choices"][0];
  EXPECT_EQ(last["finish_reason"], "length");
  ASSERT_EQ(last["logprobs"]["content"].size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {  // of the same answer, but for what masked arithmetic rounds
    const Json &one = choice["logprobs"]["content"][i], &other = last["logprobs"]["content"][i];
    EXPECT_EQ(other["bytes"], one["bytes"]);
    EXPECT_NEAR(other["logprob"].get<double>(), one["logprob"].get<double>(), 0.1);
  }
  EXPECT_TRUE(post(*gateway, k_chats, chat()).json()["choices"][0]["logprobs"].is_null());
}

TEST_F(GatewayTest, several_answers_to_a_question_cost_its_reading_once) {
  const Json how{{"n", 3}, {"max_tokens", 4}, {"seed", 7}, {"top_k", 2}, {"temperature", 2}};
  const Json answer = post(*gateway, k_chats, chat("Two of them?", how)).json();
  ASSERT_EQ(answer["choices"].size(), 3u) << answer;
  std::set<std::string> texts;
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(answer["choices"][i]["index"], i);
    texts.insert(answer["choices"][i]["message"]["content"]);
  }
  EXPECT_GT(texts.size(), 1u);
  EXPECT_GT(answer["usage"]["completion_tokens"], 4);
  EXPECT_LE(answer["usage"]["completion_tokens"], 12);
  Json streamed = how;
  streamed["stream"] = true;
  std::map<int, std::string> told, ends;
  for (const Json& event : events_of(post(*gateway, k_chats, chat("Two of them?", streamed)).text)) {
    if (event == "done") continue;
    const Json& choice = event["choices"][0];
    const int index = choice["index"];
    told[index] += choice["delta"].value("content", "");
    if (choice["finish_reason"].is_string()) ends[index] = choice["finish_reason"];
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(told[i], answer["choices"][i]["message"]["content"]);
    EXPECT_EQ(ends[i], answer["choices"][i]["finish_reason"]);
  }
}

TEST_F(GatewayTest, what_needs_named_logits_is_refused_in_paper_by_its_name) {
  for (const auto& [field, value] : std::map<std::string, Json>{{"logit_bias", {{"5", 1}}},
                                                                {"presence_penalty", 1},
                                                                {"frequency_penalty", 1},
                                                                {"repetition_penalty", 1.1}}) {
    const Reply reply = post(*gateway, k_chats, chat(k_question, {{field, value}}));
    EXPECT_EQ(reply.status, 400) << field;
    EXPECT_EQ(reply.json()["error"]["param"], field);
    EXPECT_EQ(reply.json()["error"]["code"], "unsupported_parameter");
    EXPECT_NE(reply.json()["error"]["message"].get<std::string>().find("profile paper"), std::string::npos);
  }
  EXPECT_EQ(
      post(*gateway, k_chats, chat(k_question, {{"logprobs", true}, {"top_logprobs", 2}})).json()["error"]["param"],
      "top_logprobs");
}

// Each with its own allowance, dialogues and stock.
TEST_F(GatewayTest, several_invites_are_models_by_their_names) {
  const auto one = parties->invite(1000), other = parties->invite(2000);
  const auto own = parties->serve(one, parties->folder / "several", "--invite " + other.string());
  const Json models = get(*own, "/v1/models").json()["data"];
  ASSERT_EQ(models.size(), 2u) << models;
  EXPECT_EQ(models[0]["id"], "tiny");
  EXPECT_EQ(models[1]["id"], "tiny-2");  // the same name, counted
  EXPECT_EQ(get(*own, "/api/tags").json()["models"][1]["name"], "tiny-2:latest");
  EXPECT_EQ(get(*own, "/v1/models/tiny-2").json(), models[1]);
  const auto left = [&](const Json& model) {
    const Json answer = post(*own, k_chats, chat(k_question, {{"model", model}, {"max_tokens", 2}})).json();
    EXPECT_EQ(answer["model"], model.is_null() || model == "permllm" ? "tiny" : model) << answer;
    return answer["usage"]["permllm"]["tokens_left"].get<int>();
  };
  EXPECT_EQ(left("tiny-2"), 1998);
  EXPECT_EQ(left("tiny"), 998);
  EXPECT_EQ(left(nullptr), 996);  // the first, where none is named
  EXPECT_EQ(left("permllm"), 994);
  EXPECT_EQ(left("tiny-2"), 1996);
  EXPECT_NE(post(*own, k_chats, chat(k_question, {{"model", "tiny-3"}})).text.find("\\\"tiny\\\", \\\"tiny-2\\\""),
            std::string::npos);
  EXPECT_EQ(get(*own, "/v1/privacy?model=tiny-2").json()["model"]["id"], "tiny-2");
  EXPECT_EQ(get(*own, "/v1/privacy?model=tiny-3").status, 404);
  EXPECT_NE(get(*own, "/metrics").text.find("\npermllm_gateway_tokens_total{of=\"answers\"} 10\n"), std::string::npos);
}

// The same question by each interface: the same words, in its shapes.
TEST_F(GatewayTest, each_interface_gives_the_same_answer_in_its_own_shape) {
  const Json question = Json::array({{{"role", "user"}, {"content", k_question}}});
  const std::string text = post(*gateway, k_chats, chat()).json()["choices"][0]["message"]["content"];
  // Each line of a stream that begins so, and is JSON behind it.
  const auto lines = [](const std::string& stream, const std::string& begins) {
    std::vector<Json> all;
    std::istringstream in(stream);
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with(begins + "{")) all.push_back(Json::parse(line.substr(begins.size())));
    }
    return all;
  };
  Json response{{"model", "tiny"}, {"input", k_question}, {"max_output_tokens", 6}};
  const Json whole = post(*gateway, "/v1/responses", response).json();
  EXPECT_EQ(whole["output"][0]["content"][0]["text"], text) << whole;
  EXPECT_EQ(whole["status"], "incomplete");
  response["stream"] = true;
  const Reply stream = post(*gateway, "/v1/responses", response);
  EXPECT_EQ(stream.header("Content-Type"), "text/event-stream");
  std::string told;
  for (const Json& event : lines(stream.text, "data: ")) {
    if (event["type"] == "response.output_text.delta") told += event["delta"];
  }
  EXPECT_EQ(told, text);
  EXPECT_EQ(lines(stream.text, "data: ").back()["type"], "response.incomplete");
  response["previous_response_id"] = whole["id"];
  EXPECT_EQ(post(*gateway, "/v1/responses", response).json()["error"]["param"], "previous_response_id");

  Json message{{"model", "tiny"}, {"messages", question}, {"max_tokens", 6}};
  const Json said = post(*gateway, "/v1/messages", message).json();
  EXPECT_EQ(said["content"][0]["text"], text) << said;
  EXPECT_EQ(said["stop_reason"], "max_tokens");
  EXPECT_EQ(
      post(*gateway, "/v1/messages/count_tokens", {{"model", "tiny"}, {"messages", question}}).json()["input_tokens"],
      said["usage"]["input_tokens"].get<int>() + said["usage"]["cache_read_input_tokens"].get<int>());
  message["stream"] = true;
  told.clear();
  for (const Json& event : lines(post(*gateway, "/v1/messages", message).text, "data: ")) {
    if (event["type"] == "content_block_delta") told += event["delta"]["text"];
  }
  EXPECT_EQ(told, text);
  message["messages"][0]["content"] = std::string(300, '!');
  EXPECT_EQ(post(*gateway, "/v1/messages", message).json()["error"]["type"], "invalid_request_error");

  Json line{{"model", "tiny:latest"}, {"messages", question}, {"options", {{"num_predict", 6}}}};
  const Reply streamed = post(*gateway, "/api/chat", line);
  EXPECT_EQ(streamed.header("Content-Type"), "application/x-ndjson");
  told.clear();
  for (const Json& one : lines(streamed.text, "")) told += one["message"]["content"];
  EXPECT_EQ(told, text);
  EXPECT_EQ(lines(streamed.text, "").back()["eval_count"], 6);
  line["stream"] = false;
  EXPECT_EQ(post(*gateway, "/api/chat", line).json()["message"]["content"], text);
  EXPECT_EQ(post(*gateway, "/api/generate",
                 {{"model", "tiny"}, {"prompt", k_question}, {"stream", false}, {"options", {{"num_predict", 6}}}})
                .json()["response"],
            text);
  line["model"] = "llama3";
  EXPECT_EQ(post(*gateway, "/api/chat", line).status, 404);
  EXPECT_TRUE(post(*gateway, "/api/chat", line).json()["error"].is_string());
  EXPECT_EQ(get(*gateway, "/api/tags").json()["models"][0]["name"], "tiny:latest");
  EXPECT_EQ(get(*gateway, "/api/ps").json()["models"][0]["model"], "tiny:latest");
  EXPECT_EQ(post(*gateway, "/api/show", {{"model", "tiny"}}).json()["details"]["family"], "llama");
  EXPECT_TRUE(get(*gateway, "/api/version").json()["version"].is_string());
  const Json tokens = post(*gateway, "/tokenize", {{"content", "It is"}}).json()["tokens"];
  EXPECT_EQ(post(*gateway, "/detokenize", {{"tokens", tokens}}).json()["content"], "It is");
}

TEST_F(GatewayTest, a_dialogue_is_not_fed_again_and_others_do_not_disturb_it) {
  const auto own = parties->gateway("--sessions 2");
  Json dialogue = chat("Y", {{"max_tokens", 1}});
  const Json first = post(*own, k_chats, dialogue).json();
  const std::string other = post(*own, k_chats, chat("No other?", {{"max_tokens", 3}})).text;
  dialogue["messages"].push_back(first["choices"][0]["message"]);
  dialogue["messages"].push_back({{"role", "user"}, {"content", "Z"}});
  dialogue["messages"][1].erase("refusal");
  dialogue.erase("max_tokens");  // as long as the context allows
  const Json second = post(*own, k_chats, dialogue).json();
  ASSERT_TRUE(second.contains("usage")) << second << other;
  // All of the first prompt is there yet; its answer too, as far as its text makes the same tokens again.
  EXPECT_GE(second["usage"]["prompt_tokens_details"]["cached_tokens"], first["usage"]["prompt_tokens"]);
  EXPECT_EQ(second["usage"]["permllm"]["set_up_bytes"]["sent"], 0);
  // A third dialogue takes the place of the one unused longest.
  EXPECT_EQ(post(*own, k_chats, chat("Third", {{"max_tokens", 1}})).status, 200);
  EXPECT_EQ(post(*own, k_chats, chat("No other?", {{"max_tokens", 3}})).json()["choices"],
            Json::parse(other)["choices"]);
}

TEST_F(GatewayTest, errors_have_openais_shape_and_name_the_parameter) {
  const auto expect = [&](const std::string& path, const Json& body, int status, const Json& param, const Json& code) {
    const Reply reply = post(*gateway, path, body);
    EXPECT_EQ(reply.status, status) << body << reply.text;
    const Json error = reply.json()["error"];
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_EQ(error["param"], param) << error;
    EXPECT_EQ(error["code"], code) << error;
    EXPECT_EQ(error["message"].get<std::string>().find("canary"), std::string::npos) << error;
  };
  expect(k_chats, chat("canary", {{"functions", {1}}}), 400, "functions", "unsupported_parameter");
  expect(k_chats, chat("canary", {{"unheard_of", 1}}), 400, "unheard_of", nullptr);
  expect(k_chats, chat("canary", {{"temperature", -1}}), 400, "temperature", nullptr);
  expect(k_chats, chat("canary", {{"model", "gpt-canary"}}), 404, "model", "model_not_found");
  expect(k_chats, "canary", 400, "body", nullptr);
  expect(k_chats, chat(std::string(300, '!') + "canary"), 400, nullptr, "context_length_exceeded");
  expect("/v1/completions", {{"prompt", "canary"}, {"echo", true}}, 400, "echo", "unsupported_parameter");
  const std::string message = post(*gateway, k_chats, chat(std::string(300, '!'))).json()["error"]["message"];
  EXPECT_TRUE(message.find("64") != std::string::npos && message.find("319") != std::string::npos)
      << message;  // both numbers
  for (const char* alias : {"permllm", "default"})
    EXPECT_EQ(post(*gateway, k_chats, chat(k_question, {{"model", alias}})).status, 200);
}

TEST_F(GatewayTest, models_tokens_health_and_metrics_are_told) {
  const Json models = get(*gateway, "/v1/models").json();
  EXPECT_EQ(models["object"], "list");
  ASSERT_EQ(models["data"].size(), 1u);
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(get(*gateway, "/v1/models/tiny").json(), models["data"][0]);
  EXPECT_EQ(get(*gateway, "/v1/models/other").json()["error"]["code"], "model_not_found");
  const Json tokens = post(*gateway, "/tokenize", {{"messages", chat()["messages"]}}).json();
  EXPECT_EQ(tokens["tokens"].size(), tokens["count"]);
  EXPECT_EQ(tokens["count"], post(*gateway, k_chats, chat()).json()["usage"]["prompt_tokens"]);
  EXPECT_EQ(get(*gateway, "/health").json(), (Json{{"status", "ok"}, {"provider", "reachable"}}));
  const Reply metrics = get(*gateway, "/metrics");
  EXPECT_NE(metrics.text.find("permllm_gateway_requests_total{route=\"/health\",status=\"200\"}"), std::string::npos)
      << metrics.text;
  for (const char* series : {"waiting", "first_token"}) {
    EXPECT_TRUE(
        std::regex_search(metrics.text, std::regex(fmt::format("\npermllm_gateway_{}_seconds_count [1-9]", series))))
        << metrics.text;
  }
  EXPECT_EQ(get(*gateway, "/nothing").status, 404);
  EXPECT_EQ(get(*gateway, k_chats).status, 405);
  EXPECT_EQ(post(*gateway, "/v1/models", {}).status, 405);
}

// What has not ended is counted, too: whoever looks behind the last byte of an answer does not come before its count.
TEST_F(GatewayTest, an_answer_is_counted_before_it_leaves) {
  const auto own = parties->gateway();
  const RawConnection watching(*own);
  watching.send("GET /v1/activity HTTP/1.1\r\nHost: " + own->address() + "\r\n\r\n");
  EXPECT_NE(watching.receive("data: ").find("200 OK"), std::string::npos);
  const std::string metrics = get(*own, "/metrics").text;
  EXPECT_NE(metrics.find("permllm_gateway_requests_total{route=\"/v1/activity\",status=\"200\"} 1\n"),
            std::string::npos)
      << metrics;
}

// Texts that take a hundred times their size while they are cut into tokens take it for that time alone.
TEST_F(GatewayTest, long_texts_leave_no_memory_behind) {
  const auto own = parties->gateway();
  const auto resident = [&] {
    const std::string text = get(*own, "/metrics").text, name = "\nprocess_resident_memory_bytes ";
    return std::stod(text.substr(text.find(name) + name.size()));
  };
  const Json body{{"content", std::string(1'000'000, 'a')}};
  const auto all_at_once = [&] {
    std::vector<std::future<Reply>> asking;
    for (int i = 0; i < 8; ++i)
      asking.push_back(std::async(std::launch::async, [&] { return post(*own, "/tokenize", body); }));
    for (auto& reply : asking) EXPECT_EQ(reply.get().status, 200);
  };
  const double before = resident();
  all_at_once();
  EXPECT_LT(resident() - before, 100e6);
}

TEST_F(GatewayTest, privacy_and_activity_tell_what_the_page_shows) {
  const Json privacy = get(*gateway, "/v1/privacy").json();
  EXPECT_EQ(privacy["profile"], "paper");
  EXPECT_EQ(privacy["model"]["id"], "tiny");
  EXPECT_EQ(privacy["model"]["context"], 64);
  EXPECT_EQ(privacy["provider"]["address"], parties->provider->address());
  EXPECT_EQ(privacy["helper"]["key"].get<std::string>().size(), 64u);
  ASSERT_EQ(privacy["parties"].size(), 3u);
  for (const Json& party : privacy["parties"])
    EXPECT_TRUE(!party["sees"].empty() && !party["never_sees"].empty()) << party;
  const test::Result inspected =
      test::permllm({"inspect", PERMLLM_TINY_MODELS "/llama.gguf", "--context", "64", "--json"});
  const Json sees = Json::parse(inspected.out).at("sees");
  const auto with = [](Json all, std::size_t at, const char* own) {
    all.insert(all.begin() + static_cast<Json::difference_type>(at), own);
    return all;
  };
  EXPECT_EQ(privacy["parties"][0]["sees"], with(sees["user"], 0, "your own questions and answers"));
  EXPECT_EQ(privacy["parties"][1]["sees"], with(sees["provider"], 1, "your network address and your invite's name"));
  EXPECT_EQ(privacy["parties"][2]["sees"], with(sees["helper"], 2, "your network address, when material is made"));
  EXPECT_TRUE(privacy["model_owner"].is_string());
  EXPECT_FALSE(privacy["rests_on"].empty());

  const Json idle = activity_until(*gateway, [](const Json& e) { return e["state"] == "idle"; });
  for (const char* key :
       {"active", "queued", "prepare", "online", "offline_provider", "offline_helper", "tokens", "tokens_per_second",
        "stock_tokens", "stock_target", "canaries", "filling", "tokens_left", "uptime"}) {
    EXPECT_TRUE(idle.contains(key)) << key;
  }
  EXPECT_TRUE(idle["online"].contains("round_trips"));
  const auto own = slow_gateway();
  const RawConnection asking(*own);
  asking.send(request_text(*own, chat(k_question, {{"max_tokens", 20}})));
  const Json answering =
      activity_until(*own, [](const Json& e) { return e["state"] == "answering" && e["tokens"] > 2; });
  EXPECT_EQ(answering["active"], 1);
  EXPECT_GT(answering["tokens_per_second"], 0);
  EXPECT_GT(answering["offline_helper"]["received"], 0);
}

TEST_F(GatewayTest, a_host_or_origin_of_others_is_refused_before_anything_else) {
  const std::string own = gateway->address(), port = own.substr(own.rfind(':'));
  const auto host = [&](const std::string& name) {
    return raw_status(*gateway, "GET /health HTTP/1.1\r\nHost: " + name + "\r\n\r\n");
  };
  for (const std::string& name : {own, std::string("127.0.0.1"), "localhost" + port, std::string("localhost"),
                                  "[::1]" + port, "LOCALHOST" + port})
    EXPECT_EQ(host(name), 200) << name;
  for (const std::string& name : {std::string("evil.example"), "evil.example" + port, "localhost.evil.example" + port,
                                  std::string("127.0.0.1:1"), "127.0.0.1" + port + port, std::string()}) {
    EXPECT_EQ(host(name), 403) << name;
  }
  EXPECT_EQ(raw_status(*gateway, "GET /health HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(raw_status(*gateway, "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"), 400);
  EXPECT_EQ(raw_status(*gateway, "GET /health HTTP/1.1\r\nHost: local host\r\n\r\n"), 400);
  // The target's host is the one that counts.
  EXPECT_EQ(raw_status(*gateway, "GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n"), 403);
  EXPECT_EQ(raw_status(*gateway, "GET http://localhost/health HTTP/1.1\r\nHost: evil.example\r\n\r\n"), 200);
  const std::string refused =
      raw(*gateway, "GET /no/such HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\n\r\n");
  EXPECT_NE(refused.find("\"foreign_host\""), std::string::npos) << refused;
  EXPECT_NE(refused.find("\"permission_error\""), std::string::npos);

  const auto origin = [&](const std::string& of) { return get(*gateway, "/health", {{"Origin", of}}); };
  EXPECT_EQ(origin("http://" + own).status, 200);
  for (const std::string& of : {std::string("http://evil.example"), std::string("null"), std::string("https://") + own,
                                std::string("http://127.0.0.1"), std::string("http://localhost") + port}) {
    const Reply reply = origin(of);
    EXPECT_EQ(reply.status, 403) << of;
    EXPECT_EQ(reply.json()["error"]["code"], "foreign_origin");
  }
  EXPECT_EQ(get(*gateway, "/health", {{"Sec-Fetch-Site", "cross-site"}}).status, 403);
  EXPECT_EQ(get(*gateway, "/", {{"Sec-Fetch-Site", "cross-site"}}).status, 200);  // a link to the page
  for (const Reply& reply : {origin("http://" + own), get(*gateway, "/")}) {
    for (const auto& [name, value] : reply.headers)
      EXPECT_FALSE(name.starts_with("Access-Control") || name == "Set-Cookie") << name;
  }
  EXPECT_EQ(reply_of(client_of(*gateway).Options(k_chats)).status, 405);
}

TEST_F(GatewayTest, requests_that_are_no_programs_are_refused) {
  const std::string body = chat().dump();
  for (const char* type :
       {"application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "application/jsonx"}) {
    EXPECT_EQ(reply_of(client_of(*gateway).Post(k_chats, body, type)).status, 415) << type;
  }
  EXPECT_EQ(reply_of(client_of(*gateway).Post(k_chats, body, "application/json; charset=utf-8")).status, 200);
  const Reply large = reply_of(client_of(*gateway).Post(k_chats, std::string(2'000'000, ' '), "application/json"));
  EXPECT_EQ(large.status, 413);
  EXPECT_EQ(large.json()["error"]["code"], "body_too_large");
  const std::string head =
      "POST /v1/chat/completions HTTP/1.1\r\nHost: " + gateway->address() + "\r\nContent-Type: application/json\r\n";
  EXPECT_EQ(raw_status(*gateway, head + "Content-Length: 99999999999999999999\r\n\r\n"), 413);
  std::string chunked = head + "Transfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 40; ++i) chunked += "10000\r\n" + std::string(0x10000, ' ') + "\r\n";
  EXPECT_GE(raw_status(*gateway, chunked + "0\r\n\r\n"), 400);
  EXPECT_GE(raw_status(*gateway, "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n"),
            400);
  EXPECT_EQ(raw_status(*gateway, "nonsense\r\n\r\n"), 400);
  EXPECT_EQ(get(*gateway, "/assets/../CMakeLists.txt").status, 404);
  EXPECT_EQ(get(*gateway, "/health").status, 200);  // still there
}

// As RFC 9110 and 9112 have it.
TEST_F(GatewayTest, http_is_taken_as_clients_send_it) {
  const std::string body = chat().dump(), host = "Host: localhost\r\n", json = "Content-Type: application/json\r\n",
                    length = "Content-Length: " + std::to_string(body.size()) + "\r\n",
                    to = "POST /v1/chat/completions HTTP/1.1\r\n";
  const std::string upgraded =
      raw(*gateway,
          to + host + json + length +
              "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n\r\n" + body);
  EXPECT_TRUE(upgraded.starts_with("HTTP/1.1 200 ")) << upgraded;
  EXPECT_EQ(upgraded.find("Upgrade:"), std::string::npos);
  EXPECT_EQ(raw_status(*gateway, "GET /health HTTP/1.1\r\n" + host +
                                     "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"),
            200);
  for (const char* range : {"bytes=0-3", "bytes=0-,0-,0-", "nonsense"})
    EXPECT_EQ(raw_status(*gateway, "GET /health HTTP/1.1\r\n" + host + "Range: " + range + "\r\n\r\n"), 200) << range;
  // A body in chunks with fields behind them, and one with its length twice.
  EXPECT_EQ(raw_status(*gateway, to + host + json + "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" +
                                     fmt::format("{:x}", body.size()) + "\r\n" + body + "\r\n0\r\nX-Sum: 5\r\n\r\n"),
            200);
  EXPECT_EQ(raw_status(*gateway, to + host + json + length + length + "\r\n" + body), 200);
  EXPECT_EQ(raw_status(*gateway, to + host + json + length + "Content-Length: 5\r\n\r\n" + body), 400);
  EXPECT_EQ(raw_status(*gateway, to + host + json + length + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(raw_status(*gateway, "POST http://" + gateway->address() + "/v1/chat/completions HTTP/1.1\r\n" + host +
                                     json + length + "\r\n" + body),
            200);
  // Without a length there is no body to wait for: the connection stays open, and the answer comes.
  for (const char* type : {"", "Content-Type: application/json\r\n"}) {
    const RawConnection open(*gateway);
    open.send(to + host + type + "\r\n");
    EXPECT_TRUE(open.receive("\r\n\r\n").starts_with(*type ? "HTTP/1.1 400" : "HTTP/1.1 415"));
  }
  EXPECT_EQ(raw_status(*gateway, "BREW /health HTTP/1.1\r\n" + host + "\r\n"), 501);
  EXPECT_EQ(raw_status(*gateway, "GET /health HTTP/3.0\r\n" + host + "\r\n"), 505);
  const std::string refused = raw(*gateway, "BREW /health HTTP/1.1\r\n" + host + "\r\n");
  EXPECT_NE(refused.find("\"this method is not known\""), std::string::npos) << refused;
  // Each answer, a refusal too, says when it was made.
  const std::regex date(
      "\\r\nDate: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-3][0-9] [A-Z][a-z][a-z] 20[0-9]{2} "
      "[0-2][0-9]:[0-5][0-9]:[0-6][0-9] GMT\\r\n");
  for (const std::string& reply : {upgraded, refused, raw(*gateway, "GET /v1/models HTTP/1.1\r\n" + host + "\r\n")})
    EXPECT_TRUE(std::regex_search(reply, date)) << reply;
}

TEST_F(GatewayTest, a_wrong_path_is_told_the_right_one) {
  const std::map<std::string, std::string> right{{"/chat/completions", "/v1/chat/completions"},
                                                 {"/completions", "/v1/completions"},
                                                 {"/v1/v1/chat/completions", "/v1/chat/completions"},
                                                 {"/v1/chat/completions/", "/v1/chat/completions"},
                                                 {"/v1/tokenize", "/tokenize"},
                                                 {"/embeddings", "/v1/embeddings"},
                                                 {"/v1/moderations", "/v1/chat/completions and"},
                                                 {"/v1/v1/responses", "/v1/responses"},
                                                 {"/messages", "/v1/messages"},
                                                 {"/v1/responses/resp_1", "/v1/chat/completions"},
                                                 {"/v1/images/generations", "/v1/chat/completions"}};
  for (const auto& [path, there] : right) {
    const Reply reply = post(*gateway, path, chat());
    EXPECT_EQ(reply.status, 404) << path;
    EXPECT_NE(reply.json()["error"]["message"].get<std::string>().find(there), std::string::npos) << path << reply.text;
    EXPECT_EQ(reply.json()["error"]["code"], "unknown_url");
  }
  const Json refused = post(*gateway, "/v1/embeddings", {{"model", "tiny"}, {"input", "a"}}).json()["error"];
  EXPECT_EQ(refused["code"], "unsupported_parameter") << refused;
  EXPECT_EQ(refused["param"], "model") << refused;
  EXPECT_NE(refused["message"].get<std::string>().find("profile paper"), std::string::npos);
  EXPECT_NE(post(*gateway, "/api/pull", chat()).json()["error"].get<std::string>().find("/v1/models says"),
            std::string::npos);
  EXPECT_NE(get(*gateway, "/models").text.find("; /v1/models is what"), std::string::npos);
  EXPECT_NE(get(*gateway, "/models/tiny").text.find("; /v1/models/ID is what"), std::string::npos);
  EXPECT_EQ(get(*gateway, "/no/such").status, 404);
}

// A vocabulary of bytes: the answer's letters take several tokens, and limits cut through them.
TEST_F(GatewayTest, an_answer_is_never_cut_inside_a_character) {
  std::size_t longer = 0;
  for (int seed = 0; seed < 12; ++seed) {
    const Json how{{"temperature", 2}, {"seed", seed}, {"top_k", 2}};
    std::string whole;
    for (int most : {12, 3, 4, 5, 6}) {
      Json asked = how;
      asked["max_tokens"] = most;
      asked["stream"] = most == 5;
      const Reply reply = post(*gateway, k_chats, chat(k_question, asked));
      ASSERT_EQ(reply.status, 200) << reply.text;
      std::string text;
      if (most == 5) {
        for (const Json& event : events_of(reply.text)) {
          if (event.is_object() && !event["choices"].empty()) text += event["choices"][0]["delta"].value("content", "");
        }
      } else {
        text = reply.json()["choices"][0]["message"]["content"];
      }
      if (most == 12) whole = text;
      EXPECT_TRUE(whole.starts_with(text)) << seed << ", " << most << ": " << text << " of " << whole;
      longer += text.size() < whole.size();
    }
  }
  EXPECT_GT(longer, 0u);
}

TEST_F(GatewayTest, slow_and_silent_connections_hold_nobody_up_and_are_closed) {
  std::vector<std::unique_ptr<RawConnection>> silent;
  for (int i = 0; i < 100; ++i)
    silent.push_back(std::make_unique<RawConnection>(*gateway));  // more than it has threads
  const RawConnection slow(*gateway);
  slow.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
      "100\r\n\r\n{");
  const auto begin = steady_clock::now();
  EXPECT_EQ(get(*gateway, "/health").status, 200);
  EXPECT_LT(steady_clock::now() - begin, 3s);
  // Drop by drop is no way to hold a place either.
  std::jthread drops([&](const std::stop_token& stop) {
    for (; !stop.stop_requested(); std::this_thread::sleep_for(200ms)) slow.send(" ");
  });
  const std::string reply = slow.receive();
  EXPECT_TRUE(reply.empty() || reply.starts_with("HTTP/1.1 4")) << reply;
  EXPECT_LT(steady_clock::now() - begin, 15s);
}

TEST_F(GatewayTest, an_answer_ends_when_its_connection_is_closed) {
  const auto own = slow_gateway();
  for (const bool stream : {true, false}) {
    const int before = activity_until(*own, [](const Json& e) { return e["state"] == "idle"; })["tokens_left"];
    {
      const RawConnection asking(*own);
      asking.send(request_text(*own, chat(k_question, {{"max_tokens", 40}, {"stream", stream}})));
      if (stream) {
        EXPECT_NE(asking.receive("\"content\":\"").find("200 OK"), std::string::npos);
      } else {
        activity_until(*own, [](const Json& e) { return e["state"] == "answering"; });
      }
    }
    const auto closed = steady_clock::now();
    const Json idle = activity_until(*own, [](const Json& e) { return e["active"] == 0; });
    EXPECT_LT(steady_clock::now() - closed, 3s) << stream;
    EXPECT_LT(before - idle["tokens_left"].get<int>(), 30) << stream;
  }
}

TEST_F(GatewayTest, requests_wait_for_a_conversation_with_signs_of_life_and_no_more_than_may) {
  const auto own = slow_gateway("--sessions 1 --max-requests 2");
  const Json long_one = chat(k_question, {{"max_tokens", 25}});
  const RawConnection first(*own);
  first.send(request_text(*own, long_one));
  activity_until(*own, [](const Json& e) { return e["active"] == 1; });
  auto second = std::async(std::launch::async, [&] {
    return post(*own, k_chats, chat("Y", {{"max_tokens", 2}, {"stream", true}}));
  });
  const Json both = activity_until(*own, [](const Json& e) { return e["queued"] == 1; });
  EXPECT_EQ(both["active"], 1);
  const Reply third = post(*own, k_chats, chat());
  EXPECT_EQ(third.status, 429);
  EXPECT_EQ(third.json()["error"]["type"], "rate_limit_error");
  EXPECT_FALSE(third.header("Retry-After").empty());
  EXPECT_TRUE(first.receive().starts_with("HTTP/1.1 200"));
  const auto events = events_of(second.get().text);
  EXPECT_EQ(events.back(), "done");
  EXPECT_NE(std::find(events.begin(), events.end(), "ping"), events.end());
}

TEST_F(GatewayTest, a_key_of_idempotency_gives_the_answer_again_without_new_cost) {
  const auto own = slow_gateway();
  const auto ask = [&](const Json& body, const char* key) {
    return post(*own, k_chats, body, {{"Idempotency-Key", key}});
  };
  const Json body = chat(k_question, {{"temperature", 1}, {"max_tokens", 8}});  // drawn anew each time
  auto joined = std::async(std::launch::async, [&] { return ask(body, "one"); });
  const Reply first = ask(body, "one");
  ASSERT_EQ(first.status, 200) << first.text;
  EXPECT_EQ(joined.get().text, first.text);      // beside it
  EXPECT_EQ(ask(body, "one").text, first.text);  // and after it
  EXPECT_EQ(activity_until(*own, [](const Json&) { return true; })["tokens"],
            first.json()["usage"]["completion_tokens"]);
  EXPECT_NE(ask(body, "two").json()["id"], first.json()["id"]);
  const Reply other = ask(chat("Another"), "one");
  EXPECT_EQ(other.status, 400);
  EXPECT_EQ(other.json()["error"]["param"], "Idempotency-Key");

  const Json lasting = chat(k_question, {{"max_tokens", 8}});
  std::vector<std::future<Reply>> awaiting;
  for (int i = 0; i < 5; ++i) awaiting.push_back(std::async(std::launch::async, [&] { return ask(lasting, "three"); }));
  std::multiset<int> statuses;
  for (auto& reply : awaiting) statuses.insert(reply.get().status);
  EXPECT_EQ(statuses, (std::multiset<int>{200, 200, 200, 200, 429}));  // four connections await one answer
}

TEST_F(GatewayTest, who_asks_much_does_not_hold_up_who_asks_once_and_shares_no_dialogue) {
  const auto file = folder / "two-keys";
  std::ofstream(file) << "the-first-of-the-keys\nthe-second-of-the-keys\n";
  std::filesystem::permissions(file, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const auto own = slow_gateway("--sessions 1 --key-file " + file.string());
  std::mutex mutex;
  std::vector<std::string> order;
  std::vector<int> cached;
  std::vector<std::future<void>> asking;
  for (const auto& [name, key] : {std::pair("first", "the-first-of-the-keys"),
                                  {"second", "the-first-of-the-keys"},
                                  {"third", "the-first-of-the-keys"},
                                  {"other", "the-second-of-the-keys"}}) {
    asking.push_back(std::async(std::launch::async, [&, name = name, key = key] {
      const int tokens = std::string(name) == "first" ? 25 : 2;
      const Reply reply = post(*own, k_chats, chat(k_question, {{"max_tokens", tokens}}),
                               {{"Authorization", std::string("Bearer ") + key}});
      EXPECT_EQ(reply.status, 200) << name;
      const std::lock_guard lock(mutex);
      order.push_back(name);
      cached.push_back(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].get<int>());
    }));
    std::this_thread::sleep_for(200ms);
  }
  for (auto& one : asking) one.wait();
  ASSERT_EQ(order, (std::vector<std::string>{"first", "other", "second", "third"}));
  EXPECT_EQ((std::vector<int>{cached[0], cached[1], cached[2]}),
            (std::vector<int>{0, 0, 0}));  // one question, and each time the other's was there
  EXPECT_GT(cached[3], 0);
}

TEST_F(GatewayTest, keys_are_asked_for_where_there_are_some) {
  const auto file = parties->folder / "keys";
  std::ofstream(file) << "# keys\nkey-number-one-of-two\nkey-number-two-of-two\n";
  const auto refused = [&](const std::string& option, const std::string& value) {
    const test::Result r = test::run({"serve", "--invite", (parties->folder / "user1.invite").string(), option, value});
    EXPECT_EQ(r.status, 2) << r.error;
    return r.error;
  };
  chmod(file.c_str(), 0644);
  EXPECT_NE(refused("--key-file", file.string()).find("keys"), std::string::npos);
  EXPECT_NE(refused("--listen", "0.0.0.0:0").find("--key-file"), std::string::npos);
  chmod(file.c_str(), 0600);
  const auto own = parties->gateway("--key-file " + file.string());
  EXPECT_EQ(get(*own, "/").status, 200);
  for (const char* path : {"/v1/models", "/metrics", "/v1/privacy", "/v1/activity", "/other"}) {
    const Reply reply = get(*own, path);
    EXPECT_EQ(reply.status, 401) << path;
    EXPECT_EQ(reply.json()["error"]["code"], "invalid_api_key");
  }
  // Whoever watches over the program hears that it lives, and no more.
  EXPECT_EQ(get(*own, "/health").json(), (Json{{"status", "ok"}}));
  EXPECT_TRUE(get(*own, "/health", {{"Authorization", "Bearer key-number-one-of-two"}}).json().contains("provider"));
  for (const char* key : {"Bearer key-number-three-of-two", "Bearer ", "key-number-one-of-two",
                          "Bearer key-number-one-of-tw", "Bearer # keys"}) {
    EXPECT_EQ(get(*own, "/v1/models", {{"Authorization", key}}).status, 401) << key;
  }
  for (const char* key : {"Bearer key-number-one-of-two", "bearer key-number-two-of-two"})
    EXPECT_EQ(get(*own, "/v1/models", {{"Authorization", key}}).status, 200);
  EXPECT_EQ(post(*own, k_chats, chat()).status, 401);
  // As Anthropic's clients send it; with both, the first one counts.
  const auto by = [&](const httplib::Headers& headers) { return get(*own, "/v1/models", headers).status; };
  EXPECT_EQ(by({{"x-api-key", "key-number-one-of-two"}}), 200);
  EXPECT_EQ(by({{"x-api-key", "key-number-three-of-two"}}), 401);
  EXPECT_EQ(by({{"x-api-key", "key-number-one-of-two"}, {"x-api-key", "key-number-two-of-two"}}), 401);
  EXPECT_EQ(by({{"x-api-key", "key-number-one-of-two"}, {"Authorization", "Bearer key-number-three-of-two"}}), 401);
  const Reply refused_message = post(*own, "/v1/messages", {{"model", "tiny"}});
  EXPECT_EQ(refused_message.status, 401);
  EXPECT_EQ(refused_message.json()["error"]["type"], "authentication_error");
}

TEST_F(GatewayTest, an_allowance_that_is_used_up_is_told) {
  const auto own = parties->gateway("", 5);
  const Json answer = post(*own, k_chats, chat(k_question, {{"max_tokens", 50}})).json();
  EXPECT_EQ(answer["usage"]["completion_tokens"], 5);
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  const Reply reply = post(*own, k_chats, chat());
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(reply.json()["error"]["type"], "insufficient_quota");
  EXPECT_EQ(reply.json()["error"]["code"], "allowance_used_up");
}

// Each knows of what is left when its own session begins alone; it is the provider who refuses.
TEST_F(GatewayTest, two_programs_on_one_invite_are_told_that_its_allowance_is_used_up) {
  const auto one = parties->gateway("", 30), other = parties->gateway_of_last("other");
  const Json first = chat(k_question, {{"max_tokens", 10}});
  EXPECT_EQ(post(*one, k_chats, first).status, 200);
  EXPECT_EQ(post(*other, k_chats, first).status, 200);
  EXPECT_EQ(post(*other, k_chats, chat("Another one", {{"max_tokens", 10}})).status, 200);
  for (const bool stream : {false, true}) {
    const Reply reply = post(*one, k_chats, chat("Is it so? And then?", {{"max_tokens", 10}, {"stream", stream}}));
    EXPECT_EQ(reply.status, 429) << reply.text;
    EXPECT_EQ(reply.json()["error"]["type"], "insufficient_quota");
    EXPECT_EQ(reply.json()["error"]["code"], "allowance_used_up");
    EXPECT_EQ(reply.json()["error"]["plain"], "The allowance of the invite is used up. Ask the provider for more.");
  }
}

TEST_F(GatewayTest, peers_that_are_gone_are_told_and_found_again) {
  Parties own(folder / "gone", "--state " + (folder / "state").string());
  const auto gate = own.gateway("--stock 40");
  activity_until(*gate, [](const Json& e) { return e["stock_tokens"] >= 40 && !e["filling"].get<bool>(); });
  own.helper->end();
  // What is in stock serves without the helper.
  EXPECT_EQ(post(*gate, k_chats, chat(k_question, {{"max_tokens", 2}})).status, 200);
  const Reply empty = post(*gate, k_chats, chat("Another one", {{"max_tokens", 30}}));
  EXPECT_EQ(empty.status, 503) << empty.text;
  EXPECT_EQ(empty.json()["error"]["code"], "out_of_stock");
  EXPECT_EQ(empty.header("Retry-After"), "30");
  own.provider->end(SIGKILL);
  const Reply gone = post(*gate, k_chats, chat("A third", {{"stream", true}}));
  EXPECT_EQ(gone.status, 503) << gone.text;  // a stream that has not begun has a status, too
  EXPECT_EQ(gone.json()["error"]["code"], "provider_unreachable");
  EXPECT_EQ(get(*gate, "/health").json()["provider"], "unreachable");
  activity_until(*gate, [](const Json& e) { return e["state"] == "unreachable"; });
}

// Whether it finds its chains again or has to begin new ones.
TEST_F(GatewayTest, a_stream_goes_on_over_a_restart_of_the_provider) {
  for (const bool keeps : {true, false}) {
    const std::filesystem::path at = folder / (keeps ? "restarts" : "forgets");
    Parties own(at, keeps ? "--state " + (folder / "restarts-state").string() : "");
    const int port = own.provider->port();
    const Json asked =
        chat(k_question, {{"max_tokens", 16}, {"stream", true}, {"stream_options", {{"include_usage", true}}}});
    const auto text_of = [](const std::vector<Json>& events) {
      std::string text;
      for (const Json& event : events) {
        if (event.is_object() && !event["choices"].empty()) text += event["choices"][0]["delta"].value("content", "");
      }
      return text;
    };
    const auto plain = own.gateway();
    const std::vector<Json> want = events_of(post(*plain, k_chats, asked).text);
    const auto whole = want.at(want.size() - 2)["usage"]["permllm"]["online_bytes"]["received"].get<std::size_t>();
    std::promise<void> killed;
    // Connection 0 hears what there is, 1 is the conversation's.
    test::CuttingProxy proxy(static_cast<std::uint16_t>(port), {{1, whole * 3 / 4}}, {}, [&] {
      own.provider->tell(SIGKILL);
      killed.set_value();
    });
    const auto gate = own.gateway("", 100000, test::at(proxy.port()));
    auto asking = std::async(std::launch::async, [&] { return post(*gate, k_chats, asked); });
    ASSERT_EQ(killed.get_future().wait_for(60s), std::future_status::ready);
    own.provider->end(SIGKILL);
    own.start_provider(port);
    const std::vector<Json> events = events_of(asking.get().text);
    EXPECT_EQ(events.back(), "done");
    EXPECT_EQ(text_of(events), text_of(want));
    EXPECT_EQ(events.at(events.size() - 2)["usage"]["prompt_tokens"],
              want.at(want.size() - 2)["usage"]["prompt_tokens"]);
    EXPECT_EQ(events.at(events.size() - 2)["usage"]["completion_tokens"], 16);
    EXPECT_EQ(proxy.cuts(), 1u);
  }
}

// What a gateway leaves behind: a chain that is fresh and empty, one that was used in part and has material yet, some with little. Whoever comes
// when the helper is away is answered from what is there, until nothing is; what is shown is what one question finds.
TEST_F(GatewayTest, stock_that_is_there_serves_while_the_helper_is_away) {
  Parties own(folder / "left", "--state " + (folder / "left-state").string());
  const auto invite = own.invite();
  const auto state = own.folder / "user1";
  {
    const auto gate = own.serve(invite, state, "--stock 128");
    activity_until(*gate, [](const Json& e) { return e["stock_tokens"] == 64 && !e["filling"].get<bool>(); });
    EXPECT_EQ(activity_until(*gate, [](const Json& e) { return e["state"] == "idle"; })["stock_target"], 64);
    for (const char* question : {"One", "Two"})
      EXPECT_EQ(post(*gate, k_chats, chat(question, {{"max_tokens", 2}})).status, 200);
    gate->end();
  }
  // An order that fails leaves its chain empty and fresh: this one asks for more than the context holds.
  own.helper->end();
  const auto gate = own.serve(invite, state);
  std::size_t answers = 0;
  Reply last;
  for (const Json& limit : {Json{{"max_tokens", 2}}, Json{{"max_tokens", nullptr}}}) {
    for (;; ++answers) {
      last = post(*gate, k_chats, chat("Question " + std::to_string(answers), limit));
      if (last.status != 200) break;
      const Json json = last.json();
      EXPECT_GE(json["usage"]["completion_tokens"], 1);
      ASSERT_LT(answers, 20u);
    }
    EXPECT_EQ(last.json()["error"]["code"], "out_of_stock") << last.text;
  }
  EXPECT_GE(answers, 2u);
  // What is left over serves no question.
  const std::size_t left = activity_until(*gate, [](const Json&) { return true; })["stock_tokens"];
  const Json asked = post(*gate, "/tokenize", {{"messages", {{{"role", "user"}, {"content", "Question 1"}}}}}).json();
  EXPECT_LT(left, asked["count"].get<std::size_t>() + 1);
}

TEST_F(GatewayTest, a_signal_lets_answers_end) {
  auto own = slow_gateway();
  auto asked = std::async(std::launch::async, [&] {
    return post(*own, k_chats, chat(k_question, {{"max_tokens", 12}}));
  });
  activity_until(*own, [](const Json& e) { return e["active"] == 1; });
  EXPECT_EQ(own->end(), 0);
  EXPECT_EQ(asked.get().status, 200);
}

TEST_F(GatewayTest, a_port_in_use_is_told) {
  const test::Result r = test::run({"serve", "--listen", gateway->address(), "--invite", parties->invite().string(),
                                    "--state", (parties->folder / "second").string()});
  EXPECT_EQ(r.status, 1) << r.error;
  EXPECT_NE(r.error.find("--listen: " + gateway->address() + ": nobody can listen there; does another program?"),
            std::string::npos)
      << r.error;
}

TEST_F(GatewayTest, the_page_has_its_policy) {
  const Reply page = get(*gateway, "/");
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(page.header("Content-Security-Policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
  EXPECT_EQ(page.header("X-Content-Type-Options"), "nosniff");
  EXPECT_EQ(page.header("Referrer-Policy"), "no-referrer");
  EXPECT_EQ(page.header("Cross-Origin-Resource-Policy"), "same-origin");
  EXPECT_EQ(get(*gateway, "/assets/none.js").status, 404);
  if (page.header("ETag").empty()) GTEST_SKIP() << "this build has no page";
  EXPECT_EQ(get(*gateway, "/", {{"If-None-Match", page.header("ETag")}}).status, 304);
}

TEST_F(GatewayTest, no_log_line_holds_what_was_asked) {
  for (const char* path : {k_chats, "/v1/completions", "/tokenize", "/v1/nightingale"}) {
    post(*gateway, path, chat("nightingale"));
    post(*gateway, path, {{"prompt", "nightingale"}, {"nightingale", 1}});
    get(*gateway, std::string(path) + "?nightingale", {{"X-nightingale", "nightingale"}});
  }
  const std::string log = parties->logged();
  EXPECT_NE(log.find("/v1/completions"), std::string::npos);
  EXPECT_EQ(log.find("nightingale"), std::string::npos);
  EXPECT_EQ(get(*gateway, "/metrics").text.find("nightingale"), std::string::npos);
}

// Its chains have material for one prompt alone.
TEST(Stock, is_made_for_a_model_that_takes_one_prompt_a_conversation) {
  Service own("serve --demo " PERMLLM_TINY_MODELS
              "/chatglm-6b --prompt-slots 8 --context 60 --stock 60 --events --log-level off --listen 127.0.0.1:0");
  activity_until(own, [](const Json& now) { return now["stock_tokens"] == 60; });
  EXPECT_EQ(own.end(), 0);
}

// A model of words, which by itself says what it likes.
TEST(Forms, a_small_model_in_profile_open_keeps_a_schema_and_calls_a_tool_that_it_must) {
  Service own("serve --demo " PERMLLM_TEST_MODEL
              " --profile open --context 512 --ahead 256 --events --log-level off --listen 127.0.0.1:0");
  const Json schema = Json::parse(
      R"({"type": "object", "additionalProperties": false, "required": ["sure", "kind", "places"], "properties": {
    "sure": {"type": "boolean"}, "kind": {"enum": ["town", "river"]}, "places": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"enum": ["Rome", "Oslo"]}}}})");
  const Json how{{"max_tokens", 80},
                 {"temperature", 1},
                 {"seed", 3},
                 {"response_format",
                  {{"type", "json_schema"}, {"json_schema", {{"name", "n"}, {"strict", true}, {"schema", schema}}}}}};
  const auto ask = [&](const std::string& question, Json more) {
    more["model"] = nullptr;
    return post(own, k_chats, chat(question, more));
  };
  const Reply whole = ask("Sing of the sea.", how);
  ASSERT_EQ(whole.status, 200) << whole.text;
  const Json answer = Json::parse(whole.json()["choices"][0]["message"]["content"].get<std::string>());
  EXPECT_TRUE(answer["sure"].is_boolean() && (answer["kind"] == "town" || answer["kind"] == "river")) << answer;
  EXPECT_TRUE(answer["places"].size() == 1 || answer["places"].size() == 2) << answer;
  EXPECT_EQ(answer.size(), 3u);
  EXPECT_EQ(whole.json()["choices"][0]["finish_reason"], "stop");

  Json streamed = how;
  streamed["stream"] = true;
  streamed["response_format"] = {{"type", "json_object"}};
  streamed["max_tokens"] = 40;
  std::string text;
  std::size_t pieces = 0;
  for (const Json& event : events_of(ask("Sing of the sea.", streamed).text)) {
    if (!event.is_object() || event["choices"].empty()) continue;
    const std::string piece = event["choices"][0]["delta"].value("content", "");
    pieces += !piece.empty();
    text += piece;
  }
  EXPECT_TRUE(text.starts_with('{')) << text;
  EXPECT_GT(pieces, 1u);

  const Json tool =
      Json::parse(R"({"type": "function", "function": {"name": "weather", "description": "The weather of a town.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}})");
  Json calling{{"max_tokens", 60}, {"tools", Json::array({tool})}, {"tool_choice", "required"}, {"format_tries", 8}};
  const Reply called = ask("How is the weather in Rome?", calling);
  ASSERT_EQ(called.status, 200) << called.text;
  const Json choice = called.json()["choices"][0];
  ASSERT_EQ(choice["finish_reason"], "tool_calls") << called.text;
  EXPECT_TRUE(choice["message"]["content"].is_null());
  const Json call = choice["message"]["tool_calls"][0];
  EXPECT_EQ(call["type"], "function");
  EXPECT_EQ(call["function"]["name"], "weather");
  EXPECT_TRUE(Json::parse(call["function"]["arguments"].get<std::string>()).is_object()) << call;
  // What the tool said comes back, and the same call as a stream.
  Json told = calling;
  told["tool_choice"] = "none";
  told["max_tokens"] = 4;
  told["messages"] = {{{"role", "user"}, {"content", "How is the weather in Rome?"}},
                      choice["message"],
                      {{"role", "tool"}, {"tool_call_id", call["id"]}, {"content", "warm"}}};
  EXPECT_EQ(post(own, k_chats, told).status, 200);
  calling["stream"] = true;
  Json joined;
  std::string arguments, finish;
  for (const Json& event : events_of(ask("How is the weather in Rome?", calling).text)) {
    if (!event.is_object() || event["choices"].empty()) continue;
    const Json& delta = event["choices"][0]["delta"];
    if (event["choices"][0]["finish_reason"].is_string()) finish = event["choices"][0]["finish_reason"];
    if (!delta.contains("tool_calls")) continue;
    EXPECT_EQ(delta["tool_calls"][0]["index"], 0);
    if (delta["tool_calls"][0].contains("id")) joined = delta["tool_calls"][0];
    arguments += delta["tool_calls"][0]["function"]["arguments"];
  }
  EXPECT_EQ(joined["function"]["name"], "weather");
  EXPECT_TRUE(Json::parse(arguments, nullptr, false).is_object()) << arguments;
  EXPECT_EQ(finish, "tool_calls");
  EXPECT_EQ(own.end(), 0);
}

TEST(NamedLogits, are_told_and_moved_in_profile_open) {
  Service own("serve --demo " PERMLLM_TEST_MODEL
              " --profile open --context 256 --ahead 128 --events --log-level off --listen 127.0.0.1:0");
  const auto ask = [&](Json more) {
    more["model"] = nullptr;
    const Reply reply = post(own, k_chats, chat("What is 17 plus 25?", more));
    EXPECT_EQ(reply.status, 200) << reply.text;
    return reply.json()["choices"][0];
  };
  const Json plain = ask({{"max_tokens", 8}, {"logprobs", true}, {"top_logprobs", 3}});
  ASSERT_EQ(plain["logprobs"]["content"].size(), 8u);
  for (const Json& token : plain["logprobs"]["content"]) {
    ASSERT_EQ(token["top_logprobs"].size(), 3u);
    EXPECT_EQ(token["top_logprobs"][0]["token"], token["token"]);  // greedy
    EXPECT_EQ(token["top_logprobs"][0]["logprob"], token["logprob"]);
    EXPECT_GE(token["top_logprobs"][0]["logprob"], token["top_logprobs"][1]["logprob"]);
    EXPECT_GE(token["top_logprobs"][1]["logprob"], token["top_logprobs"][2]["logprob"]);
  }
  // The first token barred, the next best comes; what is told is the model's own likelihood all the same.
  const std::string first = plain["logprobs"]["content"][0]["token"];
  const Json ids = post(own, "/tokenize", {{"content", first}}).json()["tokens"];
  ASSERT_EQ(ids.size(), 1u) << first;
  const Json barred = ask({{"max_tokens", 1},
                           {"logprobs", true},
                           {"top_logprobs", 1},
                           {"logit_bias", {{std::to_string(ids[0].get<int>()), -100}}}});
  EXPECT_EQ(barred["logprobs"]["content"][0]["token"], plain["logprobs"]["content"][0]["top_logprobs"][1]["token"]);
  EXPECT_EQ(barred["logprobs"]["content"][0]["top_logprobs"][0]["token"], first);
  // Penalties and the longest drafts at once: each row counts what stands before it.
  const auto repeats = [&](const Json& how) {
    Json more{{"max_tokens", 40}, {"logprobs", true}};
    more.update(how);
    std::map<std::string, int> times;
    int most = 0;
    const Json answer = ask(more);
    for (const Json& token : answer["logprobs"]["content"]) most = std::max(most, ++times[token["token"]]);
    return most;
  };
  EXPECT_GT(repeats(Json::object()), 1);
  EXPECT_EQ(repeats({{"frequency_penalty", 2}, {"presence_penalty", 2}, {"repetition_penalty", 10}}), 1);
  // Vectors of texts: the same for the same, near for what is alike, whichever interface tells of them.
  const Json texts{"A cat sits on the mat.", "A kitten sits on the rug.", "Interest rates rose by a quarter."};
  const Json embedded = post(own, "/v1/embeddings", {{"input", texts}}).json();
  ASSERT_EQ(embedded["data"].size(), 3u) << embedded;
  std::vector<std::vector<double>> vectors;
  for (const Json& one : embedded["data"]) vectors.push_back(one["embedding"].get<std::vector<double>>());
  const auto cosine = [&](std::size_t a, std::size_t b) {
    return std::inner_product(vectors[a].begin(), vectors[a].end(), vectors[b].begin(), 0.0);
  };
  EXPECT_EQ(vectors[0].size(), 576u);
  EXPECT_NEAR(cosine(0, 0), 1, 1e-5);
  EXPECT_GT(cosine(0, 1), cosine(0, 2) + 0.05);
  EXPECT_GT(embedded["usage"]["prompt_tokens"], 15);
  const Json again = post(own, "/api/embed", {{"model", "permllm"}, {"input", texts[0]}}).json()["embeddings"];
  ASSERT_EQ(again.size(), 1u);
  vectors.push_back(again[0].get<std::vector<double>>());
  EXPECT_NEAR(cosine(0, 3), 1, 1e-3);
  EXPECT_EQ(post(own, "/v1/embeddings", {{"input", "a"}, {"encoding_format", "base64"}})
                .json()["data"][0]["embedding"]
                .get<std::string>()
                .size(),
            3072u);
  const Json raw = post(own, "/v1/completions", {{"prompt", "1, 2, 3,"}, {"max_tokens", 2}, {"logprobs", 2}}).json();
  EXPECT_EQ(raw["choices"][0]["logprobs"]["top_logprobs"][0].size(), 2u) << raw;
  EXPECT_EQ(own.end(), 0);
}

}  // namespace
}  // namespace permllm::gateway_test
