// Canaries at the desk: when they are asked, what of their answers counts, and what is kept.
#include "gateway/canaries.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/temporary_directory.h"
#include "gateway/stand_in.h"
#include "support/errors.h"

namespace permllm::gateway_test {
namespace {

using std::chrono_literals::operator""h;
using std::chrono_literals::operator""ms;
using test::error_of;

void write(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }

const std::string k_provider(64, 'a');  // its key

struct Watched {
  explicit Watched(const DeskOptions& how = {}) : desk(client, how, log) {}

  const TemporaryDirectory folder;
  StandIn client;
  Log log{"test", {"text", "info"}};
  AnswerDesk desk;
  std::optional<Canaries> canaries;

  void start(double rate, const std::string& lines = "", std::chrono::milliseconds patience = 1h) {
    CanaryOptions options{rate, "", folder.path() / "canaries", patience};
    if (!lines.empty()) {
      options.file = folder.path() / "canaries.jsonl";
      write(options.file, lines);
    }
    canaries.emplace(desk, client, k_provider, options, log);
  }
  std::shared_ptr<AnswerDesk::Ticket> request() {
    gateway::Request request;
    request.messages = asked("Is it so?");
    auto ticket = desk.ask(0, request, gateway::Head::of("tiny", "fp"), "", "");
    canaries->asked();
    return ticket;
  }
  // A request that is answered at once; the number of the next question.
  std::size_t answered_request() {
    const std::size_t i = client.questions();
    const auto ticket = request();
    client.question(i).say("Yes");
    client.question(i).end();
    return i + 1;
  }
  // The canary that follows is answered with these tokens, the last of which has this likelihood.
  Canaries::Counts answer(std::size_t i, const std::vector<std::string>& tokens, double last = 1,
                          Answer::End end = Answer::End::model) {
    StandIn::Question& canary = client.question(i);
    const std::uint64_t due = canaries->counts().due;
    for (std::size_t t = 0; t < tokens.size(); ++t)
      canary.say(tokens[t], t + 1 == tokens.size() ? std::log(last) : -0.01);
    canary.end(end);
    EXPECT_TRUE(eventually([&] { return canaries->counts().due < due; }));
    return canaries->counts();
  }
  // One after another, without requests: all are answered so.
  Canaries::Counts answer_all(const std::vector<std::string>& tokens, double last = 1) {
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t next = client.questions();
      canaries->asked();
      answer(next, tokens, last);
    }
    return canaries->counts();
  }
};

TEST(Canaries, one_is_asked_behind_a_request_and_its_answer_compared) {
  Watched w;
  w.start(1, "{\"prompt\": \"Capital?\", \"answer\": \"Paris\"}\n");
  std::size_t next = w.answered_request();
  StandIn::Question& canary = w.client.question(next);
  EXPECT_EQ(canary.text, "Capital?");
  EXPECT_EQ(canary.options.temperature, 0);
  EXPECT_EQ(canary.options.max_tokens, 5u + 4u);
  Canaries::Counts counts = w.answer(next, {" Par", "is", " it is"});
  EXPECT_EQ(counts.asked, 1u);
  EXPECT_EQ(counts.wrong, 0u);
  EXPECT_EQ(counts.first, 0u);
  EXPECT_EQ(counts.tokens, std::string("Capital?").size() + 3);
  counts = w.answer(w.answered_request(), {"Rome"});
  EXPECT_EQ(counts.asked, 2u);
  EXPECT_EQ(counts.wrong, 1u);
}

TEST(Canaries, wait_until_nobody_asks) {
  Watched w;
  w.start(1);
  const auto first = w.request(), second = w.request();
  w.client.question(1);  // both are under way
  w.client.question(0).end();
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(w.client.questions(), 2u);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  w.client.question(1).end();
  EXPECT_NE(w.client.question(2).text, "Is it so?");
}

TEST(Canaries, as_many_are_asked_as_the_rate_says) {
  Watched w;
  w.start(0);
  w.answered_request();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(w.client.questions(), 1u);
  EXPECT_EQ(w.canaries->counts().asked, 0u);
  for (const auto& [text, rate] : {std::pair{"0%", 0.}, {"1%", 0.01}, {"2.5%", 0.025}, {"100%", 1.}})
    EXPECT_DOUBLE_EQ(canary_rate(text), rate);
  for (const char* text : {"", "1", "%", "-1%", "101%", "1%%", "x%", "nan%", "1 %"})
    EXPECT_EQ(test::caught([&] { canary_rate(text); })->code(), Code::usage) << text;
}

TEST(Canaries, are_asked_among_others_where_somebody_always_asks) {
  Watched w;
  w.start(1, "", 10ms);
  const auto busy = w.request();  // which is never answered
  w.client.question(0);
  EXPECT_NE(w.client.question(1).text, "Is it so?");
  EXPECT_EQ(w.answer(1, {"Yes"}).asked, 1u);
  EXPECT_EQ(w.desk.now().active, 1u);
}

// One that finds no room in the queue waits; those that are drawn while four wait are counted.
TEST(Canaries, that_find_the_queue_full_stay_due) {
  Watched w({.max_requests = 1});
  w.start(1, "", 0ms);
  const auto busy = w.request();
  w.client.question(0);
  for (int i = 0; i < 5; ++i) w.canaries->asked();
  EXPECT_EQ(w.canaries->counts().due, 4u);
  EXPECT_EQ(w.canaries->counts().dropped, 2u);
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(w.canaries->counts().due, 4u);
  EXPECT_EQ(w.client.questions(), 1u);
  w.client.question(0).end();
  for (std::size_t i = 1; i <= 4; ++i) w.answer(i, {"Yes"});
  const Canaries::Counts counts = w.canaries->counts();
  EXPECT_EQ(counts.asked, 4u);
  EXPECT_EQ(counts.due, 0u);
  EXPECT_EQ(counts.dropped, 2u);
}

TEST(Canaries, an_answer_that_was_cut_is_wrong_only_where_it_says_something_else) {
  Watched w;
  w.start(1, "{\"prompt\": \"Capital?\", \"answer\": \"Paris it is\"}\n");
  struct Case {
    std::vector<std::string> tokens;
    Answer::End end;
    std::uint64_t wrong, dropped;
  };
  using End = Answer::End;
  for (const Case& c : {Case{{}, End::stock, 0, 1}, Case{{" Par"}, End::stock, 0, 1},
                        Case{{" Par", "\xef\xbf\xbd"}, End::stock, 0, 1}, Case{{"Paris "}, End::length, 0, 1},
                        Case{{"Paris it is", ", no"}, End::stock, 0, 0}, Case{{"Rome"}, End::stock, 1, 0},
                        Case{{"Par"}, End::model, 1, 0}, Case{std::vector<std::string>(15, " "), End::length, 1, 0}}) {
    const Canaries::Counts before = w.canaries->counts();
    const Canaries::Counts counts = w.answer(w.answered_request(), c.tokens, 1, c.end);
    const std::string what = testing::PrintToString(c.tokens);
    EXPECT_EQ(counts.wrong - before.wrong, c.wrong) << what;
    EXPECT_EQ(counts.dropped - before.dropped, c.dropped) << what;
    EXPECT_EQ(counts.asked - before.asked, 1 - c.dropped) << what;
    EXPECT_GT(counts.tokens, before.tokens);
  }
}

// Nor is a part of an answer what later ones are compared with.
TEST(Canaries, a_first_answer_that_was_cut_is_not_kept) {
  Watched w;
  w.start(1);
  for (int i = 0; i < 8; ++i) {
    const std::size_t next = w.client.questions();
    w.canaries->asked();
    w.answer(next, i % 2 == 0 ? std::vector<std::string>{} : std::vector<std::string>{"Pa"}, 1, Answer::End::stock);
  }
  EXPECT_EQ(w.canaries->counts().dropped, 8u);
  EXPECT_EQ(w.answer_all({"Paris"}).first, 8u);
  const std::size_t next = w.client.questions();
  w.canaries->asked();
  const Canaries::Counts counts = w.answer(next, {}, 1, Answer::End::stock);
  EXPECT_EQ(counts.dropped, 9u);
  EXPECT_EQ(counts.wrong, 0u);
}

std::size_t count_of(const std::string& what, const std::string& text) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST(Canaries, where_the_model_is_not_sure_that_nothing_is_checked_is_said) {
  testing::internal::CaptureStderr();
  Watched w;
  w.start(1);
  const std::size_t next = w.client.questions();
  w.canaries->asked();
  Canaries::Counts counts = w.answer(next, {"Pa", "ris"});
  EXPECT_EQ(counts.first, 1u);
  counts = w.answer_all({"Ro"}, 0.5);  // the last of which is the first one's turn again
  EXPECT_EQ(counts.unsure, 7u);
  EXPECT_EQ(counts.wrong, 1u);
  counts = w.answer_all({"Ro"});  // the seven stay as they were kept, in turn with the first one's
  EXPECT_EQ(counts.unsure, 14u);
  EXPECT_EQ(counts.first, 1u);
  EXPECT_EQ(counts.wrong, 2u);
  EXPECT_EQ(counts.asked, 17u);
  std::string logged = testing::internal::GetCapturedStderr();
  EXPECT_EQ(count_of("is not compared", logged), 7u) << logged;
  EXPECT_EQ(count_of("as before", logged), 0u) << logged;
  EXPECT_EQ(count_of("no canary checks anything", logged), 0u) << logged;

  testing::internal::CaptureStderr();
  w.client.offered.name = "Other";
  w.start(1);
  EXPECT_EQ(w.answer_all({"Ro"}, 0.5).unsure, 8u);
  w.answer_all({"Ro"}, 0.5);
  logged = testing::internal::GetCapturedStderr();
  EXPECT_EQ(count_of("no canary checks anything", logged), 1u) << logged;
  testing::internal::CaptureStderr();
  w.start(1);  // a later program says it again
  logged = testing::internal::GetCapturedStderr();
  EXPECT_EQ(count_of("no canary checks anything", logged), 1u) << logged;
}

// By the provider's key, which the user trusts; a name is the provider's own, and a new one is told.
TEST(Canaries, a_model_under_a_new_name_is_told) {
  Watched w;
  const auto start = [&](const std::string& name) {
    w.client.offered.name = name;
    testing::internal::CaptureStderr();
    w.start(1);
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(start("Tiny"), "");
  EXPECT_EQ(w.answer_all({"Paris"}).first, 8u);
  EXPECT_TRUE(std::filesystem::exists(w.folder.path() / "canaries" / (k_provider + ".json")));
  EXPECT_EQ(start("Tiny"), "");
  const std::string told = start("Tiny 2");
  EXPECT_NE(told.find("no answer by \"Tiny 2\" is kept, but those of \"Tiny\" are"), std::string::npos) << told;
  EXPECT_EQ(w.answer_all({"Rome"}).first, 8u);
  EXPECT_EQ(start("Tiny"), "");
  EXPECT_EQ(w.answer_all({"Rome"}).wrong, 8u);
  // Another provider's are its own, whatever it calls its model.
  testing::internal::CaptureStderr();
  Canaries other(w.desk, w.client, std::string(64, 'b'), {1, "", w.folder.path() / "canaries"}, w.log);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  const std::size_t next = w.client.questions();
  other.asked();
  w.client.question(next).say("Rome", -0.01);
  w.client.question(next).end();
  EXPECT_TRUE(eventually([&] { return other.counts().first == 1; }));
}

// Two invites of one provider's key, or two programs on one folder.
TEST(FirstAnswers, of_several_at_once_all_are_kept) {
  const TemporaryDirectory folder;
  FirstAnswers one(folder.path(), k_provider, "A"), same(folder.path(), k_provider, "A"),
      other(folder.path(), k_provider, "B");
  one.keep("p", {"01"});
  other.keep("p", {"02"});
  same.keep("p", {"03"});
  same.keep("q", {});
  EXPECT_EQ(one.find("p"), FirstAnswers::Tokens{"01"});
  EXPECT_EQ(one.find("q"), FirstAnswers::Tokens{});
  EXPECT_EQ(other.find("p"), FirstAnswers::Tokens{"02"});
  EXPECT_EQ(other.find("q"), std::nullopt);
  EXPECT_EQ(one.models(), (std::vector<std::string>{"A", "B"}));
}

// Without a file: what was said first counts, in later programs too, up to the token of which the model was not sure.
TEST(Canaries, first_answers_are_kept_and_a_change_is_noticed) {
  const TemporaryDirectory folder;
  const CanaryOptions options{1, "", folder.path()};
  StandIn client;
  Log log{"test", {"text", "off"}};
  AnswerDesk desk(client, {}, log);
  struct Said {
    std::vector<std::string> tokens;
    std::uint64_t wrong, first;
  };
  for (const Said& said : {Said{{"Pa", "ris", "\n"}, 0, 8}, Said{{"Pa", "ris", " is"}, 0, 0}, Said{{"Pa", "ris"}, 0, 0},
                           Said{{"Pa"}, 0, 0}, Said{{"Pa", "rma", "\n"}, 8, 0}}) {
    Canaries canaries(desk, client, k_provider, options, log);
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t next = client.questions();
      canaries.asked();
      for (std::size_t t = 0; t < said.tokens.size(); ++t)
        client.question(next).say(said.tokens[t], t == 2 ? std::log(0.5) : -0.01);
      client.question(next).end();
      ASSERT_TRUE(eventually([&] { return canaries.counts().asked > i; }));
    }
    EXPECT_EQ(canaries.counts().wrong, said.wrong) << said.tokens.back();
    EXPECT_EQ(canaries.counts().first, said.first) << said.tokens.back();
  }
  write(options.kept / (k_provider + ".json"), "{");
  EXPECT_NE(error_of([&] { Canaries(desk, client, k_provider, options, log); }).find("remove it"), std::string::npos);
}

TEST(Canaries, one_that_is_not_answered_counts_for_nothing) {
  Watched w;
  w.start(1);
  const std::size_t next = w.answered_request();
  w.client.question(next).fail(Error(Code::resource, Reason::busy, "session", "too many"));
  EXPECT_TRUE(eventually([&] { return w.desk.now().active == 0; }));
  const Canaries::Counts counts = w.answer(w.answered_request(), {"Yes"});
  EXPECT_EQ(counts.asked, 1u);
  EXPECT_EQ(counts.first, 1u);
}

TEST(Canaries, one_that_does_not_fit_the_context_is_dropped) {
  Watched w;
  w.start(1, "{\"prompt\": \"" + std::string(100, 'x') + "\", \"answer\": \"Yes\"}\n");
  w.canaries->asked();
  EXPECT_TRUE(eventually([&] { return w.canaries->counts().dropped > 0; }));
  const Canaries::Counts counts = w.canaries->counts();
  EXPECT_EQ(counts.dropped, 1u);
  EXPECT_EQ(counts.asked + counts.wrong + counts.first + counts.unsure + counts.due, 0u);
  EXPECT_EQ(counts.tokens + counts.online_bytes + counts.offline_bytes, 0u);
}

TEST(Canaries, a_file_that_is_none_is_refused_with_its_line) {
  const TemporaryDirectory folder;
  const auto path = folder.path() / "canaries.jsonl";
  struct Case {
    const char *text, *says;
  };
  for (const Case& c :
       {Case{"", "has no canary"}, Case{"\n\n", "has no canary"}, Case{"\nx\n", "line 2: expected an object"},
        Case{"{\"prompt\": \"a\"}", "line 1: answer: expected a text"},
        Case{"{\"prompt\": 1, \"answer\": \"b\"}", "line 1: prompt: expected a text"},
        Case{"{\"prompt\": \" \", \"answer\": \"b\"}", "line 1: prompt: expected a text"}}) {
    write(path, c.text);
    EXPECT_NE(error_of([&] { read_canaries(path.string()); }).find(c.says), std::string::npos)
        << error_of([&] { read_canaries(path.string()); });
  }
  write(path, "{\"prompt\": \"a\", \"answer\": \"b\"}\n\n{\"prompt\": \"c\", \"answer\": \"d\"}");
  EXPECT_EQ(read_canaries(path.string()).size(), 2u);
}

}  // namespace
}  // namespace permllm::gateway_test
