#include "ring/executor.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace permllm {
namespace {

TEST(ExecutorTest, example) {
  Executor executor(2);
  std::vector<int> squares(100);
  executor.parallel(squares.size(), [&](std::size_t i) { squares[i] = static_cast<int>(i * i); });
  EXPECT_EQ(squares[99], 99 * 99);
}

TEST(ExecutorTest, each_task_runs_exactly_once_whatever_the_number_of_threads) {
  for (unsigned threads : {1U, 2U, 3U, 8U}) {
    Executor executor(threads);
    EXPECT_EQ(executor.threads(), threads);
    for (std::size_t tasks : {0U, 1U, 2U, 7U, 1000U}) {
      std::vector<std::atomic<int>> runs(tasks);
      executor.parallel(tasks, [&](std::size_t i) { ++runs[i]; });
      for (const auto& count : runs) ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST(ExecutorTest, zero_means_one_thread_for_each_core) {
  EXPECT_EQ(Executor(0).threads(), std::max(1U, std::thread::hardware_concurrency()));
}

TEST(ExecutorTest, no_task_outlives_its_loop_in_many_short_loops) {
  Executor executor(4);
  for (int loop = 0; loop < 20000; ++loop) {
    std::vector<int> values(5, 0);  // a late worker would write to freed memory
    executor.parallel(values.size(), [&](std::size_t i) { values[i] = loop; });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), 0L), 5L * loop);
  }
}

TEST(ExecutorTest, workers_that_fell_asleep_take_part_again) {
  Executor executor(2);
  std::atomic<int> both = 0;
  for (int loop = 0; loop < 3; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    both = 0;
    // Each of the two tasks waits for the other, so one thread alone could not finish.
    executor.parallel(2, [&](std::size_t) {
      ++both;
      while (both.load() < 2) std::this_thread::yield();
    });
  }
  EXPECT_EQ(both.load(), 2);
}

TEST(ExecutorTest, loops_of_several_callers_are_served_one_after_the_other) {
  Executor executor(3);
  std::array<std::atomic<int>, 4> inside{};  // bodies that run, by caller
  std::atomic<int> mixed = 0;
  std::atomic<int> total = 0;
  std::vector<std::thread> callers;
  for (std::size_t caller = 0; caller < inside.size(); ++caller) {
    callers.emplace_back([&, caller] {
      for (int loop = 0; loop < 300; ++loop) {
        executor.parallel(6, [&](std::size_t) {
          ++inside[caller];
          ++total;
          for (std::size_t other = 0; other < inside.size(); ++other)
            mixed += other != caller && inside[other].load() > 0 ? 1 : 0;
          --inside[caller];
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(mixed.load(), 0);
  EXPECT_EQ(total.load(), 4 * 300 * 6);
}

TEST(ExecutorTest, what_a_body_throws_reaches_the_caller_and_the_next_loop_runs) {
  for (const unsigned threads : {1u, 3u}) {
    Executor executor(threads);
    std::atomic<int> done = 0;
    const auto loop = [&](std::size_t bad) {
      executor.parallel(20, [&](std::size_t i) {
        if (i == bad) throw std::runtime_error("bad");
        ++done;
      });
    };
    EXPECT_THROW(loop(7), std::runtime_error);
    done = 0;
    EXPECT_NO_THROW(loop(99));
    EXPECT_EQ(done.load(), 20);
  }
}

}  // namespace
}  // namespace permllm
