// A provider that sends a card, marks or material that fit nothing, on purpose: the user names what is wrong and goes on; nothing ends its process, and
// nothing of a session is made of it.
#include <gtest/gtest.h>

#include "model/chat_format.h"
#include "page/declared.h"
#include "session/pairing.h"
#include "support/errors.h"
#include "support/scripted_link.h"
#include "support/tiny_model.h"
#include "user/user_client.h"

namespace permllm::test {
namespace {

Card card_of(const OfferedModel& model) {
  return {42, model.model_id, model.plan, model.vocabulary, model.mask_seed, 1000, {}};
}

// The user's program against a provider that says this: what it ends with.
std::string against(Script online, Ledger& ledger) {
  online.handshake = 2;
  online.session = 42;
  Script offline, helper;
  offline.say(Accepted{});
  helper.say(PairAccepted{seed_of(1)});
  helper.say(Paired{});
  helper.handshake = 1;
  helper.session = 42;
  const auto play = [](const Script& script) {
    return [script]() -> std::unique_ptr<Link> { return std::make_unique<Scripted>(script); };
  };
  Executor executor(1);
  return error_of([&] {
    UserClient client({play(online), play(offline), play(helper)}, ledger, executor, std::chrono::seconds(1));
    const Tokenizer tokenizer(client.card().vocabulary);
    client.session().prompt(
        ChatFormat::from_template(tokenizer.vocabulary().chat_template).encode(tokenizer, {{"user", "a <tool> b"}}),
        greedy);
  });
}
std::string against(const Script& online) {
  Ledger ledger;
  return against(online, ledger);
}
std::string against(const std::function<void(Card&)>& change) {
  Card card = card_of(tiny_model({.layers = 1, .slots = 64}));
  change(card);
  Script script;
  script.say(card);
  script.say(Accepted{});
  return against(script);
}

TEST(HostileCards, what_the_user_would_compute_with_is_refused_by_name) {
  EXPECT_EQ(against([](Card&) {}), "link: the script ends");  // at the first message of the prompt's pass
  EXPECT_EQ(against([](Card& c) {
              c.vocabulary.tokens.push_back("<tool>");
              c.vocabulary.types.push_back(k_user_defined);
            }),
            "Card.vocabulary.tokens: 261 of them, the plan's embedding table has 260 rows: each token needs one");
  EXPECT_EQ(against([](Card& c) { c.vocabulary.eos = 260; }),
            "Card.vocabulary.eos: 260, the vocabulary has 260 tokens");
  EXPECT_EQ(against([](Card& c) { c.vocabulary.types.resize(1); }), "Card.vocabulary.types: 1 types for 260 tokens");
  EXPECT_EQ(against([](Card& c) {
              c.plan.slots = 1 << 20, c.plan.config.heads = c.plan.config.kv_heads = 1 << 8,
              c.plan.config.head_dim = 1 << 9, c.plan.config.rope.resize(1 << 8);
            }),
            "Card.plan: plan: 1048576 slots of 3145728 bytes of keys and values, at most 67108864 and 1099511627776 in "
            "all are supported");
  EXPECT_EQ(against([](Card& c) { c.vocabulary.merges = {"th"}; }), "tokenizer.ggml.merges: merge 0 is not two tokens");
  EXPECT_EQ(against([](Card& c) { c.vocabulary.types[7] = 9; }),
            "tokenizer.ggml.token_type: 9 of token 7, expected 1 to 6");
}

// Marks say how much the user's caches skip: four thousand million slots are no chain's.
TEST(HostileCards, marks_beyond_the_chain_are_refused) {
  const Card card = card_of(tiny_model({.layers = 1, .slots = 64}));
  const auto with = [&](const Accepted& accepted) {
    Script script;
    script.say(card);
    script.say(accepted);
    return against(script);
  };
  EXPECT_EQ(with({false, {{65, 0, 0, 0}}, {}}), "Accepted.made: 65, expected at most 64");
  EXPECT_EQ(with({false, {}, {{0xffffffff, 0, 0, 0}}}), "Accepted.burnt: 4294967295, expected at most 64");
  EXPECT_EQ(with({false, {}, {{0, 0xffffffff, 0, 0}}}), "Accepted.burnt: 4294967295, expected at most 64");
  EXPECT_EQ(with({false, {}, {{1, 0, 0, 0}}}), "Accepted.burnt: pieces of a chain that is new, expected none");

  // A chain that the user has: whatever the card says is burnt of it, the next place is none that was used, and no number wraps.
  Ledger ledger;
  ChainRecord own;
  own.chain = 7;
  own.model_id = card.model_id;
  own.plan_hash = card.plan.hash();
  own.paired = true;
  own.seed = seed_of(3);
  ledger.add(own);
  for (const Marks& burnt : {Marks{{64, 64, 64, 0}}, Marks{{0, 80, 0, 0}}, Marks{{79, 0, 0, 0}}}) {
    Card said = card;
    said.chains = {{7, {{64, 64, 64, 0}}, burnt, false}};
    Script script;
    script.say(said);
    script.say(Accepted{});
    EXPECT_EQ(against(script, ledger), "link: the script ends");  // on a new chain
  }
  EXPECT_EQ(ledger.find({}, 7)->burnt, Marks{});
}

// The layers of a plan may differ in their rings: what is dealt of the largest still fits a message.
TEST(HostilePlans, a_batch_is_as_large_as_its_largest_layer_allows) {
  Plan plan = tiny_plan();
  plan.config.layers = 3;
  plan.config.ff = 1 << 19;
  plan.layers.resize(3, plan.layers[0]);
  plan.ranges.layers.resize(3, plan.ranges.layers[0]);
  plan.ranges.layers[1].gate_up = 1e9;
  plan.check();
  const std::size_t batch = deal_batch(plan, Part::Kind::slot);
  for (std::uint32_t layer = 0; layer < 3; ++layer) {
    const Cost cost = piece_cost(plan, Part::Kind::slot, layer, static_cast<std::uint32_t>(plan.slots - 1));
    EXPECT_LE(batch * std::max(cost.offline.helper_to_provider, cost.offline.user_to_provider), PackMaterial::k_limit)
        << layer;
  }
}

}  // namespace
}  // namespace permllm::test
