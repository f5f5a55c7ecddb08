// Requests and answers of OpenAI's interface as data.
#include "gateway/openai_chat.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/reason.h"

namespace permllm::gateway {
namespace {

using In = nlohmann::json;

const In k_chat{{"messages", {{{"role", "user"}, {"content", "Hi"}}}}};

Request parse_chat(std::string_view body) { return OpenAiChat().read(body); }
Request parse_completion(std::string_view body) { return OpenAiCompletions().read(body); }

// The field and the code of the error that a body gives.
std::string refused(const std::function<void()>& parse) {
  try {
    parse();
  } catch (const Error& error) {
    return error.field() + (error.code() == Code::unsupported ? " unsupported" : "");
  }
  return "accepted";
}
std::string chat_with(const In& more) {
  In body = k_chat;
  body.update(more);
  return refused([&] { parse_chat(body.dump()); });
}

TEST(Requests, a_chat_is_read_with_all_that_is_honoured) {
  In body = k_chat;
  body["messages"] = {
      {{"role", "developer"}, {"content", "Be brief."}},
      {{"role", "user"}, {"content", {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}}}},
      {{"role", "assistant"}, {"content", "c"}, {"refusal", nullptr}, {"tool_calls", In::array()}}};
  body.update({{"model", "m"},
               {"temperature", 0.5},
               {"top_p", 0.9},
               {"top_k", 5},
               {"min_p", 0.1},
               {"seed", -1},
               {"stop", {"x", "y"}},
               {"max_completion_tokens", 7},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}});
  const Request request = parse_chat(body.dump());
  ASSERT_EQ(request.messages.size(), 3u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[1].content, "a\nb");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.answer.temperature, 0.5);
  EXPECT_EQ(request.answer.top_p, 0.9);
  EXPECT_EQ(request.answer.top_k, 5u);
  EXPECT_EQ(request.answer.min_p, 0.1);
  EXPECT_EQ(request.answer.seed, UINT64_MAX);
  EXPECT_EQ(request.answer.stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(request.max_tokens, 7u);
  EXPECT_TRUE(request.chat && request.stream && request.include_usage);

  const Request plain = parse_chat(k_chat.dump());
  EXPECT_EQ(plain.answer.temperature, 0);  // greedy
  const auto more = [](const std::string& name, const In& value) {
    In with = k_chat;
    with[name] = value;
    return with;
  };
  for (const auto& [name, value] : std::map<std::string, In>{{"top_p", 0.5}, {"top_k", 3}, {"min_p", 0.1}}) {
    EXPECT_EQ(parse_chat(more(name, value).dump()).answer.temperature, 1) << name;
  }
  for (const auto& [name, value] : std::map<std::string, In>{{"top_p", 1}, {"top_k", 0}, {"min_p", 0}, {"seed", 5}}) {
    EXPECT_EQ(parse_chat(more(name, value).dump()).answer.temperature, 0) << name;
  }
  EXPECT_EQ(plain.choices, 1u);
  EXPECT_EQ(parse_chat(more("n", 3).dump()).choices, 3u);
  EXPECT_EQ(parse_chat(more("n", 3).dump()).answer.temperature, 1);  // or all would be the same
  const auto biased = parse_chat(more("logit_bias", {{"5", -100}, {"7", 1.5}}).dump()).answer.logit_bias;
  EXPECT_EQ(biased, (std::vector<std::pair<std::uint32_t, double>>{{5, -100}, {7, 1.5}}));
  EXPECT_FALSE(plain.max_tokens || plain.stream || plain.answer.seed);
  EXPECT_EQ(parse_completion(R"({"prompt":["once"],"echo":false,"best_of":1,"suffix":""})").messages[0].content,
            "once");
}

