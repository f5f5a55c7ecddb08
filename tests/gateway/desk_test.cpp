// Requests at the desk: who is let in, who shares an answer, what ends one, and what is counted.
#include "gateway/desk.h"

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <set>

#include "gateway/stand_in.h"
#include "support/errors.h"

namespace permllm::gateway_test {
namespace {

using Names = std::vector<std::string>;
using Provider = StockKeeper::Provider;
using Stage = AnswerProgress::Stage;
using Ticket = std::shared_ptr<AnswerDesk::Ticket>;

gateway::Request request_of(const std::string& text, bool chat = true) {
  gateway::Request request;
  request.chat = chat;
  request.messages = asked(text);
  return request;
}

struct Desk {
  StandIn client;
  Log log{"test", {"text", "off"}};
  AnswerDesk desk;
  explicit Desk(const DeskOptions& options = {}) : desk(client, options, log) {}

  Ticket ask(const std::string& text, const std::string& key = "", std::size_t owner = 0,
             const std::string& digest = "") {
    return ask(request_of(text), key, owner, digest);
  }
  Ticket ask(const gateway::Request& request, const std::string& key = "", std::size_t owner = 0,
             const std::string& digest = "") {
    return desk.ask(owner, request, gateway::Head::of("tiny", "fp"), key, digest);
  }
  std::string reason(const std::string& text, const std::string& key = "") {
    return test::reason_of([&] { ask(text, key); });
  }
  bool becomes(std::size_t active, std::size_t queued) {
    return eventually([&] {
      const AnswerDesk::Now now = desk.now();
      return now.active == active && now.queued == queued;
    });
  }
};

// Once it is done.
const AnswerJob& done(const Ticket& ticket) {
  const Clock::time_point end = Clock::now() + k_patience;
  while (!(**ticket).done() && Clock::now() < end) (**ticket).wait(SIZE_MAX, end);
  EXPECT_TRUE((**ticket).done());
  return **ticket;
}
std::string code(const Ticket& ticket) {
  const auto failure = done(ticket).failure();
  return failure ? failure->code : "no failure";
}
const gateway::Choice& choice(const Ticket& ticket, std::size_t i = 0) {
  static gateway::Made made;
  made = done(ticket).made();
  return made.choices.at(i);
}
std::string text(const Ticket& ticket) { return choice(ticket).text; }
// What is there to read by now, or soon, behind so many pieces.
std::string read(const Ticket& ticket, std::size_t from, Clock::duration patience = k_patience) {
  std::string all;
  for (const gateway::Piece& piece : (**ticket).wait(from, Clock::now() + patience))
    all += piece.kind == gateway::Piece::Kind::call ? "[" + piece.call.call.name + "]" : piece.text;
  return all;
}

TEST(AnswerDesk, a_question_is_answered_and_counted) {
  Desk d;
  const Ticket ticket = d.ask("Is it so?");
  StandIn::Question& question = d.client.question(0);
  EXPECT_EQ(question.text, "Is it so?");
  question.progress({.stage = Stage::prompt, .fraction = 0.5, .seconds_left = 4});
  EXPECT_TRUE(eventually([&] { return d.desk.now().foremost.progress.has_value(); }));
  EXPECT_EQ(d.desk.now().foremost.progress->fraction, 0.5);
  EXPECT_EQ(d.desk.now().foremost.stage, AnswerJob::Stage::reading);
  question.say("Ye");
  question.say("s");
  EXPECT_TRUE(eventually([&] { return d.desk.now().tokens == 2; }));
  EXPECT_EQ(d.desk.now().foremost.stage, AnswerJob::Stage::answering);
  EXPECT_EQ(d.desk.now().foremost.tokens, 2u);
  EXPECT_EQ(d.desk.now().active, 1u);
  question.end(Answer::End::length, 0.25);
  EXPECT_EQ(text(ticket), "Yes");
  EXPECT_EQ(choice(ticket).end, Answer::End::length);
  EXPECT_EQ(done(ticket).made().costs.cost.prompt_tokens, 9u);
  EXPECT_EQ(done(ticket).made().costs.cost.answer_tokens, 2u);
  EXPECT_EQ(d.desk.now().active, 0u);
  EXPECT_EQ(d.desk.now().prompt_tokens, 9u);
  EXPECT_EQ(d.desk.now().tokens_per_second, 4);  // the last one's
}

// Without a limit a quarter of the context is enough for a session to be taken as it is.
TEST(AnswerDesk, an_answer_is_as_long_as_is_asked_or_as_there_is_room) {
  Desk d;
  d.client.offered.context = 100;
  const auto most = [&](std::optional<std::size_t> max_tokens) {
    gateway::Request request = request_of("q");
    request.max_tokens = max_tokens;
    const std::size_t number = d.client.questions();
    const Ticket ticket = d.ask(request);
    d.client.question(number).end();
    done(ticket);
    const AnswerOptions& how = d.client.question(number).options;
    return std::pair(how.max_tokens, how.enough_tokens);
  };
  EXPECT_EQ(most(6), std::pair(std::size_t{6}, std::size_t{0}));
  EXPECT_EQ(most(std::nullopt), std::pair(std::size_t{100}, std::size_t{25}));
}

TEST(AnswerDesk, what_cannot_be_answered_is_refused_before_anybody_is_asked) {
  Desk d;
  d.client.offered.context = 10;
  EXPECT_EQ(test::error_of([&] { d.ask(""); }), "messages: has no tokens");
  EXPECT_EQ(test::error_of([&] { d.ask(request_of("", false)); }), "prompt: has no tokens");
  EXPECT_EQ(d.reason("ten tokens"), "context_exceeded");
  d.client.left = 0;
  EXPECT_EQ(d.reason("nine toks"), "allowance_used_up");
  d.client.left = 1;
  EXPECT_EQ(d.client.questions(), 0u);
  EXPECT_EQ(d.reason("nine toks"), "no error");
}

TEST(AnswerDesk, who_waits_is_counted_and_no_more_wait_than_may) {
  Desk d({.sessions = 1, .max_requests = 2});
  const Ticket one = d.ask("one");
  d.client.question(0);
  Ticket two = d.ask("two");
  EXPECT_TRUE(d.becomes(1, 1));
  EXPECT_EQ(d.reason("three"), "queue_full");
  d.client.question(0).end();
  done(one);
  EXPECT_EQ(d.client.question(1).text, "two");
  EXPECT_TRUE(d.becomes(1, 0));
  const Ticket three = d.ask("three");  // in the place of the first
  EXPECT_TRUE(d.becomes(1, 1));
  EXPECT_EQ(d.reason("four"), "queue_full");
  d.client.question(1).end();
  d.client.question(2).end();
  done(three);
  EXPECT_EQ(d.client.questions(), 3u);
}

// Each answer has its conversation once, and its first token once: the one that waits has them later.
TEST(AnswerDesk, the_times_until_an_answer_begins_and_until_its_first_token_are_told) {
  Mutex mutex;
  std::vector<double> begins, firsts;
  const auto note = [&](std::vector<double>& all) {
    return [&](double seconds) {
      const Lock lock(mutex);
      all.push_back(seconds);
    };
  };
  {
    Desk d({.sessions = 1, .on_begin = note(begins), .on_first_token = note(firsts)});
    const Ticket one = d.ask("one"), two = d.ask("two");
    d.client.question(0);
    EXPECT_TRUE(d.becomes(1, 1));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    d.client.question(0).say("a");
    d.client.question(0).say("b");
    d.client.question(0).end();
    d.client.question(1).say("c");
    d.client.question(1).end();
    done(one);
    done(two);
  }
  ASSERT_EQ(begins.size(), 2u);
  ASSERT_EQ(firsts.size(), 2u);
  EXPECT_LT(begins[0], firsts[0]);
  EXPECT_GE(firsts[0], 0.05);
  EXPECT_GE(begins[1], 0.05);
  EXPECT_GE(firsts[1], begins[1]);
}

TEST(AnswerDesk, the_one_that_is_furthest_is_told_of) {
  Desk d;
  const Ticket one = d.ask("one"), two = d.ask("two");
  for (const std::size_t i : {0, 1}) {
    StandIn::Question& question = d.client.question(i);
    question.progress({.stage = question.text == "one" ? Stage::answer : Stage::prompt});
  }
  EXPECT_TRUE(d.becomes(2, 0));
  EXPECT_TRUE(eventually([&] { return d.desk.now().foremost.tokens == 1; }));
  for (const std::size_t i : {0, 1}) d.client.question(i).end();
}

// The dialogue that an answer belongs to is free when its reader hears of the end.
TEST(AnswerDesk, the_next_question_goes_on_with_its_dialogue) {
  Desk d;
  for (std::string dialogue = "Is it so?"; dialogue.size() < 60; dialogue += " And?") {
    const std::size_t number = d.client.questions();
    const Ticket ticket = d.ask(dialogue);
    StandIn::Question& question = d.client.question(number);
    EXPECT_EQ(question.dialogue, 0u);
    for (const char c : std::string(" Yes.")) question.say({c});
    question.end();
    dialogue += text(ticket);
  }
}

TEST(AnswerDesk, a_key_finds_the_answer_of_the_same_owner_to_the_same_request) {
  Desk d;
  const Ticket first = d.ask("q", "key", 1, "digest"), again = d.ask("q", "key", 1, "digest"),
               others = d.ask("q", "key", 2, "digest"), unkeyed = d.ask("q", "", 1, "digest");
  EXPECT_EQ(&**again, &**first);
  EXPECT_NE(&**others, &**first);
  EXPECT_NE(&**unkeyed, &**first);
  const auto error = test::caught([&] { d.ask("q", "key", 1, "another"); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->field(), "Idempotency-Key");
  EXPECT_EQ(error->code(), Code::usage);
  for (const std::size_t i : {0, 1, 2}) {
    d.client.question(i).say("a");
    d.client.question(i).end();
  }
  EXPECT_EQ(text(again), "a");
  done(others);
  done(unkeyed);
  EXPECT_EQ(text(d.ask("q", "key", 1, "digest")), "a");  // nor is an answer that is there made again
  EXPECT_EQ(d.client.questions(), 3u);
}

TEST(AnswerDesk, so_many_may_await_one_answer) {
  Desk d;
  std::vector<Ticket> tickets;
  for (int i = 0; i < 4; ++i) tickets.push_back(d.ask("q", "key"));
  EXPECT_EQ(d.reason("q", "key"), "queue_full");
  tickets.pop_back();
  tickets.push_back(d.ask("q", "key"));
  d.client.question(0).end();
  done(tickets[0]);
  EXPECT_EQ(d.reason("q", "key"), "no error");  // whoever reads what is there waits for nobody
}

TEST(AnswerDesk, an_answer_ends_when_its_listener_leaves) {
  Desk d;
  Ticket ticket = d.ask("q");
  d.client.question(0).say("a");
  EXPECT_TRUE(eventually([&] { return d.desk.now().tokens == 1; }));
  ticket.reset();
  EXPECT_TRUE(d.becomes(0, 0));
  EXPECT_EQ(d.client.done(), (Names{"begin 0", "cancel 0"}));
  d.client.question(0).end();  // or this would wait for it
}

TEST(AnswerDesk, one_that_waits_ends_unasked_when_its_listener_leaves) {
  Desk d({.sessions = 1});
  const Ticket one = d.ask("one");
  d.client.question(0);
  Ticket two = d.ask("two");
  EXPECT_TRUE(d.becomes(1, 1));
  two.reset();
  EXPECT_TRUE(d.becomes(1, 0));
  d.client.question(0).end();
  done(one);
  EXPECT_EQ(d.client.questions(), 1u);
}

// Between the lease and the answer, the conversation has nothing to cancel.
TEST(AnswerDesk, a_listener_that_leaves_before_the_answer_begins_ends_it_too) {
  Desk d;
  std::promise<void> leased, left;
  d.client.before_answer = [&] {
    leased.set_value();
    left.get_future().wait();
  };
  Ticket ticket = d.ask("q");
  leased.get_future().wait();
  ticket.reset();
  left.set_value();
  d.client.question(0);
  EXPECT_TRUE(d.becomes(0, 0));
  EXPECT_EQ(d.client.done(), (Names{"begin 0", "cancel 0"}));
  d.client.question(0).end();  // or this would wait for it
}

TEST(AnswerDesk, with_a_key_an_answer_goes_on_without_listeners) {
  Desk d;
  d.ask("q", "key");
  d.client.question(0).say("a");
  d.client.question(0).end();
  const Ticket again = d.ask("q", "key");
  EXPECT_EQ(text(again), "a");
  EXPECT_EQ(code(again), "no failure");
  EXPECT_EQ(d.client.questions(), 1u);
}

TEST(AnswerDesk, a_key_does_not_keep_a_failure) {
  Desk d;
  const Ticket failed = d.ask("q", "key");
  d.client.question(0).fail(Error(Code::malformed, "m", "is none"));
  EXPECT_EQ(code(failed), "peer_fault");
  EXPECT_NE(&**d.ask("q", "key"), &**failed);
  d.client.question(1).end();
}

TEST(AnswerDesk, what_goes_wrong_is_told_by_its_reason) {
  struct Case {
    Error error;
    int status;
    const char* code;
    Provider then;
  };
  const std::vector<Case> cases{
      {{Code::closed, "link", "gone"}, 503, "provider_unreachable", Provider::unreachable},
      {{Code::timeout, "link", "silence"}, 503, "provider_unreachable", Provider::unreachable},
      {{Code::closed, Reason::helper_unreachable, "helper", "gone"}, 503, "out_of_stock", Provider::reachable},
      {Error::of_a_peer(Code::usage, Reason::allowance_used_up, "tokens", "none are left"), 429, "allowance_used_up",
       Provider::reachable},
      {Error::of_a_peer(Code::resource, Reason::busy, "sessions", "too many"), 503, "provider_busy",
       Provider::reachable},
      {{Code::resource, "memory", "there is none"}, 503, "provider_busy", Provider::reachable},
      {{Code::malformed, "PassBegin.rows", "5, expected 4"}, 502, "peer_fault", Provider::reachable},
      {{Code::usage, "temperature", "expected 0 to 2"}, 400, "", Provider::reachable}};
  for (const Case& c : cases) {
    Desk d;
    d.client.in_stock = [](std::size_t) -> std::vector<Client::Chain> { throw Error(Code::closed, "link", "gone"); };
    const Ticket ticket = d.ask("q");
    d.client.question(0).fail(c.error);
    EXPECT_EQ(code(ticket), c.code) << c.error.what();
    EXPECT_EQ(done(ticket).failure()->status, c.status) << c.error.what();
    EXPECT_EQ(d.desk.keeper().provider(), c.then) << c.error.what();
  }
  Desk d;
  const Ticket ticket = d.ask("q");
  d.client.question(0).fail(std::runtime_error("words of anybody"));
  EXPECT_EQ(code(ticket), "");
  EXPECT_EQ(done(ticket).failure()->status, 500);
  EXPECT_EQ(done(ticket).failure()->message, "this program made a mistake");
}

TEST(AnswerDesk, an_answer_is_news_of_the_provider) {
  Desk d;
  const Ticket ticket = d.ask("q");
  d.client.question(0);
  d.desk.keeper().lost();  // nobody looks for it while an answer is under way
  d.client.question(0).say("a");
  d.client.question(0).end();
  done(ticket);
  EXPECT_EQ(d.desk.keeper().provider(), Provider::reachable);
}

TEST(AnswerDesk, an_answer_that_ended_has_used_material) {
  Desk d({.stock = 50});
  d.client.in_stock = [](std::size_t) { return std::vector<Client::Chain>{{.tokens = 50, .answer_tokens = 25}}; };
  EXPECT_TRUE(eventually([&] { return d.client.stock_calls() == 1; }));
  const Ticket ticket = d.ask("q");
  d.client.question(0).end();
  done(ticket);
  EXPECT_TRUE(eventually([&] { return d.client.stock_calls() == 2; }));
}

TEST(AnswerDesk, a_drain_lets_what_is_under_way_end_and_takes_nothing_new) {
  Desk d({.max_requests = 1});
  const Ticket ticket = d.ask("q", "key");
  d.client.question(0).say("a");
  std::jthread draining([&] { d.desk.drain(k_patience); });
  EXPECT_TRUE(eventually([&] { return d.reason("another") == "busy"; }));  // queue_full until it has begun
  const Ticket again = d.ask("q", "key");                                  // that one is under way
  d.client.question(0).end();
  draining.join();
  EXPECT_EQ(code(ticket), "no failure");
  EXPECT_EQ(text(again), "a");
  EXPECT_EQ(d.client.questions(), 1u);
}

TEST(AnswerDesk, a_drain_cancels_what_does_not_end) {
  Desk d({.sessions = 1});
  const Ticket one = d.ask("one");
  d.client.question(0);
  const Ticket two = d.ask("two");
  EXPECT_TRUE(d.becomes(1, 1));
  d.desk.drain({});
  EXPECT_EQ(code(one), "cancelled");
  EXPECT_EQ(code(two), "cancelled");
  EXPECT_EQ(d.client.questions(), 1u);
  EXPECT_EQ(d.reason("three"), "busy");
}

using Calls = std::vector<ToolCall>;
const gateway::Json k_tools = gateway::Json::parse(
    R"([{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}},
        {"type":"function","function":{"name":"now"}}])");

gateway::Request with_tools(gateway::Request::Calls calls = gateway::Request::Calls::if_it_likes,
                            const std::string& tool = "") {
  gateway::Request request = request_of("Is it warm?");
  request.tools = k_tools;
  request.calls = calls;
  request.tool = tool;
  return request;
}
Calls calls_of(const Ticket& ticket) {
  Calls calls;
  for (const gateway::Call& call : choice(ticket).calls) {
    EXPECT_EQ(call.id.size(), 9u);
    calls.push_back(call.call);
  }
  return calls;
}

TEST(AnswerDesk, a_model_is_told_of_tools_and_its_calls_are_read) {
  Desk d;
  d.client.offered.context = 4000;
  const Ticket ticket = d.ask(with_tools());
  EXPECT_NE(d.client.question(0).text.find("{\"type\":\"function\",\"function\":{\"name\":\"now\"}}"),
            std::string::npos);
  EXPECT_TRUE(d.client.question(0).text.ends_with("Is it warm?"));
  d.client.question(0).say("I look. <tool_");
  EXPECT_EQ(read(ticket, 0), "I look.");
  d.client.question(0).say("call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}</tool_call>");
  EXPECT_EQ(read(ticket, 1), "[weather]");  // a call is told before the answer ends
  d.client.question(0).say("\n<tool_call>{\"name\": \"now\"}</tool_call>");
  d.client.question(0).end();
  EXPECT_EQ(calls_of(ticket), (Calls{{"weather", R"({"city":"Rome"})"}, {"now", "{}"}}));
  EXPECT_EQ(choice(ticket).text, "I look.");
  EXPECT_EQ(choice(ticket).end, Answer::End::model);
  // None where it calls none, or may not.
  gateway::Request none = with_tools(gateway::Request::Calls::none);
  const Ticket silent = d.ask(none);
  EXPECT_EQ(d.client.question(1).text, "Is it warm?");
  d.client.question(1).say("{\"name\": \"now\"}");
  d.client.question(1).end();
  EXPECT_EQ(choice(silent).text, "{\"name\": \"now\"}");
  EXPECT_TRUE(choice(silent).calls.empty());
}

TEST(AnswerDesk, a_call_that_is_required_is_begun_for_the_model) {
  Desk d;
  d.client.offered.context = 4000;
  const Ticket one = d.ask(with_tools(gateway::Request::Calls::required, "weather"));
  EXPECT_TRUE(d.client.question(0).text.ends_with("<tool_call>\n{\"name\": \"weather\", \"arguments\": "))
      << d.client.question(0).text;
  d.client.question(0).say("{\"city\": \"Oslo\"}}");
  d.client.question(0).end();
  EXPECT_EQ(calls_of(one), (Calls{{"weather", R"({"city":"Oslo"})"}}));
  EXPECT_EQ(choice(one).text, "");
  // One that is none is tried again, then refused.
  gateway::Request any = with_tools(gateway::Request::Calls::required);
  any.tries = 2;
  const Ticket other = d.ask(any);
  for (std::size_t i = 1; i < 3; ++i) {
    EXPECT_TRUE(d.client.question(i).text.ends_with("{\"name\": \""));
    d.client.question(i).say("nobody\"}");
    d.client.question(i).end();
  }
  EXPECT_EQ(done(other).failure().value().param, "tool_choice");
  EXPECT_EQ(done(other).failure().value().status, 400);
}

// Where tokens have names, and it is known which function is called.
TEST(AnswerDesk, arguments_of_a_call_that_is_required_are_held_to_their_schema) {
  Desk d;
  d.client.offered.context = 4000;
  d.client.offered.named_logits = true;
  const Ticket ticket = d.ask(with_tools(gateway::Request::Calls::required, "weather"));
  const AnswerForm& form = *d.client.question(0).options.form;
  EXPECT_FALSE(form.may_follow("x") || form.may_follow("{\"town") || form.may_end());
  EXPECT_TRUE(form.may_follow("{\"city\": \"R"));
  d.client.question(0).say("{\"city\": \"Oslo\"}");  // the rest of the call is the gateway's
  d.client.question(0).end(Answer::End::stop);
  EXPECT_EQ(calls_of(ticket), (Calls{{"weather", R"({"city":"Oslo"})"}}));
  EXPECT_EQ(text(ticket), "");
  // Which of several is not known, and a schema beyond the grammar holds nothing.
  const Ticket any = d.ask(with_tools(gateway::Request::Calls::required));
  EXPECT_TRUE(d.client.question(1).options.form->may_follow("x"));
  gateway::Request odd = with_tools(gateway::Request::Calls::required, "weather");
  odd.tools[0]["function"]["parameters"]["properties"]["city"]["pattern"] = "^R";
  const Ticket unheld = d.ask(odd);
  EXPECT_TRUE(d.client.question(2).options.form->may_follow("x"));
}

TEST(AnswerDesk, an_answer_in_a_form_is_given_out_once_it_keeps_it) {
  Desk d;
  d.client.offered.context = 4000;
  gateway::Request request = request_of("Who?");
  request.form = std::make_shared<const JsonSchema>(
      gateway::Json::parse(R"({"type":"object","required":["a"],"properties":{"a":{"type":"integer"}}})"), "f");
  request.answer.seed = 5;
  const Ticket ticket = d.ask(request);
  EXPECT_NE(d.client.question(0).text.find("\"required\":[\"a\"]"), std::string::npos);
  EXPECT_TRUE(d.client.question(0).text.ends_with("Who?{"));  // its beginning is no matter of choice
  EXPECT_EQ(d.client.question(0).options.temperature, 0);
  d.client.question(0).say("\"a\": \"x\"}");
  d.client.question(0).end();
  EXPECT_EQ(d.client.question(1).options.temperature, 0.7);  // or the answer would be the same
  EXPECT_EQ(d.client.question(1).options.seed, 6u);
  EXPECT_EQ(read(ticket, 0, {}), "");
  d.client.question(1).say("\"a\": 1}");
  d.client.question(1).end();
  EXPECT_EQ(choice(ticket).text, "{\"a\": 1}");
  EXPECT_EQ(done(ticket).made().costs.cost.answer_tokens, 2u);  // of both
  // What is cut by a limit is told as it is: no further try would be longer.
  const Ticket cut = d.ask(request);
  d.client.question(2).say("\"a\"");
  d.client.question(2).end(Answer::End::length);
  EXPECT_EQ(choice(cut).text, "{\"a\"");
  EXPECT_EQ(choice(cut).end, Answer::End::length);
  request.tries = 1;
  const Ticket never = d.ask(request);
  d.client.question(3).say("no}");
  d.client.question(3).end();
  EXPECT_EQ(done(never).failure().value().param, "response_format");
}

// In the profile that names its tokens they are chosen by the form, and given out as they come.
TEST(AnswerDesk, an_answer_in_profile_open_is_held_to_its_form) {
  Desk d;
  d.client.offered.context = 4000;
  d.client.offered.named_logits = true;
  gateway::Request request = request_of("Who?");
  request.form = std::make_shared<const JsonSchema>(
      gateway::Json::parse(R"({"type":"object","required":["a"],"properties":{"a":{"type":"integer"}}})"), "f");
  const Ticket ticket = d.ask(request);
  AnswerForm& form = *d.client.question(0).options.form;
  EXPECT_FALSE(form.may_follow("x") || form.may_end() || form.may_follow("\"b") || form.is_over());
  EXPECT_TRUE(form.may_follow("\"a\": 12"));
  d.client.question(0).say("\"a\"");
  EXPECT_EQ(read(ticket, 1), "\"a\"");
  form.add("\"a\":1}");
  EXPECT_TRUE(form.is_over() && form.may_end());
  d.client.question(0).say(":1}");
  d.client.question(0).end(Answer::End::stop);
  EXPECT_EQ(choice(ticket).text, "{\"a\":1}");
  EXPECT_EQ(choice(ticket).end, Answer::End::stop);
}

// One behind the other in the same dialogue, so that the question is fed once.
TEST(AnswerDesk, several_answers_to_a_question_are_made_in_turn) {
  Desk d;
  gateway::Request request = request_of("q");
  request.choices = 3;
  request.answer.seed = 5;
  const Ticket ticket = d.ask(request);
  std::set<std::uint64_t> seeds;
  for (std::size_t i = 0; i < 3; ++i) {
    d.client.question(i).say(std::string(1, static_cast<char>('a' + i)));
    EXPECT_EQ(d.client.question(i).dialogue, 0u);
    seeds.insert(d.client.question(i).options.seed.value());
    d.client.question(i).end(i == 1 ? Answer::End::length : Answer::End::model);
  }
  EXPECT_EQ(text(ticket), "a");
  EXPECT_EQ(choice(ticket, 1).text, "b");
  EXPECT_EQ(choice(ticket, 1).end, Answer::End::length);
  EXPECT_EQ(choice(ticket, 2).text, "c");
  EXPECT_EQ(seeds.size(), 3u);
  EXPECT_EQ(done(ticket).made().costs.cost.answer_tokens, 3u);
  EXPECT_EQ(done(ticket).made().costs.cost.prompt_tokens, 1u);
}

TEST(AnswerDesk, what_a_profile_does_not_have_is_refused_before_anybody_is_asked) {
  Desk d;
  const auto field = [&](const auto& set) {
    gateway::Request request = request_of("q");
    set(request.answer);
    try {
      d.ask(request);
    } catch (const Error& error) {
      return error.field() + (error.code() == Code::unsupported ? " unsupported" : "");
    }
    return std::string("accepted");
  };
  const std::vector<std::pair<std::string, std::function<void(AnswerOptions&)>>> named{
      {"top_logprobs", [](AnswerOptions& o) { o.top_logprobs = 1; }},
      {"logit_bias",
       [](AnswerOptions& o) {
         o.logit_bias = {{1, 1}};
       }},
      {"presence_penalty", [](AnswerOptions& o) { o.presence_penalty = 1; }},
      {"frequency_penalty", [](AnswerOptions& o) { o.frequency_penalty = 1; }},
      {"repetition_penalty", [](AnswerOptions& o) { o.repetition_penalty = 1.1; }}};
  for (const auto& [name, set] : named) EXPECT_EQ(field(set), name + " unsupported");
  EXPECT_EQ(field([](AnswerOptions& o) { o.repetition_penalty = 0; }), "repetition_penalty");
  EXPECT_EQ(d.client.questions(), 0u);
  d.client.offered.named_logits = true;
  for (const auto& [name, set] : named) EXPECT_EQ(field(set), "accepted") << name;
}

// What a thinking model says before it answers is kept apart, also where the prompt has begun the thought.
TEST(AnswerDesk, thoughts_are_none_of_the_text) {
  for (const bool begun : {false, true}) {
    Desk d;
    d.client.own_template = "{{ messages }}<think>\n</think>";
    if (begun) d.client.prompt_ends = "<think>\n";
    const Ticket ticket = d.ask("q");
    if (!begun) d.client.question(0).say("<thi");
    if (!begun) d.client.question(0).say("nk>\n");
    d.client.question(0).say("Hm.");
    EXPECT_EQ(read(ticket, 0), "Hm.");
    d.client.question(0).say(" So\n</th");
    d.client.question(0).say("ink>\n\nYes");
    d.client.question(0).say(".");
    d.client.question(0).end();
    EXPECT_EQ(choice(ticket).thought, "Hm. So");
    EXPECT_EQ(choice(ticket).text, "Yes.");
    EXPECT_EQ((**ticket).wait(0, Clock::now()).front().kind, gateway::Piece::Kind::thought);
  }
  Desk d;  // a model that does not think may speak of the mark
  const Ticket ticket = d.ask("q");
  d.client.question(0).say("<think>");
  d.client.question(0).end();
  EXPECT_EQ(text(ticket), "<think>");
}

}  // namespace
}  // namespace permllm::gateway_test
