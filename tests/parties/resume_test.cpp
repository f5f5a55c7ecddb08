// Conversations of a real session whose connection to the provider is cut at every frame: the same answer, the same frames.
#include <gtest/gtest.h>

#include <list>
#include <thread>

#include "helper/service.h"
#include "provider/service.h"
#include "support/cuts.h"
#include "support/rig.h"
#include "support/tiny_model.h"
#include "user/user_client.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""s;

const Peer k_user{Role::user, "alice", "a1", "p"};

// Provider and helper, and a user of whom the online connections are cut. A coin that is spent twice aborts.
class World {
 public:
  World(Profile profile, Retrieval retrieval)
      : helper_(executor_, 20s, [](const std::string&) {}),
        provider_(
            tiny_model({profile, retrieval}), executor_, 20s, [this] { return to_helper(Role::provider); },
            [](const std::string&) {}, {}, 20s) {
    provider_.register_model(nullptr);
  }
  std::unique_ptr<Link> to_helper(Role who) {
    auto [near, far] = memory_links();
    begin([this, who, link = std::move(far)]() mutable {
      helper_.serve(std::move(link), who == Role::user ? k_user : Peer{who, {}, {}, k_user.provider});
    });
    return std::move(near);
  }
  std::unique_ptr<Link> serve(std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> ends) {
    begin([this, link = std::move(ends.second)]() mutable { provider_.serve(std::move(link), k_user); });
    return std::move(ends.first);
  }
  struct Answer {
    std::vector<TokenId> ids;
    std::uint64_t passes;
    bool operator==(const Answer&) const = default;
  };
  // The last pass is given up where give_up says so.
  Answer answer(Cuts& cuts, bool give_up) {
    const UserLinks links{[&] { return serve(cuts.connect()); }, [&] { return serve(memory_links()); },
                          [this] { return to_helper(Role::user); }, 20s};
    Ledger ledger;
    UserClient client(links, ledger, executor_, 20s);
    client.make_material(3, 3, 64);
    client.wait_for_material(3, 3);
    client.session().prompt(std::vector<TokenId>{5, 6, 7}, greedy);
    std::vector<TokenId> ids{client.session().advance([](TokenId) { return true; }, greedy)};
    if (give_up) {
      ids.push_back(client.session().advance([](TokenId) { return false; }, greedy));
    } else {
      ids.push_back(client.session().retrieve_last());
    }
    return {ids, client.end().provider.passes};
  }

 private:
  // The provider begins connections, too.
  template <class F>
  void begin(F serve) {
    const std::lock_guard lock(threads_mutex_);
    threads_.emplace_back(std::move(serve));
  }
  Executor executor_{1};
  HelperService helper_;
  ProviderService provider_;
  std::mutex threads_mutex_;
  std::list<std::jthread> threads_;
};

struct Case {
  Profile profile;
  Retrieval retrieval;
  bool give_up;
};
class ResumedSessions : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, ResumedSessions,
                         testing::Values(Case{Profile::paper, Retrieval::linear, false},
                                         Case{Profile::paper, Retrieval::linear, true},
                                         Case{Profile::fast, Retrieval::bfv, false},
                                         Case{Profile::open, Retrieval::linear, false}),
                         [](const auto& c) {
                           return std::string(name_of(c.param.profile)) + "_" + name_of(c.param.retrieval) +
                                  (c.param.give_up ? "_given_up" : "");
                         });

TEST_P(ResumedSessions, answer_the_same_wherever_the_connection_is_cut) {
  World world(GetParam().profile, GetParam().retrieval);
  const auto answer = [&](Cuts& cuts) { return world.answer(cuts, GetParam().give_up); };
  const auto whole = Cuts::make();
  const auto good = answer(*whole);
  // Frames of each side before the first pass: a session that is cut there is over. Of the user's also the frame that begins it, where it is lost.
  const std::size_t handshake[] = {GetParam().retrieval == Retrieval::bfv ? 3u : 2u,
                                   GetParam().profile == Profile::open ? 4u : 2u};
  std::size_t cut = 0;
  for (const auto direction : {Cuts::up, Cuts::down}) {
    const std::size_t end = whole->frames(direction) - (direction == Cuts::up ? 1 : 0);  // Leave is the end anyway
    for (std::size_t at = handshake[direction]; at < end; ++at) {
      // Every third time also where it resumes.
      std::vector<Cuts::Cut> where{
          {direction, at, at % 2 == 0 && (direction == Cuts::down || at > handshake[direction])}};
      if (at % 3 == 0) where.push_back({direction, at + 1, true});
      const auto cuts = Cuts::make(where);
      EXPECT_EQ(answer(*cuts), good) << "direction " << direction << " frame " << at;
      EXPECT_EQ(cuts->made(), where.size());
      EXPECT_EQ(cuts->fault(), "") << "direction " << direction << " frame " << at;
      ++cut;
    }
  }
  EXPECT_GT(cut, 20u);
}

}  // namespace
}  // namespace permllm::test