TEST(Requests, an_answer_that_goes_on_is_the_assistants_last_text_alone) {
  In body = k_chat;
  body["messages"].push_back({{"role", "assistant"}, {"content", "It is "}});
  body.update({{"continue_final_message", true}, {"draft", 4}, {"chat_template_kwargs", {{"enable_thinking", false}}}});
  const Request request = parse_chat(body.dump());
  EXPECT_TRUE(request.answer.goes_on);
  EXPECT_EQ(request.answer.draft, 4u);
  EXPECT_EQ(request.think, std::optional(false));
  EXPECT_FALSE(parse_chat(k_chat.dump()).answer.goes_on || parse_chat(k_chat.dump()).think);
  EXPECT_EQ(chat_with({{"continue_final_message", true}}), "continue_final_message");  // a question is the last
  EXPECT_EQ(chat_with({{"continue_final_message", true}, {"messages", {{{"role", "assistant"}, {"content", "a"}}}}}),
            "continue_final_message");
  body["response_format"] = {{"type", "json_object"}};
  EXPECT_EQ(refused([&] { parse_chat(body.dump()); }), "continue_final_message");
  EXPECT_EQ(chat_with({{"draft", 64}}), "draft");
  EXPECT_EQ(chat_with({{"chat_template_kwargs", {{"other", 1}}}}), "chat_template_kwargs.other");
}

TEST(Requests, fields_that_ask_for_nothing_are_accepted) {
  for (const In& more : {In{{"user", "u"}},
                         In{{"metadata", {{"a", "b"}}}},
                         In{{"store", false}},
                         In{{"service_tier", "auto"}},
                         In{{"n", 1}},
                         In{{"n", 16}},
                         In{{"logit_bias", {{"5", -100}}}},
                         In{{"presence_penalty", 2}},
                         In{{"frequency_penalty", -0.5}},
                         In{{"repetition_penalty", 1.1}},
                         In{{"logprobs", true}, {"top_logprobs", 20}},
                         In{{"logit_bias", In::object()}},
                         In{{"presence_penalty", 0}},
                         In{{"frequency_penalty", 0.0}},
                         In{{"logprobs", false}},
                         In{{"top_logprobs", 0}},
                         In{{"tools", In::array()}},
                         In{{"tool_choice", "none"}},
                         In{{"tool_choice", "auto"}},
                         In{{"response_format", {{"type", "text"}}}},
                         In{{"modalities", {"text"}}},
                         In{{"stop", nullptr}},
                         In{{"tools", nullptr}},
                         In{{"top_p", 0}},
                         In{{"parallel_tool_calls", true}},
                         In{{"prompt_cache_key", "k"}},
                         In{{"prompt_cache_retention", "24h"}},
                         In{{"safety_identifier", "s"}},
                         In{{"reasoning_effort", "low"}},
                         In{{"verbosity", "low"}},
                         In{{"stream", true}, {"stream_options", {{"include_obfuscation", false}}}},
                         In{{"stream", true}, {"stream_options", {{"include_usage", nullptr}, {"other", nullptr}}}},
                         In{{"max_tokens", nullptr}, {"max_completion_tokens", 5}},
                         In{{"max_tokens", 5}, {"max_completion_tokens", nullptr}},
                         In{{"web_search_options", nullptr}},
                         In{{"prediction", nullptr}},
                         In{{"logit_bias", nullptr}}}) {
    EXPECT_EQ(chat_with(more), "accepted") << more;
  }
}

