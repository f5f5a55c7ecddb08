// Sessions that hide positions beside those that do not, of one provider and one model: each on material of its own kind.
#include <gtest/gtest.h>

#include "base/temporary_directory.h"
#include "net/meter.h"
#include "session/pairing.h"
#include "support/errors.h"
#include "support/world.h"
#include "user/measure.h"

namespace permllm::test {
namespace {

OfferedModel offered(HiddenPositions hidden, Profile profile = Profile::paper) {
  return tiny_model({.profile = profile, .fused = profile != Profile::open, .hidden_positions = hidden});
}

// Guesses of which none holds.
class Useless : public Drafter {
 public:
  std::vector<TokenId> draft(std::span<const TokenId>, std::size_t n) override { return std::vector<TokenId>(n, 17); }
  double acceptance() const override { return 0; }
};

// An answer of six tokens by a user's next session.
nlohmann::json answered(MemoryWorld& world, const std::string& user, bool drafts, std::size_t length) {
  const auto links = [&](UserTraffic& traffic) {
    UserLinks all = world.links(user);
    all.online = [&traffic, dial = all.online] { return std::make_unique<Meter>(dial(), traffic.online); };
    return all;
  };
  Ledger ledger;
  MeasuredConversation conversation(links, LinkShape{}, k_long, world.executor(), ledger, drafts);
  Drafts guesses{std::make_unique<Useless>(), DraftLength::fixed(length)};
  MeasuredConversation::Request request;
  request.ids = {5, 6, 7};
  request.max_tokens = 6;
  request.drafts = &guesses;
  request.choose = greedy;
  request.on_token = [](TokenId) { return true; };
  conversation.run(request);
  return conversation.end();
}

struct SessionsPositions : testing::TestWithParam<Profile> {};
INSTANTIATE_TEST_SUITE_P(Profiles, SessionsPositions, testing::Values(Profile::paper, Profile::fast),
                         [](const auto& profile) { return std::string(name_of(profile.param)); });

// Both at once say the same, and each costs what is declared of it: who does not draft has no round trip more.
TEST_P(SessionsPositions, are_a_sessions_own) {
  MemoryWorld world({.model = offered(HiddenPositions::by_choice, GetParam()), .threads = 2});
  std::vector<nlohmann::json> reports(3);
  {
    std::jthread plain([&] { reports[0] = answered(world, "alice", false, 0); });
    std::jthread without([&] { reports[1] = answered(world, "bob", true, 0); });
    reports[2] = answered(world, "carol", true, 2);
  }
  constexpr double k_passes = 5;
  for (const nlohmann::json& report : reports) {
    EXPECT_EQ(report.at("output_ids"), reports[0].at("output_ids"));
    EXPECT_EQ(report.at("passes"), k_passes);
    const auto more = [&](const char* what) {
      return k_passes * (report.at("online_per_token").at(what).get<double>() -
                         report.at("declared_per_pass").at(what).get<double>());
    };
    // Ahead of the first draft the id of the token that the prompt sampled is asked for: PassBegin, and two digits of 16 bits.
    const bool asked = report.at("drafts").at("tokens") > 0;
    EXPECT_NEAR(more("round_trips"), asked ? 1 : 0, 1e-6);
    EXPECT_NEAR(more("provider_to_user_bytes"), asked ? 4 : 0, 1e-6);
    EXPECT_NEAR(more("user_to_provider_bytes"), asked ? static_cast<double>(PassBegin::k_bytes) : 0, 1e-6);
    for (const char* what : {"helper_to_provider_bytes", "user_to_provider_bytes"})
      EXPECT_DOUBLE_EQ(report.at("offline_per_token").at(what),
                       report.at("declared_per_pass").at(std::string("offline_") + what).get<double>())
          << what;
  }
  const auto rounds = [&](std::size_t i) { return reports[i].at("declared_per_pass").at("round_trips").get<double>(); };
  const double layers = reports[0].at("layers");
  EXPECT_EQ(rounds(1), rounds(0) + layers);
  EXPECT_EQ(rounds(2), rounds(1) + 1);  // and one for the ids of all rows
  EXPECT_EQ(reports[0].at("hidden_positions"), false);
  EXPECT_EQ(reports[2].at("hidden_positions"), true);
}

// What was made for one kind of session is there for the next of its kind, and not for one of the other.
TEST(HiddenPositions, have_material_of_their_own) {
  const TemporaryDirectory folder;
  MemoryWorld world({.model = offered(HiddenPositions::by_choice), .state = folder.path() / "provider"});
  Ledger ledger(folder.path() / "user.sqlite");
  const auto fill = [&](bool drafts) {
    UserClient client(world.links(), ledger, world.executor(), k_long, UserClient::any_chain, drafts);
    client.fill(Marks{{8, 8, 8, 0}}, nullptr);
    client.end();
    return client.chain();
  };
  const std::uint64_t told = fill(false), hidden = fill(true);
  EXPECT_NE(told, hidden);
  const auto taken = [&](bool drafts) {
    UserClient client(world.links(), ledger, world.executor(), k_long, UserClient::any_chain, drafts);
    EXPECT_EQ(client.filler().made()[k_slot_kind], 8u);
    client.end();
    return client.chain();
  };
  EXPECT_EQ(taken(false), told);
  EXPECT_EQ(taken(true), hidden);

  // A user who asks for a chain under the other plan.
  const auto asks_for = [&](std::uint64_t chain, bool drafts) {
    const std::unique_ptr<Link> link = world.to_provider();
    Channel provider(*link, 0, k_long);
    provider.send(Hello{});
    const auto card = provider.receive(Card{});
    EXPECT_EQ(card.chains.size(), 2u);
    EXPECT_FALSE(card.plan.hides_positions);
    provider.send(Agreement{card.plan.with_positions(drafts).hash(), chain, true, true, {}});
    return error_of([&] { provider.receive(Accepted{}); });
  };
  EXPECT_EQ(asks_for(told, false), "no error");
  EXPECT_EQ(asks_for(hidden, true), "no error");
  for (const bool drafts : {false, true}) {
    EXPECT_NE(asks_for(drafts ? told : hidden, drafts).find("Agreement.chain: it is of another plan"),
              std::string::npos);
  }
}

// Provider and user who pair for one chain under two plans.
TEST(HiddenPositions, are_refused_by_a_helper_where_the_two_sides_differ) {
  const OfferedModel model = offered(HiddenPositions::by_choice);
  const std::string told = model.plan.hash(), hidden = model.plan.with_positions(true).hash(), id = model.model_id;
  MemoryWorld world({.model = offered(HiddenPositions::by_choice)});
  const auto pairs = [&](const std::string& of_provider, const std::string& of_user) {
    const std::uint64_t session = random_number();
    const std::unique_ptr<Link> provider_link = world.to_helper(k_provider), user_link = world.to_helper();
    Channel provider(*provider_link, 0, k_long), user(*user_link, 0, k_long);
    return error_of([&] {
      provider.send(PairHello{session, "alice", id, of_provider, 3, false, Seed{}});
      provider.receive(PairAccepted{});
      user.send(PairHello{session, "", id, of_user, 3, false, Seed{}});
      user.receive(PairAccepted{});
      user.set_session(session);
      user.receive(Paired{});
    });
  };
  EXPECT_EQ(pairs(told, told), "no error");
  EXPECT_EQ(pairs(hidden, hidden), "no error");
  EXPECT_NE(pairs(told, hidden).find("PairHello.plan_hash"), std::string::npos);
  EXPECT_NE(pairs(hidden, told).find("PairHello.plan_hash"), std::string::npos);
  EXPECT_NE(pairs(std::string(64, '0'), told).find("PairHello.plan_hash"), std::string::npos);
}

TEST(HiddenPositions, are_what_the_provider_allows) {
  const auto hides = [](HiddenPositions allowed, bool drafts) -> std::string {
    MemoryWorld world({.model = offered(allowed)});
    Ledger ledger;
    std::string is;
    const std::string error = error_of([&] {
      UserClient client(world.links(), ledger, world.executor(), k_long, UserClient::any_chain, drafts);
      is = client.card().plan.hides_positions ? "hidden" : "told";
      client.end();
    });
    return is.empty() ? error : is;
  };
  EXPECT_EQ(hides(HiddenPositions::off, false), "told");
  EXPECT_NE(hides(HiddenPositions::off, true)
                .find("draft: needs profile open, or positions that are hidden from the "
                      "provider, which this one does not do (--hidden-positions)"),
            std::string::npos);
  EXPECT_EQ(hides(HiddenPositions::by_choice, false), "told");
  EXPECT_EQ(hides(HiddenPositions::by_choice, true), "hidden");
  EXPECT_EQ(hides(HiddenPositions::always, false), "hidden");
  EXPECT_EQ(hides(HiddenPositions::always, true), "hidden");
}

// A provider that is started otherwise refuses the plan that it does not serve, and keeps no material of it.
TEST(HiddenPositions, that_are_served_no_more_leave_no_material) {
  const TemporaryDirectory folder;
  Ledger ledger(folder.path() / "user.sqlite");
  const auto world = [&](HiddenPositions allowed) {
    return std::make_unique<MemoryWorld>(Making{.model = offered(allowed), .state = folder.path() / "provider"});
  };
  std::string hash;
  {
    const auto first = world(HiddenPositions::by_choice);
    UserClient client(first->links(), ledger, first->executor(), k_long, UserClient::any_chain, true);
    client.fill(Marks{{4, 4, 4, 0}}, nullptr);
    client.end();
    hash = client.card().plan.hash();
  }
  const auto second = world(HiddenPositions::off);
  EXPECT_EQ(second->notes.count("its plan is none that is served now"), 1u) << second->notes.text();
  EXPECT_EQ(second->provider().stock_bytes(), 0u);
  const std::unique_ptr<Link> link = second->to_provider();
  Channel provider(*link, 0, k_long);
  provider.send(Hello{});
  EXPECT_TRUE(provider.receive(Card{}).chains.empty());
  provider.send(Agreement{hash, 5});
  EXPECT_NE(error_of([&] { provider.receive(Accepted{}); }).find("Agreement.plan_hash: plan "), std::string::npos);
}

// What no provider says.
TEST(HiddenPositions, that_a_model_does_not_go_with_are_a_malformed_card) {
  const OfferedModel model = offered(HiddenPositions::by_choice, Profile::open);
  EXPECT_NE(error_of([&] {
              check(Card{1, model.model_id, model.plan, {}, Seed{}, 0, {}, HiddenPositions::by_choice});
            }).find("Card.hidden_positions: auto, but profile open tells"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              check(Card{1, "a", tiny_plan().with_positions(true), {}, Seed{}});
            }).find("Card.plan.hides_positions: 1, expected 0"),
            std::string::npos);
}

}  // namespace
}  // namespace permllm::test
