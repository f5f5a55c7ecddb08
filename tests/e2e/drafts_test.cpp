// Drafts of a user's own model and of the text alone, by the library's Client over processes: what is told of an answer's tokens, what ends it, and which
// material serves it.
#include <gtest/gtest.h>

#include <cmath>

#include "permllm/client.h"
#include "support/errors.h"
#include "support/processes.h"

namespace permllm::test {
namespace {

constexpr const char* k_model = PERMLLM_TINY_MODELS "/llama.gguf";

// Provider and helper of the tiny model.
class Parties {
 public:
  explicit Parties(const std::vector<std::string>& with) {
    make_keys(scratch_.path());
    helper_.emplace(std::vector<std::string>{"helper", "--identity", (scratch_ / "helper").string(), "--events",
                                             "--log-level", "error"},
                    PERMLLM_BINARY);
    helper_address_ = address_of(*helper_);
    std::vector<std::string> provider{"provider",
                                      "--identity",
                                      (scratch_ / "provider").string(),
                                      "--events",
                                      "--log-level",
                                      "error",
                                      "--state",
                                      (scratch_ / "kept").string(),
                                      "--helper",
                                      helper_address_,
                                      "--model",
                                      k_model,
                                      "--context",
                                      "64"};
    provider.insert(provider.end(), with.begin(), with.end());
    provider_.emplace(provider, PERMLLM_BINARY);
    provider_address_ = address_of(*provider_);
  }
  // rows: that the invite grants; 0: any number.
  Client client(const std::string& user, bool drafts, const std::string& draft_model = "", std::size_t rows = 0) {
    const std::filesystem::path file = scratch_ / (user + ".invite");
    std::vector<std::string> invite{"invite",
                                    user,
                                    "--identity",
                                    (scratch_ / "provider").string(),
                                    "--provider-address",
                                    provider_address_,
                                    "--helper-address",
                                    helper_address_,
                                    "--tokens",
                                    "1000",
                                    "--out",
                                    file.string()};
    if (rows > 0) invite.insert(invite.end(), {"--rows", std::to_string(rows)});
    if (!std::filesystem::exists(file)) permllm(invite);
    ClientOptions options;
    options.state = scratch_ / (user + "-state");
    options.drafts = drafts;
    options.draft_model = draft_model;
    return Client(file, options);
  }

 private:
  Scratch scratch_;
  std::string helper_address_, provider_address_;
  std::optional<Process> helper_, provider_;
};

Answer answer(const Client& client, std::size_t draft, std::size_t tokens, double temperature = 0) {
  ConversationOptions options;
  options.chat_format = "none";
  options.draft = draft;
  AnswerOptions how;
  how.max_tokens = tokens;
  how.temperature = temperature;
  how.top_k = 3;
  how.seed = 7;
  how.log_probabilities = true;
  return client.conversation(options).ask("it is it", how);  // no choice of its answer is close
}

std::vector<double> chances(const Answer& answer) {
  std::vector<double> all;
  for (const Answer::Chance& chance : answer.log_probabilities) all.push_back(chance.log_probability);
  return all;
}

// Chances of tokens whose chances differ, each its own: one place off would be seen. Rounding at random moves them by 0.02 (paper).
void expect_own_chances(const Answer& drafted, const Answer& plain) {
  EXPECT_EQ(drafted.tokens, plain.tokens);
  EXPECT_EQ(drafted.text, plain.text);
  const std::vector<double> got = chances(drafted), want = chances(plain);
  ASSERT_EQ(got.size(), want.size());
  std::size_t differ = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(drafted.log_probabilities[i].bytes, plain.log_probabilities[i].bytes);
    EXPECT_NEAR(got[i], want[i], 0.06) << i;
    differ += i > 0 && std::fabs(want[i] - want[i - 1]) > 0.15 ? 1 : 0;
  }
  EXPECT_GT(differ, want.size() / 4);
}

struct DraftedAnswers : testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Profiles, DraftedAnswers, testing::Values("paper", "open"),
                         [](const auto& profile) { return std::string(profile.param); });

