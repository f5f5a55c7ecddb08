// The gateway as its clients meet it: `permllm serve` in a process of its own, with a provider and a helper in theirs, over real sockets.
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
  expect(k_chats, chat("canary", {{"tools", {1}}}), 400, "tools", "unsupported_parameter");
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
  for (const char* key : {"active", "queued", "prepare", "online", "offline_provider", "offline_helper", "tokens",
                          "tokens_per_second", "stock_tokens", "stock_target", "filling", "tokens_left", "uptime"}) {
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
  EXPECT_EQ(raw_status(*gateway, "GET /health HTTP/1.1\r\n\r\n"), 403);
  EXPECT_EQ(raw_status(*gateway, "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"), 403);
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
  EXPECT_EQ(raw_status(*gateway,
                       "GET /v1/activity HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: "
                       "websocket\r\nSec-WebSocket-Key: x\r\n\r\n"),
            400);
  EXPECT_EQ(raw_status(*gateway, "GET / HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-,0-,0-\r\n\r\n"), 400);
  EXPECT_GE(raw_status(*gateway, "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n"),
            400);
  EXPECT_EQ(raw_status(*gateway, "nonsense\r\n\r\n"), 400);
  EXPECT_EQ(get(*gateway, "/assets/../CMakeLists.txt").status, 404);
  EXPECT_EQ(get(*gateway, "/health").status, 200);  // still there
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
  for (const char* path : {"/v1/models", "/health", "/metrics", "/v1/privacy", "/v1/activity", "/other"}) {
    const Reply reply = get(*own, path);
    EXPECT_EQ(reply.status, 401) << path;
    EXPECT_EQ(reply.json()["error"]["code"], "invalid_api_key");
  }
  for (const char* key : {"Bearer key-number-three-of-two", "Bearer ", "key-number-one-of-two",
                          "Bearer key-number-one-of-tw", "Bearer # keys"}) {
    EXPECT_EQ(get(*own, "/v1/models", {{"Authorization", key}}).status, 401) << key;
  }
  for (const char* key : {"Bearer key-number-one-of-two", "bearer key-number-two-of-two"})
    EXPECT_EQ(get(*own, "/v1/models", {{"Authorization", key}}).status, 200);
  EXPECT_EQ(post(*own, k_chats, chat()).status, 401);
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
    EXPECT_EQ(reply.json()["error"]["plain"],
              "The allowance of the invite is used up. Ask the provider for a new invite.");
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
  for (const char* path : {k_chats, "/v1/completions", "/tokenize", "/v1/canary"}) {
    post(*gateway, path, chat("canary"));
    post(*gateway, path, {{"prompt", "canary"}, {"canary", 1}});
    get(*gateway, std::string(path) + "?canary", {{"X-canary", "canary"}});
  }
  const std::string log = parties->logged();
  EXPECT_NE(log.find("/v1/completions"), std::string::npos);
  EXPECT_EQ(log.find("canary"), std::string::npos);
  EXPECT_EQ(get(*gateway, "/metrics").text.find("canary"), std::string::npos);
}

// Its chains have material for one prompt alone.
TEST(Stock, is_made_for_a_model_that_takes_one_prompt_a_conversation) {
  Service own("serve --demo " PERMLLM_TINY_MODELS
              "/chatglm-6b --prompt-slots 8 --context 60 --stock 60 --events --log-level off --listen 127.0.0.1:0");
  activity_until(own, [](const Json& now) { return now["stock_tokens"] == 60; });
  EXPECT_EQ(own.end(), 0);
}

}  // namespace
}  // namespace permllm::gateway_test
