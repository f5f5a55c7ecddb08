// Room that the connections of one peer share: it is given back, and whoever waits for it comes in turn, or ends at a deadline.
#include "net/room.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "support/errors.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

TEST(Room, is_taken_and_given_back) {
  const auto room = std::make_shared<Room>(100);
  {
    const Room::Held some = room->take(60, Clock::now() + 5s, "x"), rest = room->take(40, Clock::now() + 5s, "x");
    EXPECT_EQ(room->used(), 100u);
    const Room::Held copy = some;
  }
  EXPECT_EQ(room->used(), 0u);
}

TEST(Room, who_finds_none_waits_until_it_is_given_back_or_for_the_deadline) {
  const auto room = std::make_shared<Room>(100);
  Room::Held held = room->take(80, Clock::now() + 5s, "x");
  EXPECT_EQ(
      error_of([&] { (void)room->take(40, Clock::now() + 20ms, "a frame"); }),
      "a frame: did not arrive before the deadline: other connections of this peer hold all the room that it has");
  EXPECT_EQ(error_of([&] { (void)room->take(40, Clock::now() + 60s, "a frame", [] { return true; }); }),
            "a frame: this side closed the connection");
  std::atomic<bool> taken = false;
  std::jthread waiter([&] {
    const Room::Held mine = room->take(40, Clock::now() + 60s, "x");
    taken = true;
  });
  EXPECT_FALSE(taken);
  held = nullptr;
  waiter.join();
  EXPECT_TRUE(taken);
  EXPECT_EQ(room->used(), 0u);
}

// Else small frames in a row would keep a large one out.
TEST(Room, who_came_first_goes_first) {
  const auto room = std::make_shared<Room>(100);
  Room::Held held = room->take(50, Clock::now() + 5s, "x");
  std::atomic<bool> waits = false;
  std::jthread large([&] { (void)room->take(80, Clock::now() + 60s, "x", [&] { return waits = true, false; }); });
  while (!waits) std::this_thread::yield();
  EXPECT_NE(error_of([&] { (void)room->take(10, Clock::now() + 20ms, "x"); }), "no error");
  held = nullptr;
  large.join();
  EXPECT_EQ(room->used(), 0u);
}

TEST(Room, can_be_tried_for) {
  const auto room = std::make_shared<Room>(100);
  const Room::Held some = room->try_take(60);
  EXPECT_TRUE(some);
  EXPECT_FALSE(room->try_take(60));
  EXPECT_EQ(room->used(), 60u);
}

TEST(Room, what_is_larger_than_all_of_it_has_it_alone) {
  const auto room = std::make_shared<Room>(100);
  const Room::Held all = room->take(1000, Clock::now() + 5s, "x");
  EXPECT_NE(error_of([&] { (void)room->take(1, Clock::now() + 20ms, "x"); }), "no error");
}

TEST(Room, never_has_more_than_it_is) {
  const auto room = std::make_shared<Room>(100);
  std::atomic<std::size_t> most = 0;
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        for (int times = 0; times < 200; ++times) {
          const Room::Held some = room->take(20 + 10 * i, Clock::now() + 60s, "x");
          most = std::max(most.load(), room->used());
        }
      });
    }
  }
  EXPECT_LE(most, 100u);
  EXPECT_EQ(room->used(), 0u);
}

TEST(RoomByPeer, is_one_for_all_links_of_a_peer_and_forgotten_with_them) {
  RoomByPeer rooms(100);
  auto a = rooms.of("a");
  EXPECT_EQ(rooms.of("a"), a);
  EXPECT_NE(rooms.of("b"), a);
  const Room::Held held = a->take(70, Clock::now() + 5s, "x");
  a = nullptr;
  EXPECT_EQ(rooms.of("a")->used(), 70u) << "what is held keeps it";
}

}  // namespace
}  // namespace permllm::test
