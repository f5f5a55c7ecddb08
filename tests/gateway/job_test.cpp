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
  Job() : AnswerJob(0, {}, {true, "tiny", "fp"}, {}) {}
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

TEST(AnswerJob, its_text_is_waited_for_from_where_a_reader_is) {
  Job job;
  EXPECT_EQ(job.wait(0, Clock::now()), "");  // the deadline
  std::string first, rest, end;
  std::jthread reader([&] {
    first = job.wait(0, soon());
    rest = job.wait(2, soon());
    end = job.wait(4, soon());
  });
  job.add("ab");
  job.add("cd");
  Answer answer;
  answer.end = Answer::End::length;
  job.finish(answer, {{"total_tokens", 4}});
  reader.join();
  EXPECT_EQ(first.substr(0, 2), "ab");
  EXPECT_EQ(rest, "cd");
  EXPECT_EQ(end, "");
  EXPECT_TRUE(job.done());
  EXPECT_FALSE(job.failure());
  EXPECT_EQ(job.result().text, "abcd");
  EXPECT_STREQ(job.result().finish, "length");
  EXPECT_EQ(job.result().usage.at("total_tokens"), 4);
}

TEST(AnswerJob, a_failure_wakes_whoever_waits) {
  for (int i = 0; i < 50 && !HasFailure(); ++i) {  // in most of which the reader waits already
    Job job;
    const Clock::time_point deadline = soon();
    std::atomic<bool> reads = false;
    std::jthread reader([&] {
      reads = true;
      EXPECT_EQ(job.wait(SIZE_MAX, deadline), "");
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
  job.finish({}, {});
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