TEST(Requests, what_is_not_honoured_is_refused_by_name) {
  for (const auto& [name, value] : std::map<std::string, In>{{"functions", {1}},
                                                             {"function_call", "auto"},
                                                             {"store", true},
                                                             {"service_tier", "flex"},
                                                             {"modalities", {"text", "audio"}},
                                                             {"audio", {{"voice", "x"}}}}) {
    EXPECT_EQ(chat_with({{name, value}}), name + " unsupported");
  }
  for (const auto& [name, value] : std::map<std::string, In>{{"prompt", "a"},
                                                             {"best_of", 2},
                                                             {"n", 0},
                                                             {"n", 17},
                                                             {"logit_bias", {{"a", 1}}},
                                                             {"presence_penalty", 2.1},
                                                             {"frequency_penalty", "1"},
                                                             {"repetition_penalty", 0},
                                                             {"top_logprobs", 3},
                                                             {"parallel_tool_calls", "yes"},
                                                             {"reasoning_effort", 1},
                                                             {"unheard_of", false},
                                                             {"max_tokens", 0},
                                                             {"temperature", 2.1},
                                                             {"top_p", -1},
                                                             {"min_p", "x"},
                                                             {"seed", 1.5},
                                                             {"stop", ""},
                                                             {"stream", 1},
                                                             {"stop", {"1", "2", "3", "4", "5"}},
                                                             {"user", 5},
                                                             {"model", 1},
                                                             {"max_completion_tokens", -1},
                                                             {"messages", In::array()}}) {
    EXPECT_EQ(chat_with({{name, value}}), name);
  }
  EXPECT_EQ(chat_with({{"stream_options", {{"include_usage", true}}}}), "stream_options");
  EXPECT_EQ(chat_with({{"stream", true}, {"stream_options", {{"other", true}}}}), "stream_options.other");
  EXPECT_EQ(chat_with({{"max_tokens", 1}, {"max_completion_tokens", 2}}), "max_tokens");
  const auto message = [](const In& one) { return chat_with({{"messages", In::array({one})}}); };
  EXPECT_EQ(message({{"role", "function"}, {"content", "a"}}), "messages[0].role unsupported");
  EXPECT_EQ(message({{"role", "tool"}, {"content", "a"}}), "messages[0].tool_call_id");
  EXPECT_EQ(message({{"role", "assistant"}, {"content", nullptr}}), "messages[0].content");
  EXPECT_EQ(message({{"role", "king"}, {"content", "a"}}), "messages[0].role");
  EXPECT_EQ(message({{"content", "a"}}), "messages[0].role");
  EXPECT_EQ(message({{"role", "user"}}), "messages[0].content");
  EXPECT_EQ(message({{"role", "user"}, {"content", "a"}, {"name", "b"}}), "accepted");
  EXPECT_EQ(message({{"role", "user"}, {"content", "a"}, {"name", nullptr}, {"other", nullptr}}), "accepted");
  EXPECT_EQ(message({{"role", "user"}, {"content", "a"}, {"name", 1}}), "messages[0].name");
  EXPECT_EQ(message({{"role", "user"}, {"content", {{{"type", "image_url"}, {"image_url", "x"}}}}}),
            "messages[0].content[0].type unsupported");
  EXPECT_EQ(message({{"role", "assistant"}, {"content", "a"}, {"tool_calls", {1}}}), "messages[0].tool_calls[0]");
  for (const char* body :
       {R"({"prompt":"a","echo":true})", R"({"prompt":"a","suffix":"b"})", R"({"prompt":"a","best_of":2})"}) {
    EXPECT_TRUE(refused([&] { parse_completion(body); }).ends_with("unsupported")) << body;
  }
  EXPECT_EQ(refused([] { parse_completion(R"({"prompt":"a","best_of":2,"n":2,"logprobs":5})"); }), "accepted");
  EXPECT_EQ(refused([] { parse_completion(R"({"prompt":"a","logprobs":6})"); }), "logprobs");
  EXPECT_EQ(refused([] { parse_completion(R"({"prompt":["a","b"]})"); }), "prompt");
  EXPECT_EQ(refused([] { parse_completion(R"({"prompt":[1,2]})"); }), "prompt");
}

const In k_tool = In::parse(
    R"({"type":"function","function":{"name":"weather","description":"d","parameters":{"type":"object"},"strict":true}})");

