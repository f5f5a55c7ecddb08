// Conversations of a real session whose connection to the provider is cut at every frame: the same answer, the same frames.
#include <gtest/gtest.h>

#include "support/cuts.h"
#include "support/world.h"

namespace permllm::test {
namespace {

struct Answer {
  std::vector<TokenId> ids;
  std::uint64_t passes;
  bool operator==(const Answer&) const = default;
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
  MemoryWorld world({.model = tiny_model({GetParam().profile, GetParam().retrieval}), .grace = k_long});
  // The user's online connections are cut. A coin that is spent twice aborts.
  const auto answer = [&](Cuts& cuts) -> Answer {
    UserLinks links = world.links();
    links.online = [&] { return world.to_provider("alice", {}, cuts.connect()); };
    Ledger ledger;
    UserClient client(links, ledger, world.executor(), k_long);
    make(client, 3, 3);
    client.session().prompt(std::vector<TokenId>{5, 6, 7}, greedy);
    std::vector<TokenId> ids{client.session().advance([](TokenId) { return true; }, greedy)};
    if (GetParam().give_up) {
      ids.push_back(client.session().advance([](TokenId) { return false; }, greedy));  // the last pass is given up
    } else {
      ids.push_back(client.session().retrieve_last());
    }
    return {ids, client.end().provider.passes};
  };
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
