// Provider, helper and user as services over links: handshakes, and peers that do what they should not.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <list>
#include <mutex>
#include <thread>

#include "session/public_part.h"
#include "support/errors.h"
#include "support/world.h"

namespace permllm::test {
namespace {

TEST(Services, answer_and_go_on_to_the_next_session) {
  MemoryWorld world;
  const auto first = world.answer(6);
  EXPECT_EQ(first.size(), 6u);
  // Fresh masks and orders, the same answer: the tiny model's logits are far apart.
  EXPECT_EQ(world.answer(6), first);
}

// Holds up each note of a session's end for as long as its user needs to go on without it, if it can.
class SlowToTell : public MemoryWorld {
 public:
  ~SlowToTell() override { threads_.join(); }
  // What was told when the user had its answer.
  std::size_t ends_told_by_then() {
    MemoryWorld::answer(2);
    const std::size_t ends = notes.count("session ends");
    {
      const std::lock_guard lock(mutex_);
      answered_ = true;
    }
    changed_.notify_all();
    return ends;
  }

 private:
  void note(Role role, const Event& event) override {
    if (event.kind == Event::Kind::session_ends) {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::chrono::milliseconds(300), [&] { return answered_; });
    }
    MemoryWorld::note(role, event);
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool answered_ = false;
};

// So that who looks at a service's log or counters right behind an answer finds its session ended.
TEST(Services, a_session_has_ended_for_provider_and_helper_before_its_user_hears_of_it) {
  EXPECT_EQ(SlowToTell().ends_told_by_then(), 2u);
}

TEST(Services, two_sessions_at_once_do_not_disturb_each_other) {
  MemoryWorld world;
  const auto alone = world.answer(5);
  std::vector<TokenId> one, two;
  {
    std::jthread a([&] { one = world.answer(5); }), b([&] { two = world.answer(5); });
  }
  EXPECT_EQ(one, alone);
  EXPECT_EQ(two, alone);
}

TEST(Services, a_model_that_the_helper_lacks_is_named) {
  MemoryWorld world;
  auto link = world.to_helper();
  Channel channel(*link, 0, std::chrono::seconds(5));
  channel.send(PairHello{1, "", std::string(64, 'b'), "x", 1, false, Seed{}});
  const auto error = caught([&] { channel.receive(PairAccepted{}); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->reason(), Reason::model_missing);
  EXPECT_TRUE(error->by_peer());
  EXPECT_EQ(error->field(), "PairHello.model_id");
  EXPECT_EQ(error->message(), "the helper does not hold model bbbbbbbb");
}

// A model is its provider's: another provider may not offer it, and that one's users do not find it, whoever opens the session.
TEST(Services, a_model_is_its_providers_alone) {
  LoneHelper helper({}, std::chrono::seconds(2));  // it waits in vain for the other side of a session
  const auto dial = [&](Role role, const std::string& provider) { return helper.dial(Peer{role, "x", "x", provider}); };
  ProviderService one(
      tiny_model(), helper.executor(), std::chrono::seconds(5), [&] { return dial(Role::provider, "one"); },
      [](const std::string&) {});
  one.register_model(nullptr);
  one.register_model(nullptr);
  ProviderService two(
      tiny_model(), helper.executor(), std::chrono::seconds(5), [&] { return dial(Role::provider, "two"); },
      [](const std::string&) {});
  EXPECT_NE(error_of([&] { two.register_model(nullptr); }).find("was registered by a provider of another key"),
            std::string::npos);
  const auto pair = [&](Role role, const std::string& provider) {
    const auto link = dial(role, provider);
    Channel channel(*link, 0, std::chrono::seconds(5));
    channel.send(PairHello{1, "", std::string(64, 'a'), tiny_model().plan.hash(), 1, false, Seed{}});
    return reason_of([&] { channel.receive(PairAccepted{}); });
  };
  for (const Role role : {Role::user, Role::provider}) {
    EXPECT_EQ(pair(role, "two"), "model_missing");
    EXPECT_EQ(pair(role, "one"), "no error");
  }
}

// Nor does a provider that learns the number of another's session take the place of its side.
TEST(Services, a_session_at_the_helper_is_its_providers_alone) {
  LoneHelper helper;
  const auto dial = [&](Role role, const std::string& provider) {
    return helper.dial(Peer{role, "x", "alice", provider});
  };
  std::list<std::unique_ptr<Link>> links;
  const auto pair = [&](Role role, const std::string& provider, char id) {
    links.push_back(dial(role, provider));
    Channel channel(*links.back(), 0, std::chrono::seconds(5));
    channel.send(PairHello{7, role == Role::provider ? "alice" : "", std::string(64, id), tiny_model().plan.hash(), 1,
                           false, Seed{}});
    channel.receive(PairAccepted{});
    channel.set_session(7);
    return channel;
  };
  for (const char id : {'a', 'b'}) {
    ProviderService(
        tiny_model({.id = id}), helper.executor(), std::chrono::seconds(5),
        [&] { return dial(Role::provider, std::string(1, id)); }, [](const std::string&) {})
        .register_model(nullptr);
  }
  pair(Role::provider, "a", 'a');
  pair(Role::provider, "b", 'b');
  Channel user = pair(Role::user, "a", 'a');
  user.receive(Paired{});
}

TEST(Services, another_plan_is_refused_with_both_values) {
  MemoryWorld world;
  {
    auto link = world.to_helper();
    Channel channel(*link, 0, std::chrono::seconds(5));
    channel.send(PairHello{1, "", std::string(64, 'a'), std::string(64, 'f'), 1, false, Seed{}});
    const std::string error = error_of([&] { channel.receive(PairAccepted{}); });
    EXPECT_NE(error.find("PairHello.plan_hash"), std::string::npos);
    EXPECT_NE(error.find("here, ffffffff at the peer"), std::string::npos);
  }
  auto link = world.to_provider();
  Channel channel(*link, 0, std::chrono::seconds(5));
  channel.send(Hello{});
  channel.receive(Card{});
  channel.send(Agreement{std::string(64, 'e')});
  EXPECT_NE(error_of([&] { channel.receive(Accepted{}); }).find("eeeeeeee at the user"), std::string::npos);
}

TEST(Services, a_role_may_not_do_what_is_anothers) {
  MemoryWorld world;
  auto link = world.to_helper();
  Channel channel(*link, 0, std::chrono::seconds(5));
  channel.send(ModelOffer{std::string(64, 'c'), tiny_model().plan});
  EXPECT_NE(error_of([&] { channel.receive(ModelStored{}); }).find("a user may not begin with message 20"),
            std::string::npos);
}

// A link that spoils the k-th frame that its owner sends.
class Spoiling : public PassingLink {
 public:
  Spoiling(std::unique_ptr<Link> link, std::size_t at, int how) : PassingLink(std::move(link)), left_(at), how_(how) {}
  void send(Frame frame) override {
    if (left_-- == 0) {
      if (how_ == 0) frame.payload.push_back(1);
      if (how_ == 1 && !frame.payload.empty()) frame.payload.pop_back();
      if (how_ == 2) frame.tag = 60;
      if (how_ == 3) return close();
      if (how_ == 4) return;  // lost: the peer waits in vain
    }
    PassingLink::send(std::move(frame));
  }

 private:
  std::size_t left_;
  int how_;
};

// A short conversation over the given links.
void converse(MemoryWorld& world, const UserLinks& links) {
  Ledger ledger;
  UserClient client(links, ledger, world.executor(), std::chrono::milliseconds(400));
  make_and_ask(client, {5, 6, 7}, 3);
  client.end();
}

// Whatever a user spoils, at any frame of a short session: it ends in an Error before the deadline, and the services serve
// the next one.
class SpoiltSessions : public testing::TestWithParam<Retrieval> {};
INSTANTIATE_TEST_SUITE_P(Retrievals, SpoiltSessions, testing::Values(Retrieval::linear, Retrieval::bfv),
                         [](const auto& r) { return name_of(r.param); });

TEST_P(SpoiltSessions, end_alone_whatever_frame_is_spoilt) {
  MemoryWorld world({.model = tiny_model({Profile::paper, GetParam()}), .patience = std::chrono::milliseconds(400)});
  const auto good = world.answer(3);
  std::size_t errors = 0, sessions = 0;
  for (int how = 0; how < 5; ++how) {
    for (std::size_t at = 0; at < 40; at += how == 4 ? 13 : 3) {
      ++sessions;
      try {
        UserLinks links = world.links();
        links.online = [&] { return std::make_unique<Spoiling>(world.to_provider(), at, how); };
        converse(world, links);
      } catch (const Error&) {
        ++errors;
      }
    }
  }
  EXPECT_EQ(errors, sessions);
  EXPECT_EQ(world.answer(3), good);
  EXPECT_NE(world.notes.text().find("expected"), std::string::npos);
}

TEST(Services, spoilt_offline_material_ends_that_session_only) {
  MemoryWorld world({.patience = std::chrono::milliseconds(400)});
  const auto good = world.answer(3);
  for (int how = 0; how < 4; ++how) {
    for (std::size_t at = 1; at < 5; ++at) {  // entries, two layers of slots, passes
      const std::string error = error_of([&] {
        UserLinks links = world.links();
        links.offline = [&] { return std::make_unique<Spoiling>(world.to_provider(), at, how); };
        converse(world, links);
      });
      EXPECT_NE(error, "no error") << how << " at " << at;
    }
  }
  EXPECT_EQ(world.answer(3), good);
}

// A query serves one token: another one of the same pass, a second position for it, or one beyond the table are refused.
TEST(Services, a_second_query_for_a_token_is_refused) {
  MemoryWorld world(
      {.model = tiny_model({Profile::paper, Retrieval::bfv}), .patience = std::chrono::milliseconds(400)});
  const auto good = world.answer(3);
  EXPECT_EQ(world.answer(3), good);
  Plan plan = tiny_plan();
  plan.retrieval = Retrieval::bfv;
  const BfvUser user(bfv_shape(plan), seed_of(1));
  Executor executor(1);
  Stock stock(plan.config.layers);
  const auto deliver = [&](std::uint32_t first, std::uint32_t count) {
    auto [to, from] = memory_links();
    Channel sender(*to, 7, std::chrono::seconds(5)), receiver(*from, 7, std::chrono::seconds(5));
    deal_queries(user, {k_users_kind, first, count}, sender, executor);
    put_in_stock(stock, Stock::Source::user, plan, receiver.receive(PackMaterial{}));
  };
  EXPECT_EQ(error_of([&] {
              stock.await({{0, 0, 0, 2}}, Clock::now());
            }),
            "stock: no offline material arrived from helper and user before the deadline");
  deliver(0, 2);
  EXPECT_EQ(error_of([&] { stock.await({{0, 0, 0, 2}}, Clock::now()); }), "no error");
  EXPECT_EQ(error_of([&] { deliver(1, 1); }), "PackMaterial.first: 1, expected 2");
  EXPECT_NO_THROW(stock.take(k_users_kind, 0, 1, Clock::now()));
  EXPECT_EQ(error_of([&] { deliver(1, 1); }), "PackMaterial.first: 1, expected 2");
  EXPECT_NE(error_of([&] {
              put_in_stock(stock, Stock::Source::helper, plan, {k_users_kind, 0, 2, 1, Bytes(1)});
            }),
            "no error");
  EXPECT_NE(error_of([&] {
              put_in_stock(stock, Stock::Source::user, tiny_plan(), {k_users_kind, 0, 2, 1, Bytes(1)});
            }).find("PackOrder.kind: 4, expected 1 to 3"),
            std::string::npos);
  Plan other = plan;
  other.retrieval = Retrieval::linear;
  EXPECT_NE(plan.hash(), other.hash());
}

// A user that sends another place for its query, several times.
class Displacing : public PassingLink {
 public:
  Displacing(std::unique_ptr<Link> link, std::uint32_t delta, int times)
      : PassingLink(std::move(link)), delta_(delta), times_(times) {}
  void send(Frame frame) override {
    if (frame.tag != static_cast<std::uint16_t>(Tag::retrieval_index)) return PassingLink::send(std::move(frame));
    std::memcpy(frame.payload.data(), &delta_, sizeof delta_);
    for (int i = 0; i < times_; ++i, ++frame.step) PassingLink::send(frame);
  }

 private:
  std::uint32_t delta_;
  int times_;
};

TEST(Services, positions_of_a_query_that_are_none_or_come_twice_are_named) {
  Plan plan = tiny_plan();
  plan.retrieval = Retrieval::bfv;
  const auto converse_with = [&](std::uint32_t delta, int times) {
    Executor executor(1);
    Rig rig(tiny_weights(), plan, executor, 1, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
      return std::make_unique<Displacing>(std::move(link), delta, times);
    });
    rig.deal_for_request(3, 3);
    rig.user().prompt(std::vector<TokenId>{5, 6, 7}, greedy);
    EXPECT_NE(error_of([&] { rig.user().advance([](TokenId) { return true; }, greedy); }), "no error");
    return rig.provider_error();
  };
  EXPECT_EQ(converse_with(4096, 1), "RetrievalIndex.delta: 4096, expected less than 4096");
  EXPECT_EQ(converse_with(7, 2), "frame.tag: 64, expected PassBegin or SessionEnd");
}

// A provider of public weights whose embedding table has no whole rows, none, or too many.
TEST(Services, public_vectors_of_another_number_or_no_numbers_are_named) {
  Plan plan = tiny_plan(Profile::open);
  plan.config.qkv_bias = true;
  const std::size_t expected = plan.config.layers * plan.config.qkv_rows();
  const auto error = [&](PublicVectors vectors) -> std::string {
    try {
      weights_of(vectors, plan);
    } catch (const Error& e) {
      return e.what();
    }
    return "none";
  };
  EXPECT_EQ(error({std::vector<float>(expected)}), "none");
  EXPECT_EQ(error({std::vector<float>(expected + 1)}),
            fmt::format("PublicVectors.values: {} of them, expected {}", expected + 1, expected));
  EXPECT_EQ(error({{}}), fmt::format("PublicVectors.values: 0 of them, expected {}", expected));
  EXPECT_EQ(error({std::vector<float>(expected, NAN)}), "PublicVectors.values: one is not a finite number");
}

TEST(Services, an_embedding_table_of_another_size_is_named_by_the_user) {
  Executor executor(1);
  const OfferedModel model = tiny_model({Profile::open});
  const std::size_t row = model.plan.config.width * 2, total = model.plan.config.vocab * row;
  for (const std::size_t bytes : {std::size_t{0}, row - 1, total + row}) {
    auto [near, far] = memory_links();
    const std::jthread provider([&, link = far.get()] {
      Channel user(*link, 0, std::chrono::seconds(5));
      user.receive(Hello{});
      user.send(Card{1, model.model_id, model.plan, model.vocabulary, Seed{}});
      user.receive(Agreement{});
      user.send(Accepted{});
      user.set_session(1);
      user.send(EmbeddingRows{Bytes(bytes)});
      user.flush();
    });
    UserLinks links;
    links.online = [&, link = &near] { return std::move(*link); };
    Ledger ledger;
    EXPECT_EQ(error_of([&] { UserClient(links, ledger, executor, std::chrono::seconds(5)); }),
              fmt::format("EmbeddingRows.rows: {} bytes, expected rows of {} and at most {}", bytes, row, total));
  }
}

// A pass that the profile does not know, or of more heads than it allows, is refused before anything is spent on it.
TEST(Services, a_pass_out_of_range_is_named) {
  struct Case {
    Profile profile;
    PassBegin begin;
    std::string error;
    bool hides_positions = false;
    std::size_t slots = 16;
  };
  for (const Case& c :
       {Case{Profile::paper, {PassBegin::rows, 1, 1}, "PassBegin.kind: 4, expected 1 to 3 in profile paper"},
        Case{Profile::fast, {PassBegin::rows, 1, 1}, "PassBegin.kind: 4, expected 1 to 3 in profile fast"},
        Case{Profile::open, {PassBegin::prompt, 1, 1}, "PassBegin.kind: 1, expected 4 to 4 in profile open"},
        Case{Profile::paper, {PassBegin::prompt, 2, 1, 1}, "PassBegin.dead: expected 0"},
        Case{Profile::paper, {PassBegin::prompt, 2, 0, 2}, "PassBegin.heads: expected 1"},
        Case{Profile::open, {PassBegin::rows, 2, 0, 0}, "PassBegin.heads: expected 1 to the number of tokens"},
        Case{Profile::open,
             {PassBegin::rows, 2, 0, 3},
             "PassBegin.heads: expected 1 to the number of tokens, at most 64"},
        Case{Profile::open,
             {PassBegin::rows, 100, 0, 65},
             "PassBegin.heads: expected 1 to the number of tokens, at most 64",
             false,
             128},
        Case{Profile::open, {PassBegin::rows, 129, 0, 64}, "PassBegin.tokens: more", false, 128},
        Case{Profile::open, {PassBegin::rows, 17, 0, 17}, "PassBegin.heads: the chain has no passes left"},
        Case{Profile::open, {PassBegin::rows, 17, 0, 1}, "PassBegin.tokens: more than the chain has left"},
        Case{Profile::paper, {PassBegin::block, 2, 0, 2}, "PassBegin.kind: 6, expected 1 to 3 in profile paper"},
        Case{Profile::open, {PassBegin::block, 2, 0, 2}, "PassBegin.kind: 6, expected 4 to 4 in profile open"},
        Case{Profile::paper, {PassBegin::block, 2, 0, 0}, "PassBegin.heads: expected 1 to the number of tokens", true},
        Case{Profile::paper,
             {PassBegin::block, 128, 0, 128},
             "PassBegin.heads: expected 1 to the number of tokens, at most 64",
             true,
             128},
        Case{Profile::fast, {PassBegin::block, 129, 0, 64}, "PassBegin.tokens: more", true, 128},
        Case{Profile::fast, {PassBegin::block, 2, 0, 3}, "PassBegin.heads: expected 1 to the number of tokens", true},
        Case{Profile::fast, {PassBegin::block, 17, 0, 17}, "PassBegin.heads: the chain has no passes left", true},
        Case{Profile::paper, {PassBegin::prompt, 2, 0, 2}, "PassBegin.heads: expected 1", true},
        Case{Profile::paper, {PassBegin::rows, 1, 0, 1}, "PassBegin.kind: 4, expected 1 to 3 or 6", true},
        Case{Profile::fast, {PassBegin::rewind, 0}, "PassBegin.kind: rewind, where no token stands"},
        Case{Profile::paper, {PassBegin::rewind, 0}, "PassBegin.kind: rewind, where the user alone knows", true}}) {
    Executor executor(1);
    Plan plan = tiny_plan(c.profile);
    plan.hides_positions = c.hides_positions;
    plan.slots = c.slots;
    Rig rig(tiny_weights(), plan, executor);
    rig.user_channel().send(c.begin);
    EXPECT_NE(error_of([&] { rig.user_channel().receive(PassCancel{}); }), "no error");
    const std::string error = rig.provider_error();
    EXPECT_NE(error.find(c.error), std::string::npos) << c.error << " / " << error;
    for (const std::uint32_t secret : {c.begin.tokens, c.begin.dead, c.begin.heads}) {  // the log has it
      if (secret <= 9 || secret == k_most_heads) continue;
      EXPECT_EQ(error.find(std::to_string(secret)), std::string::npos) << error;
    }
  }
}

// Where the weights are public a user has no half of the material, and there are no entries.
TEST(Services, material_that_public_weights_do_not_know_is_refused) {
  const Plan plan = tiny_plan(Profile::open);
  Stock stock(plan.config.layers, !plan.open());
  PackMaterial material;
  material.kind = static_cast<std::uint8_t>(Part::Kind::slot);
  material.count = 1;
  EXPECT_NE(error_of([&] { put_in_stock(stock, Stock::Source::user, plan, material); }).find("a user deals nothing"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              check_order(plan, {static_cast<std::uint8_t>(Part::Kind::entry), 0, 1});
            }).find("PackOrder.kind: profile open"),
            std::string::npos);
}

TEST(Services, an_order_beyond_the_chain_is_refused) {
  const Plan plan = [] {
    Executor one(1);
    return tiny_model().plan;
  }();
  EXPECT_NO_THROW(check_order(plan, {1, 0, 64}));
  for (const PackOrder order : {PackOrder{0, 0, 1}, PackOrder{4, 0, 1}, PackOrder{1, 0, 0}, PackOrder{1, 0, 65},
                                PackOrder{1, 1, 64}, PackOrder{1, 0xffffffff, 2}}) {
    EXPECT_THROW(check_order(plan, order), Error);
  }
}

// A user's orders to the helper of a session of its own: the error that they end in.
std::string error_of_orders(MemoryWorld& world, const std::vector<PackOrder>& orders) {
  auto provider = world.to_provider();
  Channel online(*provider, 0, std::chrono::seconds(5));
  online.send(Hello{});
  const Card card = online.receive(Card{});
  const std::uint64_t chain = random_number();
  online.send(Agreement{card.plan.hash(), chain});
  online.receive(Accepted{});
  auto offline_link = world.to_provider();
  Channel offline(*offline_link, 0, std::chrono::seconds(5));
  offline.send(Hello{Hello::offline, card.session});
  offline.flush();
  auto link = world.to_helper();
  Channel helper(*link, 0, std::chrono::seconds(5));
  helper.send(PairHello{card.session, "", card.model_id, card.plan.hash(), chain, false, Seed{}});
  helper.receive(PairAccepted{});
  helper.set_session(card.session);
  helper.receive(Paired{});
  return error_of([&] {
    for (const PackOrder& order : orders) {
      helper.send(order);
      helper.receive(PackDealt{});
    }
  });
}

// A user that orders a place twice, or out of order, ends its own session and nothing else.
TEST(Services, orders_out_of_sequence_are_refused_by_the_helper) {
  MemoryWorld world;
  const auto good = world.answer(3);
  for (const auto& orders : {std::vector<PackOrder>{{1, 0, 1}, {1, 0, 1}}, {{3, 0, 2}, {3, 1, 1}}, {{1, 5, 1}}}) {
    const std::string error = error_of_orders(world, orders);
    EXPECT_NE(error.find("PackOrder.first"), std::string::npos) << error;
  }
  EXPECT_EQ(world.answer(3), good);
}

// Queries are the user's alone, whatever place is ordered.
TEST(Services, an_order_of_queries_is_refused_by_the_helper) {
  MemoryWorld world({.model = tiny_model({Profile::paper, Retrieval::bfv})});
  const auto good = world.answer(3);
  for (const std::uint32_t first : {0u, 1u, 63u}) {
    EXPECT_EQ(error_of_orders(world, {{k_users_kind, first, 1}}),
              "peer: PackOrder.kind: 4, expected 1 to 3: a query is the user's alone");
  }
  EXPECT_EQ(world.answer(3), good);
}

// A pass that is over cannot be given up: what the user saw of it stays what it was dealt for.
TEST(Services, a_cancel_when_no_pass_is_under_way_ends_the_session) {
  Executor executor(1);
  const Plan plan = tiny_plan();
  Rig rig(tiny_weights(), plan, executor);
  rig.deal_for_request(3, 3);
  rig.user().prompt(std::vector<TokenId>{5, 6, 7}, greedy);
  rig.user_channel().send(PassCancel{});
  EXPECT_NE(error_of([&] { rig.user().retrieve_last(); }), "no error");
  EXPECT_NE(rig.provider_error().find("PassCancel: no pass is under way"), std::string::npos) << rig.provider_error();
}

TEST(Services, orders_cover_what_a_request_needs_in_order) {
  for (const auto& [prompt, answer] : {std::pair<std::size_t, std::size_t>{1, 1}, {40, 48}, {64, 65}, {200, 300}}) {
    std::uint32_t next[5] = {};
    Plan plan = tiny_plan();
    plan.slots = 1000;
    for (const PackOrder& order : orders_for(plan, prompt, answer)) {
      EXPECT_EQ(order.first, next[order.kind]);
      // A filling that goes on from here begins with the same: a pass that is due is not held up by slots for which there is no room yet.
      const std::vector<PackOrder> rest =
          orders_between(plan, Marks{{next[1], next[2], next[3], next[4]}}, target_of(plan, {}, prompt, answer));
      EXPECT_EQ(rest[0].kind, order.kind);
      next[order.kind] += order.count;
      EXPECT_LE(order.count, k_deal_batch);
      if (order.kind == 3) {
        EXPECT_LE(std::size_t{order.first}, next[1]) << "a pass before its slots";
      }
    }
    EXPECT_EQ(next[1], prompt + answer - 1);
    EXPECT_EQ(next[2], prompt);
    EXPECT_EQ(next[3], answer);
  }
}

// A stalled peer does not hold anybody beyond the deadline.
TEST(Services, silence_ends_at_the_deadline) {
  MemoryWorld world({.patience = std::chrono::milliseconds(200)});
  auto link = world.to_provider();
  Channel channel(*link, 0, std::chrono::seconds(5));
  channel.send(Hello{});
  channel.receive(Card{});
  const Clock::time_point begin = Clock::now();
  EXPECT_NE(error_of([&] { channel.receive(Accepted{}); }).find("did not arrive before the deadline"),
            std::string::npos);
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(3));
}

}  // namespace
}  // namespace permllm::test