TEST(Requests, tools_and_their_calls_are_read) {
  In body = k_chat;
  body["messages"] = In::parse(R"([{"role":"user","content":"Warm?"},
    {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{\"city\": \"Rome\"}"}},
                                                     {"id":"c2","type":"function","function":{"name":"weather","arguments":"oops"}}]},
    {"role":"tool","tool_call_id":"c1","content":"20"}])");
  body.update({{"tools", In::array({k_tool})}, {"tool_choice", "required"}, {"parallel_tool_calls", false}});
  const Request request = parse_chat(body.dump());
  EXPECT_EQ(request.tool_names(), std::vector<std::string>{"weather"});
  EXPECT_TRUE(request.may_call() && request.calls == Request::Calls::required && !request.parallel);
  const Json calls = Json::parse(request.messages[1].tool_calls);
  EXPECT_EQ(calls[0]["function"]["arguments"], (Json{{"city", "Rome"}}));  // templates take them apart
  EXPECT_EQ(calls[1]["function"]["arguments"], "oops");
  EXPECT_EQ(request.messages[2].role, "tool");
  EXPECT_EQ(request.messages[2].tool_call_id, "c1");
  body["tool_choice"] = {{"type", "function"}, {"function", {{"name", "weather"}}}};
  EXPECT_EQ(parse_chat(body.dump()).tool, "weather");
  body["tool_choice"] = "none";
  EXPECT_FALSE(parse_chat(body.dump()).may_call());
  body.erase("tool_choice");
  EXPECT_TRUE(parse_chat(body.dump()).calls == Request::Calls::if_it_likes && parse_chat(body.dump()).may_call());

  const auto with = [](const In& tools, const In& choice = nullptr) {
    return chat_with({{"tools", tools}, {"tool_choice", choice}});
  };
  EXPECT_EQ(with(In::array({k_tool}), "sometimes"), "tool_choice");
  EXPECT_EQ(with(In::array({k_tool}), {{"type", "function"}, {"function", {{"name", "other"}}}}),
            "tool_choice.function.name");
  EXPECT_EQ(with(nullptr, "required"), "tool_choice");
  EXPECT_EQ(with(In::array({1})), "tools[0]");
  EXPECT_EQ(with(In::array({k_tool, {{"type", "web_search"}}})), "tools[1].type unsupported");
  EXPECT_EQ(with(In::array({{{"type", "function"}, {"function", {{"name", "a b"}}}}})), "tools[0].function.name");
  EXPECT_EQ(with(In::array({{{"type", "function"}, {"function", {{"name", "a"}, {"parameters", 1}}}}})),
            "tools[0].function.parameters");
}

TEST(Requests, a_form_of_the_answer_is_read) {
  const auto form = [](const In& of) {
    In body = k_chat;
    body["response_format"] = of;
    return parse_chat(body.dump()).form;
  };
  EXPECT_EQ(form({{"type", "text"}}), nullptr);
  EXPECT_TRUE(form({{"type", "json_object"}})->keeps(Json::object()));
  const auto schema = form(
      {{"type", "json_schema"}, {"json_schema", {{"name", "n"}, {"strict", true}, {"schema", {{"type", "array"}}}}}});
  EXPECT_TRUE(schema->keeps(Json::array()) && !schema->keeps(Json::object()));
  EXPECT_EQ(chat_with({{"response_format", {{"type", "yaml"}}}}), "response_format.type");
  EXPECT_EQ(chat_with({{"response_format", {{"type", "json_schema"}}}}), "response_format.json_schema.schema");
  EXPECT_EQ(
      chat_with({{"response_format",
                  {{"type", "json_schema"}, {"json_schema", {{"schema", {{"type", "string"}, {"pattern", "a"}}}}}}}}),
      "response_format.json_schema.schema.pattern unsupported");
  EXPECT_EQ(chat_with({{"format_tries", 0}}), "format_tries");
}

TEST(Requests, an_error_never_quotes_the_body) {
  for (const char* body : {R"({"messages": secret})", "secret", R"(["secret"])", "{\"a\": \"secret\xff\"}",
                           R"({"messages":[{"role":"secret","content":"secret"}]})", R"({"messages":"secret"})",
                           R"({"stop":[["secret"]]})"}) {
    try {
      parse_chat(body);
      ADD_FAILURE() << body;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find("secret"), std::string::npos) << error.what();
    }
  }
}

