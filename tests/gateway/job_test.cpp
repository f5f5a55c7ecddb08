// An answer under way: what those who read along see of it, and when it is given up.
#include "gateway/job.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/clock.h"

namespace permllm {
namespace {

using Stage = AnswerProgress::Stage;
using std::chrono_literals::operator""s;

struct Job : AnswerJob {
  Job() : AnswerJob(0, {}, {}, {}) {}
};
Clock::time_point soon() { return Clock::now() + 10s; }

TEST(AnswerJob, tells_its_stage_its_progress_and_its_tokens) {
  Job job;
  EXPECT_EQ(job.now().stage, AnswerJob::Stage::queued);
  job.set({.stage = Stage::connecting});
  EXPECT_EQ(job.now().stage, AnswerJob::Stage::preparing);
  EXPECT_FALSE(job.now().progress);
  job.set({.stage = Stage::material, .fraction = 0.25, .seconds_left = 3});
  EXPECT_EQ(job.now().progress->fraction, 0.25);
  EXPECT_EQ(job.now().progress->seconds_left, 3);
  job.set({.stage = Stage::prompt, .fraction = 0.5, .seconds_left = 2});
  EXPECT_EQ(job.now().stage, AnswerJob::Stage::reading);
  EXPECT_EQ(job.now().progress->fraction, 0.5);
  job.set({.stage = Stage::material, .fraction = 0.75});  // the session had to be begun again
  EXPECT_EQ(job.now().stage, AnswerJob::Stage::preparing);
  EXPECT_EQ(job.now().progress->fraction, 0.75);
  job.set({.stage = Stage::answer});
  EXPECT_EQ(job.now().stage, AnswerJob::Stage::answering);
  EXPECT_EQ(job.now().tokens, 1u);
  EXPECT_EQ(job.now().tokens_per_second, 0);  // one token has no pace
  job.set({.stage = Stage::reconnecting});
  EXPECT_EQ(job.now().stage, AnswerJob::Stage::reconnecting);
  job.set({.stage = Stage::answer});
  EXPECT_EQ(job.now().stage, AnswerJob::Stage::answering);
  EXPECT_EQ(job.now().tokens, 2u);
  EXPECT_GT(job.now().tokens_per_second, 0);
}

using Kind = gateway::Piece::Kind;
// All pieces' texts; a call is its name in brackets.
std::string told(const std::vector<gateway::Piece>& pieces) {
  std::string all;
  for (const gateway::Piece& piece : pieces)
    all += piece.kind == Kind::call ? "[" + piece.call.call.name + "]" : piece.text;
  return all;
}

TEST(AnswerJob, its_pieces_are_waited_for_from_where_a_reader_is) {
  Job job;
  EXPECT_TRUE(job.wait(0, Clock::now()).empty());  // the deadline
  std::vector<gateway::Piece> first, rest, end;
  std::jthread reader([&] {
    first = job.wait(0, soon());
    rest = job.wait(1, soon());
    end = job.wait(5, soon());
  });
  job.begin_choice();
  job.add(Kind::thought, "hm");
  job.add(Kind::text, "ab");
  job.add({"f", "{}"});
  Answer answer;
  answer.end = Answer::End::length;
  job.end_choice(answer);
  job.begin_choice();
  job.add(Kind::text, "c");
  job.add(Kind::text, "d");
  answer.end = Answer::End::stop;
  answer.stop = "x";
  job.end_choice(answer);
  gateway::Costs costs;
  costs.cost.answer_tokens = 4;
  job.finish(costs);
  reader.join();
  EXPECT_TRUE(told(first).starts_with("hm"));
  EXPECT_TRUE(std::string("ab[f]cd").starts_with(told(rest)) && !rest.empty());
  EXPECT_TRUE(end.empty());
  EXPECT_EQ(told(job.wait(0, soon())), "hmab[f]cd");
  EXPECT_TRUE(job.done());
  EXPECT_FALSE(job.failure());
  const gateway::Made made = job.made();
  ASSERT_EQ(made.choices.size(), 2u);
  EXPECT_EQ(made.choices[0].thought, "hm");
  EXPECT_EQ(made.choices[0].text, "ab");
  EXPECT_EQ(made.choices[0].calls.at(0).id.size(), 9u);
  EXPECT_EQ(made.choices[0].end, Answer::End::length);
  EXPECT_EQ(made.choices[1].text, "cd");
  EXPECT_EQ(made.choices[1].stop, "x");
  EXPECT_EQ(made.costs.cost.answer_tokens, 4u);
}

TEST(AnswerJob, texts_of_a_kind_and_a_choice_are_joined) {
  Job job;
  job.begin_choice();
  job.add(Kind::thought, "a");
  job.add(Kind::thought, "b");
  job.add(Kind::text, "c");
  job.add({"f", "{}"});
  job.add({"g", "{}"});
  job.begin_choice();
  job.add(Kind::text, "d");
  const auto joined = gateway::joined(job.wait(0, soon()));
  ASSERT_EQ(joined.size(), 5u);
  EXPECT_EQ(joined[0].text, "ab");
  EXPECT_EQ(joined[4].choice, 1u);
}

TEST(AnswerJob, a_failure_wakes_whoever_waits) {
  for (int i = 0; i < 50 && !HasFailure(); ++i) {  // in most of which the reader waits already
    Job job;
    const Clock::time_point deadline = soon();
    std::atomic<bool> reads = false;
    std::jthread reader([&] {
      reads = true;
      EXPECT_TRUE(job.wait(SIZE_MAX, deadline).empty());
    });
    while (!reads) std::this_thread::yield();
    for (int j = 0; j < i; ++j) std::this_thread::yield();
    job.fail({503, "server_error", "no"});
    reader.join();
    EXPECT_LT(Clock::now(), deadline);
    ASSERT_TRUE(job.failure());
    EXPECT_EQ(job.failure()->status, 503);
    EXPECT_TRUE(job.done());
  }
}

TEST(AnswerJob, is_cancelled_when_its_last_listener_leaves) {
  Job job;
  job.join();
  job.join();
  EXPECT_EQ(job.listeners(), 2u);
  job.leave();
  EXPECT_FALSE(job.stop_token().stop_requested());
  job.leave();
  EXPECT_TRUE(job.stop_token().stop_requested());
}

TEST(AnswerJob, one_that_is_done_is_not_cancelled) {
  Job job;
  job.join();
  job.finish({});
  job.leave();
  job.give_up_if_alone(-1s);
  EXPECT_FALSE(job.stop_token().stop_requested());
}

TEST(AnswerJob, a_keyed_one_goes_on_alone_for_its_grace) {
  Job job;
  job.keyed = true;
  job.join();
  job.give_up_if_alone(-1s);  // it is not alone
  job.leave();
  EXPECT_FALSE(job.stop_token().stop_requested());
  job.give_up_if_alone(3600s);
  EXPECT_FALSE(job.stop_token().stop_requested());
  job.join();  // somebody has come back
  job.give_up_if_alone(-1s);
  EXPECT_FALSE(job.stop_token().stop_requested());
  job.leave();
  job.give_up_if_alone(-1s);
  EXPECT_TRUE(job.stop_token().stop_requested());
}

}  // namespace
}  // namespace permllm
