// Whose turn it is, and which dialogue a question goes on with.
#include "gateway/pool.h"

#include <gtest/gtest.h>

#include <list>

#include "gateway/stand_in.h"

namespace permllm::gateway_test {
namespace {

using Names = std::vector<std::string>;
using Lease = ConversationPool::Lease;

struct Asking {
  explicit Asking(std::size_t size) : pool(client, {.system = "Be brief."}, size) {}

  // A conversation for whoever finds one free.
  Lease take(std::size_t owner, const std::string& text, bool raw = false) {
    return *pool.take(owner, ids_of(text), raw, {});
  }
  // Asks in it, and gives it back. Returns which dialogue it is.
  std::size_t ask(Lease lease, const std::string& text, const std::string& answer) {
    const std::size_t number = client.questions();
    std::jthread asking([&] {
      const Answer made = (*lease).answer(
          ids_of(text), {}, [](std::string_view) {}, nullptr);
      lease.holds(made.cost.prompt_tokens + made.cost.answer_tokens);
    });
    StandIn::Question& question = client.question(number);
    for (const char c : answer) question.say({c});
    question.end();
    asking.join();
    return question.dialogue;
  }
  std::size_t ask(std::size_t owner, const std::string& text, const std::string& answer, bool raw = false) {
    return ask(take(owner, text, raw), text, answer);
  }
  // Somebody who waits, and gives it back at once when the turn has come.
  void queue(std::size_t owner, const std::string& name, const std::stop_token& stop = {}) {
    const std::size_t before = pool.waiting();
    waiting.emplace_back([this, owner, name, stop] {
      const auto lease = pool.take(owner, ids_of("q"), false, stop);
      const std::lock_guard lock(mutex);
      served.push_back(lease ? name : name + " gave up");
    });
    ASSERT_TRUE(eventually([&] { return pool.waiting() == before + 1; }));
  }
  bool has_served(std::size_t number) {
    const std::lock_guard lock(mutex);
    return served.size() == number;
  }
  Names all_served() {
    waiting.clear();
    return served;
  }

  StandIn client;
  ConversationPool pool;
  std::mutex mutex;
  Names served;
  std::list<std::jthread> waiting;
};

TEST(ConversationPool, who_had_a_turn_waits_for_those_who_had_none) {
  Asking of(1);
  {
    const Lease held = of.take(1, "q");
    of.queue(1, "one");
    of.queue(1, "one again");
    of.queue(2, "two");
    of.queue(3, "three");
  }
  EXPECT_EQ(of.all_served(), (Names{"two", "three", "one", "one again"}));
  EXPECT_EQ(of.pool.waiting(), 0u);
}

TEST(ConversationPool, who_has_fewer_in_use_comes_first_though_its_turn_was_later) {
  Asking of(3);
  const Lease one = of.take(1, "q"), another = of.take(1, "q");
  {
    const Lease last = of.take(2, "q");
    of.queue(1, "one");
    of.queue(2, "two");
  }
  EXPECT_EQ(of.all_served(), (Names{"two", "one"}));
}

TEST(ConversationPool, who_stops_waiting_holds_nobody_up) {
  Asking of(1);
  std::stop_source stop;
  {
    const Lease held = of.take(1, "q");
    of.queue(2, "two", stop.get_token());
    of.queue(1, "one");
    stop.request_stop();
    EXPECT_TRUE(eventually([&] { return of.has_served(1); }));
    EXPECT_EQ(of.pool.waiting(), 1u);
  }
  EXPECT_EQ(of.all_served(), (Names{"two gave up", "one"}));
  std::stop_source before;
  before.request_stop();
  EXPECT_FALSE(of.pool.take(1, ids_of("q"), false, before.get_token()));
}

TEST(ConversationPool, a_question_goes_on_with_the_dialogue_that_has_most_in_common) {
  Asking of(3);
  {
    Lease one = of.take(1, "abc"), two = of.take(1, "abcd");
    EXPECT_EQ(of.ask(std::move(one), "abc", ""), 0u);
    EXPECT_EQ(of.ask(std::move(two), "abcd", "e"), 1u);
  }
  EXPECT_EQ(of.ask(1, "abcdef", "g"), 1u);
  EXPECT_EQ(of.ask(1, "abcx", ""), 0u);
  EXPECT_EQ(of.client.done(), (Names{"begin 0", "begin 1"}));
}

TEST(ConversationPool, less_than_half_of_what_a_dialogue_holds_is_no_reason_to_give_it_up) {
  Asking of(2);
  EXPECT_EQ(of.ask(1, "abcdefgh", ""), 0u);
  EXPECT_EQ(of.ask(1, "abcdxyz", ""), 0u);  // half
  EXPECT_EQ(of.ask(1, "abcxyz", ""), 1u);   // three of seven
  EXPECT_EQ(of.ask(1, "abc", ""), 0u);      // three of seven, but all of the prompt
  EXPECT_EQ(of.client.done(), (Names{"begin 0", "begin 1"}));
}

TEST(ConversationPool, a_dialogue_is_its_owners_and_of_its_kind) {
  Asking of(4);
  EXPECT_EQ(of.ask(1, "abcd", ""), 0u);
  EXPECT_EQ(of.ask(2, "abcd", ""), 1u);
  EXPECT_EQ(of.ask(1, "abcd", "", true), 2u);
  EXPECT_EQ(of.ask(1, "abcde", ""), 0u);
  EXPECT_EQ(of.ask(2, "abcde", ""), 1u);
  EXPECT_EQ(of.ask(1, "abcde", "", true), 2u);
}

TEST(ConversationPool, without_room_the_one_unused_longest_is_emptied) {
  Asking of(2);
  EXPECT_EQ(of.ask(1, "abcd", ""), 0u);
  EXPECT_EQ(of.ask(1, "efgh", ""), 1u);
  EXPECT_EQ(of.ask(1, "abcd", ""), 0u);
  EXPECT_EQ(of.ask(2, "xyz", ""), 1u);
  EXPECT_EQ(of.client.done(), (Names{"begin 0", "begin 1", "reset 1"}));
  EXPECT_EQ(of.ask(1, "abcd", "", true), 2u);  // of another kind: the dialogue that was there is dropped
  EXPECT_EQ(of.client.done().back(), "begin 2");
}

}  // namespace
}  // namespace permllm::gateway_test
