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

using test::error_of;

void write(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }

struct Watched {
  const TemporaryDirectory folder;
  StandIn client;
  Log log{"test", {"text", "off"}};
  AnswerDesk desk{client, {}, log};
  std::optional<Canaries> canaries;

  void start(double rate, const std::string& lines = "") {
    CanaryOptions options{rate, "", folder.path() / "canaries.json"};
    if (!lines.empty()) {
      options.file = folder.path() / "canaries.jsonl";
      write(options.file, lines);
    }
    canaries.emplace(desk, client, options, log);
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
  Canaries::Counts answer(std::size_t i, const std::vector<std::string>& tokens, double last = 1) {
    const std::uint64_t before = canaries->counts().asked;
    StandIn::Question& canary = client.question(i);
    for (std::size_t t = 0; t < tokens.size(); ++t)
      canary.say(tokens[t], t + 1 == tokens.size() ? std::log(last) : -0.01);
    canary.end();
    EXPECT_TRUE(eventually([&] { return canaries->counts().asked > before; }));
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

// Without a file: what was said first counts, in later programs too, up to the token of which the model was not sure.
TEST(Canaries, first_answers_are_kept_and_a_change_is_noticed) {
  const TemporaryDirectory folder;
  const CanaryOptions options{1, "", folder.path() / "canaries.json"};
  StandIn client;
  Log log{"test", {"text", "off"}};
  AnswerDesk desk(client, {}, log);
  struct Said {
    std::vector<std::string> tokens;
    std::uint64_t wrong, first;
  };
  for (const Said& said : {Said{{"Pa", "ris", "\n"}, 0, 8}, Said{{"Pa", "ris", " is"}, 0, 0}, Said{{"Pa", "ris"}, 0, 0},
                           Said{{"Pa"}, 0, 0}, Said{{"Pa", "rma", "\n"}, 8, 0}}) {
    Canaries canaries(desk, client, options, log);
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
  // Another model's are its own.
  client.offered.name = "Other";
  Canaries canaries(desk, client, options, log);
  const std::size_t next = client.questions();
  canaries.asked();
  client.question(next).say("Rome", -0.01);
  client.question(next).end();
  EXPECT_TRUE(eventually([&] { return canaries.counts().first == 1; }));
  write(options.kept, "{");
  EXPECT_NE(error_of([&] { Canaries(desk, client, options, log); }).find("remove it"), std::string::npos);
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
