// A user's wait for offline material ends: with the material, and with whatever makes it of no use.
#include <gtest/gtest.h>

#include <condition_variable>
#include <future>

#include "support/errors.h"
#include "support/world.h"
#include "user/measure.h"

namespace permllm::test {
namespace {

using namespace std::chrono_literals;

// From which nothing comes behind so many frames.
class Silent : public PassingLink {
 public:
  Silent(std::unique_ptr<Link> link, std::size_t frames) : PassingLink(std::move(link)), left_(frames) {}
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
    if (left_ > 0) {
      --left_;
      return PassingLink::receive(deadline, awaited, most);
    }
    std::unique_lock lock(mutex_);
    const bool closed = changed_.wait_until(lock, deadline, [&] { return closed_; });
    throw Error(closed ? Code::closed : Code::timeout, awaited, "nothing comes");
  }
  void close() override {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    PassingLink::close();
  }

 private:
  std::size_t left_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
};

constexpr std::size_t k_pairing = 2;  // frames that the helper sends a user before the first order

// Of a user whose helper falls silent, with so many orders dealt.
UserLinks silent_links(MemoryWorld& world, const std::string& user, std::size_t orders) {
  UserLinks links = world.links(user);
  links.helper = [dial = links.helper, orders] { return std::make_unique<Silent>(dial(), k_pairing + orders); };
  return links;
}

MeasuredConversation::Request request_for(std::size_t tokens, std::vector<TokenId>& ids) {
  MeasuredConversation::Request request;
  request.ids = {5, 6, 7};
  request.max_tokens = tokens;
  request.choose = greedy;
  request.on_token = [&ids](TokenId id) {
    ids.push_back(id);
    return true;
  };
  return request;
}

// An answer that is drafted takes entries for its tokens, too, more than are made ahead of slots that somebody waits for.
TEST(Waiting, an_answer_with_drafts_finds_material_of_every_kind) {
  MemoryWorld world({.model = tiny_model({.hidden_positions = HiddenPositions::by_choice, .layers = 1, .slots = 512})});
  Ledger ledger;
  MeasuredConversation conversation([&](UserTraffic&) { return world.links(); }, LinkShape{}, k_long, world.executor(),
                                    ledger, true);
  Drafts drafts = drafts_of(nullptr, 4, world.executor());
  std::vector<TokenId> ids;
  MeasuredConversation::Request request = request_for(60, ids);
  request.ahead = 64;
  request.start = 16;
  request.drafts = &drafts;
  request.cancelled = [end = Clock::now() + 3 * k_long] { return Clock::now() > end; };
  conversation.run(request);
  conversation.end();
  EXPECT_EQ(ids.size(), 60u);
}

TEST(Waiting, an_answer_is_cancelled_before_its_first_pass) {
  MemoryWorld world({.model = tiny_model()});
  Ledger ledger;
  MeasuredConversation conversation([&](UserTraffic&) { return silent_links(world, "alice", 0); }, LinkShape{}, k_long,
                                    world.executor(), ledger, false);
  std::vector<TokenId> ids;
  MeasuredConversation::Request request = request_for(6, ids);
  std::size_t asked = 0;
  request.cancelled = [&] { return ++asked == 3; };
  EXPECT_EQ(error_of([&] { conversation.run(request); }), "answer: cancelled");
  EXPECT_EQ(asked, 3u);
  EXPECT_TRUE(ids.empty());
}

// What was made serves the beginning of the answer, which ends in order, and the session goes on.
TEST(Waiting, an_answer_is_cancelled_in_its_midst) {
  MemoryWorld world({.model = tiny_model({.layers = 1, .slots = 256})});
  Ledger ledger;
  MeasuredConversation conversation([&](UserTraffic&) { return silent_links(world, "alice", 3); }, LinkShape{}, k_long,
                                    world.executor(), ledger, false);
  std::vector<TokenId> ids;
  MeasuredConversation::Request request = request_for(200, ids);
  request.ahead = request.start = 1;
  request.cancelled = [&] { return !ids.empty(); };
  conversation.run(request);
  EXPECT_FALSE(conversation.out_of_stock());
  EXPECT_GT(ids.size(), 0u);
  EXPECT_LT(ids.size(), 200u);
  ids.pop_back();
  EXPECT_EQ(ids, world.answer(ids.size()));
}

TEST(Waiting, ends_where_the_provider_ends_the_session) {
  MemoryWorld world({.model = tiny_model(), .grace = k_long, .idle = k_long});
  world.most_sessions = 1;
  Ledger one, two;
  UserClient waiting(silent_links(world, "one", 0), one, world.executor(), k_long);
  waiting.make_material(3, 4, 64);
  std::future<Reason> ended = std::async(std::launch::async, [&] {
    try {
      waiting.wait_for_material(3, 4);
    } catch (const Error& error) {
      return error.reason();
    }
    return Reason::none;
  });
  std::string error = "none yet";  // the provider may not yet wait for the first pass
  while (error != "no error") {
    error = error_of([&] { UserClient(world.links("two"), two, world.executor(), k_long); });
    ASSERT_TRUE(error == "no error" || error.find("as many conversations are open") != std::string::npos) << error;
  }
  EXPECT_EQ(ended.get(), Reason::session_ended);
}

}  // namespace
}  // namespace permllm::test
