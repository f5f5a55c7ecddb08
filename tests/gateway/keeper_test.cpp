// When material is made ahead, and what is known of the provider.
#include "gateway/keeper.h"

#include <gtest/gtest.h>

#include "gateway/stand_in.h"

namespace permllm::gateway_test {
namespace {

using Filling = StandIn::Filling;
using Fillings = std::vector<Filling>;
using Chains = std::vector<Client::Chain>;
using Provider = StockKeeper::Provider;

// A chain that nobody has begun, for so many tokens.
Client::Chain fresh(std::size_t tokens) { return {.tokens = tokens, .answer_tokens = (tokens + 1) / 2}; }

struct Keeping {
  StandIn client;
  std::atomic<bool> idle = true;
  std::atomic<std::size_t> looks = 0;  // whether somebody asks
  Log log{"test", {"text", "off"}};
  std::optional<StockKeeper> keeper;

  void start(std::size_t tokens) {
    keeper.emplace(
        client, tokens, [this] { return ++looks, idle.load(); }, log);
  }
  // The keeper has looked around so often again, with all that a look brings about but the last.
  void looked(std::size_t times = 2) {
    const std::size_t end = looks + times;
    EXPECT_TRUE(eventually([&] { return looks >= end; }));
  }
};

TEST(StockKeeper, fills_in_steps_up_to_its_target_and_then_rests_until_material_is_used) {
  Keeping k;
  k.client.in_stock = [&](std::size_t) {
    Chains chains;
    for (const Filling& filling : k.client.fillings()) {
      chains.resize(std::max(chains.size(), filling.i + 1));
      chains[filling.i] = fresh(filling.tokens);
    }
    return chains;
  };
  k.start(150);  // a whole context, and half of another
  const Fillings all{{0, 64, 32}, {0, 100, 50}, {1, 50, 25}};
  EXPECT_TRUE(eventually([&] { return k.client.fillings() == all; }));
  EXPECT_TRUE(eventually([&] { return !k.keeper->filling(); }));
  k.looked();
  const std::size_t calls = k.client.stock_calls();
  k.looked();
  EXPECT_EQ(k.client.stock_calls(), calls);  // the provider is not asked for nothing
  k.keeper->wake();
  EXPECT_TRUE(eventually([&] { return k.client.stock_calls() > calls; }));
  EXPECT_EQ(k.client.fillings(), all);
}

TEST(StockKeeper, counts_chains_that_nobody_has_begun_and_answers_as_half_of_them) {
  Keeping k;
  k.client.in_stock = [&](std::size_t call) {
    if (call > 0) return Chains{fresh(100)};
    return Chains{{.tokens = 100, .answer_tokens = 50, .used = 1},
                  {.tokens = 100, .answer_tokens = 50, .busy = true},
                  {.tokens = 100, .answer_tokens = 5}};
  };
  k.start(100);
  EXPECT_TRUE(eventually([&] { return k.client.stock_calls() == 2; }));
  EXPECT_EQ(k.client.fillings(), (Fillings{{0, 74, 37}}));
}

TEST(StockKeeper, makes_nothing_while_somebody_asks) {
  Keeping k;
  k.client.in_stock = [&](std::size_t call) { return call == 0 ? Chains{} : Chains{fresh(50)}; };
  k.idle = false;
  k.start(50);
  k.looked();
  EXPECT_EQ(k.client.stock_calls(), 0u);
  EXPECT_EQ(k.client.fillings(), Fillings{});
  k.idle = true;
  EXPECT_TRUE(eventually([&] { return k.client.fillings() == Fillings{{0, 50, 25}}; }));
}

TEST(StockKeeper, stops_when_what_it_made_is_not_found_again) {
  Keeping k;
  k.start(50);
  EXPECT_TRUE(eventually([&] { return k.client.stock_calls() == 2; }));
  k.looked();
  k.keeper->wake();
  k.looked();
  EXPECT_EQ(k.client.stock_calls(), 2u);
  EXPECT_EQ(k.client.fillings(), (Fillings{{0, 50, 25}}));
  EXPECT_FALSE(k.keeper->filling());
}

// At a provider that keeps less for the user than is to be made, a filling costs another conversation its material: that goes on for ever.
TEST(StockKeeper, stops_when_what_it_made_took_the_place_of_what_was_there) {
  Keeping k;
  k.client.in_stock = [&](std::size_t) {
    Chains chains;
    for (const Filling& filling : k.client.fillings()) {
      chains.resize(std::max(chains.size(), filling.i + 1));
      chains[filling.i] = fresh(filling.tokens);
      if (chains.size() == 2 && chains[0].tokens + chains[1].tokens > 120) chains.erase(chains.begin());
    }
    return chains;
  };
  k.start(150);
  const Fillings all{{0, 64, 32}, {0, 100, 50}, {1, 50, 25}};
  EXPECT_TRUE(eventually([&] { return k.client.fillings() == all; }));
  k.looked(4);
  EXPECT_EQ(k.client.fillings(), all);
  EXPECT_FALSE(k.keeper->filling());
}

TEST(StockKeeper, without_a_target_it_asks_for_nothing) {
  Keeping k;
  k.start(0);
  k.looked();
  EXPECT_EQ(k.client.stock_calls(), 0u);
}

TEST(StockKeeper, a_provider_that_was_lost_is_looked_for_until_it_answers) {
  Keeping k;
  k.idle = false;
  k.start(0);
  EXPECT_EQ(k.keeper->provider(), Provider::reachable);
  k.keeper->lost();
  EXPECT_EQ(k.keeper->provider(), Provider::unreachable);
  k.keeper->heard();
  EXPECT_EQ(k.keeper->provider(), Provider::reachable);
  k.keeper->lost();
  k.looked();
  EXPECT_EQ(k.keeper->provider(), Provider::unreachable);  // not beside an answer
  k.idle = true;
  EXPECT_TRUE(eventually([&] { return k.keeper->provider() == Provider::reachable; }));
  EXPECT_EQ(k.client.stock_calls(), 1u);
}

TEST(StockKeeper, only_a_provider_out_of_reach_is_lost) {
  struct Case {
    Error error;
    Provider then;
  };
  for (const Case& c :
       {Case{{Code::timeout, "stock", "silence"}, Provider::unreachable},
        Case{{Code::resource, Reason::helper_unreachable, "stock", "no helper"}, Provider::reachable}}) {
    Keeping k;
    k.client.on_fill = [&] { throw Error(c.error); };
    k.start(50);
    EXPECT_TRUE(eventually([&] { return k.client.fillings().size() == 1 && !k.keeper->filling(); }));
    EXPECT_EQ(k.keeper->provider(), c.then) << c.error.what();
  }
}

}  // namespace
}  // namespace permllm::gateway_test
