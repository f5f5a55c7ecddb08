// What the choice of the drafts' length, which the provider sees, goes by.
#include <gtest/gtest.h>

#include <thread>

#include "support/world.h"
#include "user/measure.h"

namespace permllm::test {
namespace {

using namespace std::chrono_literals;

// Over which each message takes a while, so that passes take about as long with drafts as without.
class Slow : public PassingLink {
 public:
  using PassingLink::PassingLink;
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
    Frame frame = PassingLink::receive(deadline, awaited, most);
    std::this_thread::sleep_for(10ms);
    return frame;
  }
};

// Guesses of what was said before, all of which hold, or none.
class Informed : public Drafter {
 public:
  Informed(std::vector<TokenId> said, std::size_t prompt, bool right)
      : said_(std::move(said)), prompt_(prompt), right_(right) {}
  std::vector<TokenId> draft(std::span<const TokenId> history, std::size_t n) override {
    std::vector<TokenId> draft;
    for (std::size_t at = history.size() - prompt_; draft.size() < n; ++at) {
      const TokenId truth = at < said_.size() ? said_[at] : 0;
      draft.push_back(right_ ? truth : truth + 1);
    }
    return draft;
  }
  double acceptance() const override { return 0.7; }

 private:
  std::vector<TokenId> said_;
  std::size_t prompt_;
  bool right_;
};

struct ChosenLength : testing::TestWithParam<Profile> {};
INSTANTIATE_TEST_SUITE_P(Profiles, ChosenLength, testing::Values(Profile::paper, Profile::open),
                         [](const auto& profile) { return std::string(name_of(profile.param)); });

// Whoever is told of tokens may take long over each.
TEST_P(ChosenLength, is_one_whether_drafts_hold_or_not) {
  const HiddenPositions hidden = GetParam() == Profile::open ? HiddenPositions::off : HiddenPositions::by_choice;
  MemoryWorld world(
      {.model = tiny_model({.profile = GetParam(), .hidden_positions = hidden, .layers = 1, .slots = 256})});
  const std::vector<TokenId> prompt{5, 6, 7};
  const auto answered = [&](Drafts* drafts) {
    const auto links = [&](UserTraffic&) {
      UserLinks all = world.links();
      all.online = [dial = all.online] { return std::make_unique<Slow>(dial()); };
      return all;
    };
    Ledger ledger;
    MeasuredConversation conversation(links, LinkShape{}, k_long, world.executor(), ledger, true);
    std::vector<TokenId> ids;
    MeasuredConversation::Request request;
    request.ids = prompt;
    request.max_tokens = 20;
    request.drafts = drafts;
    request.choose = greedy;
    request.on_token = [&](TokenId id) {
      ids.push_back(id);
      if (drafts != nullptr) std::this_thread::sleep_for(60ms);
      return true;
    };
    conversation.run(request);
    conversation.end();
    return ids;
  };
  const std::vector<TokenId> said = answered(nullptr);
  for (const bool right : {true, false}) {
    Drafts drafts{std::make_unique<Informed>(said, prompt.size(), right), DraftLength::chosen(0.7)};
    EXPECT_EQ(answered(&drafts), said);
    EXPECT_EQ(drafts.length.next(), 4u) << (right ? "all hold" : "none holds");
  }
}

// Guesses of which none holds, nor is thought to.
class Useless : public Drafter {
 public:
  std::vector<TokenId> draft(std::span<const TokenId>, std::size_t n) override { return std::vector<TokenId>(n, 17); }
  double acceptance() const override { return 0; }
};

// Where no drafts are made from some pass on, an answer that began in blocks goes on in blocks, of one row.
TEST(ChosenLength, of_none_leaves_the_kind_of_the_passes) {
  MemoryWorld world({.model = tiny_model({.hidden_positions = HiddenPositions::by_choice, .layers = 1, .slots = 256})});
  Ledger ledger;
  MeasuredConversation conversation([&](UserTraffic&) { return world.links(); }, LinkShape{}, k_long, world.executor(),
                                    ledger, true);
  Drafts drafts{std::make_unique<Useless>(), DraftLength::chosen(0)};
  MeasuredConversation::Request request;
  request.ids = {5, 6, 7};
  request.max_tokens = 40;
  request.drafts = &drafts;
  request.choose = greedy;
  request.on_token = [](TokenId) { return true; };
  conversation.run(request);
  EXPECT_EQ(drafts.length.next(), 0u);
  const nlohmann::json report = conversation.end();
  for (const char* what : {"helper_to_provider_bytes", "user_to_provider_bytes"})
    EXPECT_DOUBLE_EQ(report.at("offline_per_token").at(what),
                     report.at("declared_per_pass").at(std::string("offline_") + what).get<double>())
        << what;
}

// The provider sees by the clock when a model is not asked any more. It is by the slots that are used, not by the length of the text.
TEST(DraftModels, are_given_up_at_a_pass_that_does_not_depend_on_what_was_kept) {
  MemoryWorld world({.model = tiny_model({.profile = Profile::open, .layers = 1, .slots = 256})});
  const std::vector<TokenId> prompt{5, 6, 7};
  std::vector<TokenId> said;
  class Bounded : public Informed {
   public:
    using Informed::Informed;
    std::size_t context() const override { return 23; }
    std::vector<TokenId> draft(std::span<const TokenId> history, std::size_t n) override {
      ++asked;
      return Informed::draft(history, n);
    }
    std::size_t asked = 0;
  };
  const auto answered = [&](Drafts* drafts) {
    Ledger ledger;
    MeasuredConversation conversation([&](UserTraffic&) { return world.links(); }, LinkShape{}, k_long,
                                      world.executor(), ledger, true);
    std::vector<TokenId> ids;
    MeasuredConversation::Request request;
    request.ids = prompt;
    request.max_tokens = 30;
    request.drafts = drafts;
    request.choose = greedy;
    request.on_token = [&](TokenId id) {
      ids.push_back(id);
      return true;
    };
    conversation.run(request);
    conversation.end();
    return ids;
  };
  said = answered(nullptr);
  for (const bool right : {true, false}) {
    auto by = std::make_unique<Bounded>(said, prompt.size(), right);
    const Bounded& drafter = *by;
    Drafts drafts{std::move(by), DraftLength::fixed(4)};
    EXPECT_EQ(answered(&drafts), said);
    EXPECT_EQ(drafter.asked, 4u) << right;  // behind 3, 8, 13 and 18 slots
  }
}

}  // namespace
}  // namespace permllm::test