TEST(Requests, json_that_would_take_a_reader_down_is_refused) {
  const std::string deep = std::string(400'000, '[') + std::string(400'000, ']');
  EXPECT_EQ(refused([] { parse_chat(std::string(900'000, '[')); }), "body");
  EXPECT_EQ(refused([&] { parse_chat(R"({"max_tokens":)" + deep + R"(,"max_completion_tokens":)" + deep + "}"); }),
            "body");
  EXPECT_EQ(refused([] { parse_chat(R"({"temperature":1e400})"); }), "body");
  EXPECT_EQ(refused([] { parse_chat(R"({"temperature":0,"temperature":1})"); }), "temperature");
  EXPECT_EQ(refused([] { parse_chat(R"({"messages":[{"role":"user","content":"a","role":"system"}]})"); }), "role");
  std::string keys = "{";
  for (int i = 0; i < 1100; ++i) keys += fmt::format("\"{}\":0,", i);
  EXPECT_EQ(refused([&] { parse_chat(R"({"metadata":)" + keys + R"("last":0}})"); }), "body");
  const Refusal told = refusal_of(Error(Code::usage, std::string(5000, 'k'), std::string(5000, 'm')));
  EXPECT_LE(told.message.size(), 1000u);
  EXPECT_LE(told.param.size(), 128u);
}

// The events of a stream, each with its data read; "[DONE]" is a text.
std::vector<Json> events_of(const std::string& bytes) {
  std::vector<Json> all;
  for (std::size_t from = 0, end = 0; (end = bytes.find("\n\n", from)) != std::string::npos; from = end + 2) {
    const std::string one = bytes.substr(from, end - from);
    EXPECT_TRUE(one.starts_with("data: ")) << one;
    all.push_back(one == "data: [DONE]" ? Json("done") : Json::parse(one.substr(6)));
  }
  return all;
}
Made made_of(const std::vector<std::string>& texts) {
  Made made;
  for (const std::string& text : texts) made.choices.push_back({"", text, {}, Answer::End::model, "", {}});
  return made;
}

TEST(Answers, chunks_are_what_strict_clients_take) {
  const Head head = Head::of("m", "fp");
  Request request;
  const auto writer = OpenAiChat().writer(request, head, 0);
  std::string stream = writer->begin();
  stream += writer->piece({Piece::Kind::text, 0, "a", {}});
  stream += writer->end(made_of({"a"}));
  const auto events = events_of(stream);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["choices"][0]["delta"], (Json{{"role", "assistant"}, {"content", ""}}));
  EXPECT_EQ(events[1]["choices"][0]["delta"], (Json{{"content", "a"}}));
  EXPECT_TRUE(events[1]["choices"][0]["finish_reason"].is_null());
  EXPECT_FALSE(events[1].contains("usage"));
  EXPECT_EQ(events[2]["choices"][0]["delta"], Json::object());
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[3], "done");
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    EXPECT_EQ(events[i]["id"], "chatcmpl-" + head.id);
    EXPECT_EQ(events[i]["created"], head.created);
  }
  EXPECT_NE(Head::of("m", "fp").id, head.id);
  request.include_usage = true;
  const auto counted = events_of(OpenAiChat().writer(request, head, 0)->end(made_of({""})));
  EXPECT_TRUE(counted[1].at("usage").is_null());
  EXPECT_EQ(counted[2]["choices"], Json::array());
  EXPECT_EQ(counted[2]["usage"]["total_tokens"], 0);
  Request raw;
  raw.chat = false;
  EXPECT_EQ(
      events_of(OpenAiChat().writer(raw, head, 0)->piece({Piece::Kind::text, 0, "a", {}}))[0]["choices"][0]["text"],
      "a");
  EXPECT_EQ(event({{"a", "\n"}}), "data: {\"a\":\"\\n\"}\n\n");  // a line is a line
}

TEST(Answers, each_choice_has_its_index_its_thoughts_and_its_end) {
  const Head head = Head::of("m", "fp");
  const Request request;
  Made made = made_of({"a", "b"});
  made.choices[0].thought = "hm";
  made.choices[1].calls = {{"id7", {"f", "{}"}}};
  made.choices[1].end = Answer::End::model;
  const Json whole = OpenAiChat().writer(request, head, 0)->whole(made);
  ASSERT_EQ(whole["choices"].size(), 2u);
  EXPECT_EQ(whole["choices"][0]["message"]["reasoning_content"], "hm");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "stop");
  EXPECT_FALSE(whole["choices"][1]["message"].contains("reasoning_content"));
  EXPECT_EQ(whole["choices"][1]["index"], 1);
  EXPECT_EQ(whole["choices"][1]["finish_reason"], "tool_calls");
  EXPECT_EQ(whole["choices"][1]["message"]["tool_calls"][0]["function"], (Json{{"name", "f"}, {"arguments", "{}"}}));
  const auto writer = OpenAiChat().writer(request, head, 0);
  std::string stream = writer->begin();
  stream += writer->piece({Piece::Kind::thought, 0, "hm", {}});
  stream += writer->piece({Piece::Kind::text, 0, "a", {}});
  stream += writer->piece({Piece::Kind::text, 1, "b", {}});
  stream += writer->piece({Piece::Kind::call, 1, "", made.choices[1].calls[0]});
  const auto events = events_of(stream + writer->end(made));
  ASSERT_EQ(events.size(), 10u);
  EXPECT_EQ(events[1]["choices"][0]["delta"], (Json{{"reasoning_content", "hm"}}));
  EXPECT_EQ(events[3]["choices"][0]["delta"]["role"], "assistant");
  for (std::size_t i = 3; i < 7; ++i) EXPECT_EQ(events[i]["choices"][0]["index"], 1) << i;
  EXPECT_EQ(events[5]["choices"][0]["delta"]["tool_calls"][0]["id"], "id7");
  EXPECT_EQ(events[7]["choices"][0],
            (Json{{"index", 0}, {"delta", Json::object()}, {"logprobs", nullptr}, {"finish_reason", "stop"}}));
  EXPECT_EQ(events[8]["choices"][0]["finish_reason"], "tool_calls");
}

TEST(Answers, likelihoods_have_the_shape_of_their_interface) {
  const Head head = Head::of("m", "fp");
  Made made = made_of({"ab"});
  made.choices[0].log_probabilities = {{"a", -0.5, {{"a", -0.5, {}}, {"\xff", -1, {}}}},
                                       {"b", -0.25, {{"b", -0.25, {}}, {"c", -2, {}}}}};
  Request chat, raw;
  raw.chat = false;
  raw.answer.top_logprobs = 2;
  const Json token = OpenAiChat().writer(chat, head, 0)->whole(made)["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(token["token"], "a");
  EXPECT_EQ(token["bytes"], Json::array({97}));
  EXPECT_EQ(token["top_logprobs"][1]["bytes"], Json::array({255}));
  EXPECT_EQ(token["top_logprobs"][1]["logprob"], -1);
  const Json plain = OpenAiCompletions().writer(raw, head, 0)->whole(made)["choices"][0]["logprobs"];
  EXPECT_EQ(plain["tokens"], Json::array({"a", "b"}));
  EXPECT_EQ(plain["text_offset"], Json::array({0, 1}));
  EXPECT_EQ(plain["token_logprobs"], Json::array({-0.5, -0.25}));
  EXPECT_EQ(plain["top_logprobs"][1], (Json{{"b", -0.25}, {"c", -2}}));
}

// Who asks for no usage is told all the same.
TEST(Answers, numbers_out_of_range_are_told_in_every_shape) {
  Made made = made_of({"a"});
  made.costs.cost.answer_tokens = made.costs.trusted_tokens = 5;
  const Head head = Head::of("m", "fp");
  const Request request;
  const auto last = [&] { return events_of(OpenAiChat().writer(request, head, 0)->end(made)).at(1); };
  EXPECT_EQ(costs_of(made.costs)["out_of_range"], 0);
  EXPECT_EQ(costs_of(made.costs)["trusted_tokens"], 5);
  EXPECT_FALSE(last().contains("permllm"));
  made.costs.out_of_range = 7;
  made.costs.trusted_tokens = 2;
  EXPECT_EQ(OpenAiChat().writer(request, head, 0)->whole(made)["usage"]["permllm"]["out_of_range"], 7);
  EXPECT_EQ(last()["permllm"], (Json{{"out_of_range", 7}, {"trusted_tokens", 2}}));
}

TEST(Answers, faults_have_the_status_that_tells_a_client_what_to_do) {
  const auto status = [](const Error& error) {
    const Refusal refusal = refusal_of(error);
    return std::to_string(refusal.status) + " " + refusal.code;
  };
  EXPECT_EQ(status(Error(Code::unsupported, "tools", "m")), "400 unsupported_parameter");
  EXPECT_EQ(status(Error(Code::usage, "stop", "m")), "400 ");
  // The reason alone counts, whoever says it, of what kind it is and whatever its words are.
  for (const Code code : {Code::usage, Code::resource, Code::mismatch, Code::closed}) {
    for (const ReasonFacts& facts : reasons()) {
      for (const Error& error :
           {Error(code, facts.reason, "the helper at h:1", "m"), Error::of_a_peer(code, facts.reason, "stock", "m")}) {
        const Refusal refusal = refusal_of(error);
        EXPECT_EQ(refusal.status, facts.http_status) << facts.name;
        EXPECT_EQ(refusal.type, facts.type) << facts.name;
        EXPECT_EQ(refusal.code, facts.code) << facts.name;
        EXPECT_EQ(refusal.retry_after, facts.retry_after) << facts.name;
        EXPECT_EQ(refusal.param, "") << facts.name;
        EXPECT_EQ(openai_error(refusal)["error"]["reason"], facts.name);
        EXPECT_NE(refusal.message.find(facts.remedy), std::string::npos) << facts.name;
      }
    }
  }
  EXPECT_EQ(status(Error(Code::resource, Reason::allowance_used_up, "allowance", "m")), "429 allowance_used_up");
  EXPECT_EQ(status(Error(Code::usage, Reason::context_exceeded, "context", "m")), "400 context_length_exceeded");
  EXPECT_EQ(status(Error(Code::resource, Reason::queue_full, "queue", "m")), "429 queue_full");
  EXPECT_EQ(status(Error(Code::closed, Reason::helper_unreachable, "x", "m")), "503 out_of_stock");
  // What has none.
  EXPECT_EQ(status(Error(Code::resource, "provider", "m")), "503 provider_busy");
  EXPECT_EQ(status(Error(Code::closed, "stock", "m")), "503 provider_unreachable");
  EXPECT_EQ(status(Error(Code::timeout, "ModelCard", "m")), "503 provider_unreachable");
  EXPECT_EQ(status(Error(Code::mismatch, "certificate", "m")), "502 peer_fault");
  EXPECT_EQ(status(Error(Code::malformed, "frame.tag", "m")), "502 peer_fault");
  EXPECT_EQ(status(Error::of_a_peer(Code::usage, Reason::none, "stop", "m")), "502 peer_fault")
      << "not the client's mistake";
  EXPECT_EQ(status(Error(Code::file, "f", "m")), "500 ");
  EXPECT_EQ(refusal_of(Error(Code::usage, "top_p", "m")).param, "top_p");
  EXPECT_EQ(refusal_of(Error(Code::malformed, "ModelHeld.hashes", "m")).message.find("ModelHeld"), std::string::npos);
  EXPECT_EQ(
      openai_error(refusal_of(Error(Code::usage, Reason::allowance_used_up, "tokens", "all 5 are used"))).dump(),
      R"({"error":{"message":"tokens: all 5 are used; ask the provider for more","type":"insufficient_quota","param":null,"code":"allowance_used_up",)"
      R"("plain":"The allowance of the invite is used up. Ask the provider for more.","reason":"allowance_used_up"}})");
  EXPECT_EQ(openai_error(invalid("m")).dump(),
            R"({"error":{"message":"m","type":"invalid_request_error","param":null,"code":null}})");
  EXPECT_EQ(slug("SmolLM2 135M (Instruct)"), "smollm2-135m-instruct");
  EXPECT_EQ(slug("\xe4\xbd\xa0"), "permllm");
  EXPECT_TRUE(tokens_left(INT64_MAX).is_null());
  EXPECT_EQ(tokens_left(5), 5);
}

}  // namespace
}  // namespace permllm::gateway