// Greedily and, where logits have names, so that the same draws choose the same tokens, with a temperature; of drafts that hold, of some of which a part does, and of a length that the first passes choose.
TEST_P(DraftedAnswers, have_the_tokens_and_chances_of_answers_without_drafts) {
  Parties parties({"--profile", GetParam()});
  const Client plain = parties.client("alice", false), by_text = parties.client("bob", true),
               by_model = parties.client("carol", true, k_model);
  for (const double temperature : {0.0, 1.0}) {
    if (temperature > 0 && GetParam() != std::string("open")) continue;
    const Answer want = answer(plain, 0, 12, temperature);
    ASSERT_EQ(want.tokens.size(), 12u);
    const Answer text = answer(by_text, 3, 12, temperature), model = answer(by_model, 3, 12, temperature);
    expect_own_chances(text, want);
    expect_own_chances(model, want);
    EXPECT_GT(text.cost.rejected_tokens, 0u);
    EXPECT_GT(model.cost.drafted_tokens, model.cost.rejected_tokens);
    EXPECT_LT(model.cost.passes, text.cost.passes);
    // Passes of one row come first, then three with four tokens drafted.
    const Answer chosen = answer(by_text, k_draft_chosen, 12, temperature);
    expect_own_chances(chosen, want);
    EXPECT_GE(chosen.cost.drafted_tokens, 4u);
    EXPECT_LE(chosen.cost.drafted_tokens, 4 * (chosen.cost.passes - 3));
  }
}

// Material of conversations that draft serves no others, nor theirs those, whatever their user's folder has.
TEST(DraftingClients, have_material_of_their_own) {
  Parties parties({});
  const Client plain = parties.client("alice", false), drafting = parties.client("alice", true);
  EXPECT_FALSE(plain.model().drafts);
  EXPECT_TRUE(drafting.model().drafts);
  plain.fill(0, 40, 20);
  EXPECT_EQ(plain.stock().size(), 1u);
  EXPECT_TRUE(drafting.stock().empty());
  drafting.fill(0, 40, 20);
  ASSERT_EQ(plain.stock().size(), 1u);
  ASSERT_EQ(drafting.stock().size(), 1u);
  const auto used = [](const Client& client) {
    std::size_t slots = 0;
    for (const Client::Chain& chain : client.stock()) slots += chain.used;
    return slots;
  };
  const Answer first = answer(drafting, 2, 4);
  EXPECT_EQ(used(plain), 0u);
  EXPECT_GT(used(drafting), 0u);
  EXPECT_EQ(answer(plain, 0, 4).tokens, first.tokens);
  EXPECT_GT(used(plain), 0u);
  EXPECT_NE(error_of([&] { answer(plain, 2, 4); }).find("draft: in profile paper needs a client whose conversations"),
            std::string::npos);
}

// What the provider says in a pass is told as it is: no end for want of material.
TEST(DraftingClients, are_told_why_a_pass_is_refused) {
  Parties parties({});
  for (const bool drafts : {false, true}) {
    SCOPED_TRACE(drafts);
    const Client client = parties.client(drafts ? "alice" : "bob", drafts, "", 16);
    const auto refused = caught([&] { answer(client, drafts ? 3 : 0, 12); });
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->reason(), Reason::allowance_used_up) << refused->what();
    EXPECT_NE(std::string(refused->what()).find("fewer rows are left than this takes"), std::string::npos)
        << refused->what();
  }
}

TEST(DraftingClients, are_refused_plainly_where_the_provider_hides_no_positions) {
  Parties parties({"--hidden-positions", "off"});
  EXPECT_NE(error_of([&] { parties.client("alice", true); }).find("which this one does not do (--hidden-positions)"),
            std::string::npos);
  EXPECT_FALSE(answer(parties.client("alice", false), 0, 2).tokens.empty());
}

}  // namespace
}  // namespace permllm::test
