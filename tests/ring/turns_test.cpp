#include "ring/turns.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <stdexcept>
#include <thread>

#include "ring/executor.h"

namespace permllm {
namespace {

// Requests that wait, in the order in which they came, behind a turn that the test has.
class Queue {
 public:
  Queue() { turns_.begin(first_); }
  void wait(std::uint64_t user, const void* work = nullptr, std::size_t size = 1) {
    const std::size_t number = threads_.size();
    threads_.emplace_back([this, number, user, work, size] {
      TurnRequest own{.user = user, .work = {work, 0}, .size = size};
      if (!turns_.begin(own)) return;
      order_.push_back({number, user});  // in a turn, so one at a time
      turns_.end(turns_.company(own, most_));
    });
    while (turns_.waiting() <= number) std::this_thread::yield();
  }
  // The requests that had a turn of their own, in order.
  std::vector<std::pair<std::size_t, std::uint64_t>> order() {
    turns_.end();
    threads_.clear();
    return order_;
  }
  std::size_t most_ = 4;

 private:
  Turns turns_;
  TurnRequest first_;
  std::vector<std::pair<std::size_t, std::uint64_t>> order_;
  std::list<std::jthread> threads_;
};

using Order = std::vector<std::pair<std::size_t, std::uint64_t>>;

TEST(Turns, go_round_by_user_however_many_requests_each_has) {
  Queue queue;
  for (int i = 0; i < 4; ++i) queue.wait(1);
  queue.wait(2);
  queue.wait(3);
  queue.wait(2);
  EXPECT_EQ(queue.order(), (Order{{0, 1}, {4, 2}, {5, 3}, {1, 1}, {6, 2}, {2, 1}, {3, 1}}));
}

TEST(Turns, the_same_work_is_done_in_one_turn_up_to_its_bound) {
  int a = 0, b = 0;
  Queue queue;
  queue.wait(1, &a);
  queue.wait(1, &a);
  queue.wait(2, &b);
  queue.wait(2, &a);
  queue.wait(3, &a);
  queue.wait(3, &a);  // the fifth of this work, and the bound is four
  queue.wait(4);
  queue.wait(5, &b, 4);  // too large for the company of another
  EXPECT_EQ(queue.order(), (Order{{0, 1}, {2, 2}, {5, 3}, {6, 4}, {7, 5}}));
}

TEST(Turns, company_is_one_of_each_user_before_the_next_of_any) {
  int a = 0;
  Queue queue;
  for (int i = 0; i < 5; ++i) queue.wait(1, &a);
  queue.wait(2, &a);
  queue.wait(3, &a);
  EXPECT_EQ(queue.order(),
            (Order{{0, 1}, {2, 1}}));  // with the first go {1, 1}, {5, 2}, {6, 3}; with the second the rest
}

// What together() did: the shares of each run.
struct Together {
  Executor executor{2};
  std::vector<std::size_t> runs = {};
  std::function<void(std::span<void* const>)> on_run = nullptr;
  void add(int& value, std::uint64_t user) {
    Executor own(executor, user);
    own.together({this, 0}, 1, 100, &value, [&](const Executor::Parallel& parallel, std::span<void* const> shares) {
      runs.push_back(shares.size());
      if (on_run) on_run(shares);
      parallel(shares.size(), [&](std::size_t i) { ++*static_cast<int*>(shares[i]); });
    });
  }
  // The same from many threads, while another holds the turn so that all of them wait.
  template <class Each>
  void all_at_once(std::size_t n, Each each) {
    std::atomic<bool> held = false;
    std::list<std::jthread> threads;
    threads.emplace_back([&] {
      executor.parallel(2, [&](std::size_t) {
        held = true;
        while (executor.waiting() < n) std::this_thread::yield();
      });
    });
    while (!held) std::this_thread::yield();
    for (std::size_t i = 0; i < n; ++i) threads.emplace_back([&, i] { each(i); });
  }
};

TEST(Executor, does_shares_of_the_same_work_together_and_each_once) {
  Together t;
  std::array<int, 9> values{};
  t.all_at_once(values.size(), [&](std::size_t i) { t.add(values[i], i % 3); });
  EXPECT_EQ(t.runs, std::vector<std::size_t>{9});
  for (const int value : values) EXPECT_EQ(value, 1);
  EXPECT_EQ(t.executor.sharing().shares, 9u);
  EXPECT_EQ(t.executor.sharing().runs, 1u);
}

TEST(Executor, an_error_reaches_the_caller_whose_share_made_it_and_nobody_else) {
  Together t;
  std::array<int, 5> values{};
  t.on_run = [&](std::span<void* const> shares) {
    for (void* share : shares) {
      if (share == &values[3]) throw std::runtime_error("the fourth");
    }
  };
  std::array<std::string, 5> errors;
  t.all_at_once(values.size(), [&](std::size_t i) {
    try {
      t.add(values[i], i);
    } catch (const std::runtime_error& error) {
      errors[i] = error.what();
    }
  });
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(errors[i], i == 3 ? "the fourth" : "");
    EXPECT_EQ(values[i], i == 3 ? 0 : 1);
  }
  t.on_run = nullptr;
  t.add(values[3], 3);  // the turn was given back
  EXPECT_EQ(values[3], 1);
}

TEST(Executor, a_long_loop_lets_others_in_between) {
  Executor executor(2), other(executor, 2);
  std::atomic<int> done = 0;
  int done_when_served = 0;
  std::jthread second;
  executor.parallel(200, [&](std::size_t i) {
    if (i == 0) {
      second = std::jthread([&] {
        other.parallel(2, [&](std::size_t task) {
          if (task == 0) done_when_served = done.load();
        });
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ++done;
  });
  second.join();
  EXPECT_EQ(done.load(), 200);
  EXPECT_LT(done_when_served, 150);
}

// Share of the turns that a user with one thread gets beside one with eight.
TEST(Executor, a_user_with_eight_sessions_gets_no_larger_share_than_one_with_one) {
  Executor executor(2);
  std::atomic<bool> stop = false;
  std::array<std::atomic<int>, 2> turns{};
  {
    std::list<std::jthread> threads;
    for (std::size_t i = 0; i < 9; ++i) {
      threads.emplace_back([&, user = i == 0 ? 0u : 1u] {
        Executor own(executor, user);
        int share = 0;
        while (!stop) {
          own.together({&share, 0}, 1, 1, &share, [&](const Executor::Parallel&, std::span<void* const>) {
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            ++turns[user];
          });
        }
      });
    }
    while (turns[0] + turns[1] < 400) std::this_thread::yield();
    stop = true;
  }
  EXPECT_GT(turns[0].load(), 88);  // about 200; by request it would be 44
}

}  // namespace
}  // namespace permllm
