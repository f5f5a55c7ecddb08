// Drafts: what is guessed, and that a conversation with drafts says what one without says while the provider sees blocks of
// one size.
#include "user/draft.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "support/links.h"
#include "support/model.h"
#include "support/rig.h"
#include "user/sampler.h"

namespace permllm::test {
namespace {

TEST(Draft, continues_what_stood_before) {
  const std::vector<TokenId> history{1, 2, 3, 4, 5, 9, 2, 3};
  EXPECT_EQ(draft_by_lookup(history, 3), (std::vector<TokenId>{4, 5, 9}));
  EXPECT_EQ(draft_by_lookup(history, 7), (std::vector<TokenId>{4, 5, 9, 2, 3, 3, 3}));  // always n
}
TEST(Draft, prefers_the_longest_and_then_the_last_place) {
  EXPECT_EQ(draft_by_lookup(std::vector<TokenId>{7, 8, 1, 5, 8, 2, 7, 8}, 1), (std::vector<TokenId>{1}));
  EXPECT_EQ(draft_by_lookup(std::vector<TokenId>{8, 1, 8, 2, 8}, 1), (std::vector<TokenId>{2}));
}
TEST(Draft, guesses_something_where_nothing_stood_before) {
  EXPECT_EQ(draft_by_lookup(std::vector<TokenId>{4}, 2), (std::vector<TokenId>{4, 4}));
  EXPECT_EQ(draft_by_lookup(std::vector<TokenId>{1, 2, 3}, 2), (std::vector<TokenId>{3, 3}));
  EXPECT_TRUE(draft_by_lookup(std::vector<TokenId>{1}, 0).empty());
}

TEST(Draft, has_the_length_that_the_first_passes_say) {
  const auto chosen = [](double acceptance, double without, double with) {
    DraftLength length = DraftLength::chosen(acceptance);
    std::size_t pass = 0;
    for (const double seconds : {2 * without, without, 3 * without, 2 * with, with, 3 * with}) {
      EXPECT_EQ(length.next(), pass++ < 3 ? 0u : DraftLength::k_most_chosen);
      EXPECT_EQ(length.most(), DraftLength::k_most_chosen);
      length.note(seconds);
    }
    EXPECT_EQ(length.next(), length.most());
    length.note(100 * with);  // it is chosen once
    EXPECT_EQ(length.next(), length.most());
    return length.next();
  };
  EXPECT_EQ(chosen(0.7, 1, 1.3), 4u);
  EXPECT_EQ(chosen(0.7, 1, 2.4), 2u);
  EXPECT_EQ(chosen(0.7, 1, 4), 0u);
  EXPECT_EQ(chosen(0.3, 1, 1.1), 2u);
  EXPECT_EQ(chosen(0.3, 1, 1.7), 0u);  // would save less than a tenth
  DraftLength fixed = DraftLength::fixed(3);
  fixed.note(1);
  EXPECT_EQ(fixed.next(), 3u);
}

// Logits of a made-up model: what comes depends on the token before alone.
std::vector<float> made_up(TokenId before) {
  return {std::vector<std::vector<float>>{{0.3f, 1.2f, -0.5f}, {1.0f, 0, 0.1f}, {-1.0f, 0.4f, 0.2f}}[before]};
}

// Three tokens, one of 27 texts, drawn 20,000 times, each answer with a seed of its own. By the chi-square statistic of 26 degrees of freedom, beyond 54 of
// which one in a thousand lies, they have the distribution that the model says, whatever was drafted.
TEST(Drafts, answers_have_the_distribution_that_they_have_without) {
  const auto statistic = [](const std::function<TokenId(TokenId)>& guess, std::size_t n) {
    constexpr std::size_t k_texts = 20000;
    std::vector<double> counts(27);
    for (std::uint64_t seed = 0; seed < k_texts; ++seed) {
      Sampler sampler({.temperature = 1, .seed = seed});
      std::vector<TokenId> text;
      const auto more = [&](TokenId id) {
        text.push_back(id);
        return text.size() < 3;
      };
      auto sampled = static_cast<TokenId>(sampler.choose(made_up(0)));
      while (text.size() < 3 && more(sampled)) {
        std::vector<TokenId> fed{sampled};
        while (fed.size() < n + 1) fed.push_back(guess(fed.back()));
        sampled =
            kept_rows(
                fed, [&](std::size_t row) { return static_cast<TokenId>(sampler.choose(made_up(fed[row]))); }, more)
                .sampled;
      }
      ++counts[text[0] * 9 + text[1] * 3 + text[2]];
    }
    double sum = 0;
    for (TokenId i = 0; i < 27; ++i) {
      double expected = k_texts;
      TokenId before = 0;
      for (const TokenId id : {i / 9, i / 3 % 3, i % 3}) {
        const std::vector<float> logits = made_up(before);
        double all = 0;
        for (const float logit : logits) all += std::exp(double{logit});
        expected *= std::exp(double{logits[id]}) / all;
        before = id;
      }
      sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    return sum;
  };
  EXPECT_LT(statistic([](TokenId) { return TokenId{0}; }, 0), 54);                              // no drafts
  EXPECT_LT(statistic([](TokenId id) { return (id + 1) % 3; }, 2), 54);                         // whatever
  EXPECT_LT(statistic([](TokenId id) { return std::array<TokenId, 3>{1, 0, 1}[id]; }, 3), 54);  // the likeliest
}

DraftModel& smollm2_drafts() {
  static DraftModel model(PERMLLM_TEST_MODEL, executor());
  return model;
}

// What a drafter that never saw another text says.
std::vector<TokenId> afresh(const std::vector<TokenId>& history, std::size_t n) {
  return ModelDrafter(smollm2_drafts(), executor()).draft(history, n);
}

TEST(ModelDrafter, guesses_what_the_model_says_and_follows_the_conversation) {
  const GreedyCase c = greedy_cases()[4];
  constexpr std::size_t k_size = 4;
  const std::vector<TokenId>& said = c.float_ids;
  ModelDrafter drafter(smollm2_drafts(), executor());
  std::vector<TokenId> history = c.prompt_ids;
  drafter.follow(history);
  history.push_back(said[0]);
  EXPECT_EQ(drafter.draft(history, k_size), std::vector(said.begin() + 1, said.begin() + 1 + k_size));
  // All of it was kept, then a part, then nothing.
  std::vector<TokenId> all = history;
  all.insert(all.end(), said.begin() + 1, said.begin() + 1 + k_size);
  drafter.follow(all);
  all.push_back(said[1 + k_size]);
  EXPECT_EQ(drafter.draft(all, k_size), afresh(all, k_size));
  history.push_back(17);
  EXPECT_EQ(drafter.draft(history, k_size), afresh(history, k_size));
  // An edited turn, and a text that has nothing in common.
  history.resize(c.prompt_ids.size() / 2);
  drafter.follow(history);
  history.push_back(5);
  EXPECT_EQ(drafter.draft(history, k_size), afresh(history, k_size));
  const std::vector<TokenId> other{9, 8, 7};
  EXPECT_EQ(drafter.draft(other, k_size), afresh(other, k_size));
  EXPECT_TRUE(drafter.draft(other, 0).empty());
}

TEST(DraftModel, is_refused_where_its_vocabulary_is_another) {
  Vocabulary served = read_vocabulary(ModelFile::open(PERMLLM_TEST_MODEL));
  const DraftModel& model = smollm2_drafts();
  const std::size_t ids = model.config().vocab;
  model.check(served, ids, "Served");
  const auto refusal = [&](const Vocabulary& vocabulary, std::size_t rows) -> std::string {
    try {
      model.check(vocabulary, rows, "Served\n");
    } catch (const Error& error) {
      EXPECT_EQ(error.field(), "draft_model");
      return error.what();
    }
    return "";
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(refusal(served, ids + 1), "the former has 49152 tokens, the latter 49153"));
  served.tokens[40] = "other";
  served.tokens[41] = "another";
  const std::string why = refusal(served, ids);
  EXPECT_TRUE(has(why, '"' + model.config().name + "\" drafts for \"Served")) << why;
  EXPECT_TRUE(has(why, "token 40 is \"" + read_vocabulary(ModelFile::open(PERMLLM_TEST_MODEL)).tokens[40] +
                           "\" in the former, \"other\" in the latter"))
      << why;
}

struct Spoken {
  std::vector<TokenId> ids;
  std::size_t passes = 0;
  std::vector<std::pair<std::uint16_t, std::size_t>> received;  // tags and sizes of the provider's frames, in order
};

Spoken speak(const Variant& variant, const std::vector<TokenId>& prompt, std::size_t tokens,
             const std::function<std::vector<TokenId>(const std::vector<TokenId>&)>& draft, std::size_t size,
             const UserSession::Choose& choose = greedy) {
  const Plan plan = smollm2_plan(variant, 512);
  Spoken spoken;
  std::vector<Frame> frames;
  Rig rig(smollm2().weights, plan, executor(), 1, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
    return std::make_unique<Recording>(std::move(link), frames);
  });
  rig.deal_for_request(prompt.size(), tokens * (size + 1), plan.hides_positions);
  UserSession& session = rig.user();
  session.prompt(prompt, choose);
  std::vector<TokenId> all = prompt;
  const auto more = [&](TokenId id) {
    spoken.ids.push_back(id);
    all.push_back(id);
    return spoken.ids.size() < tokens;
  };
  for (; spoken.ids.size() < tokens; ++spoken.passes) {
    std::vector<TokenId> known = all;
    known.push_back(session.retrieve_last());
    session.advance(draft(known), more, choose);
  }
  for (const Frame& frame : frames) spoken.received.emplace_back(frame.tag, frame.payload.size());
  return spoken;
}

// How many frames the provider receives before the first that differs by tag or size.
std::size_t begins_alike(const Spoken& a, const Spoken& b) {
  const std::size_t both = std::min(a.received.size(), b.received.size());
  const auto end = a.received.begin() + static_cast<std::ptrdiff_t>(both);
  return static_cast<std::size_t>(std::mismatch(a.received.begin(), end, b.received.begin()).first -
                                  a.received.begin());
}

struct Drafts : testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Profiles, Drafts,
                         testing::Values(Variant{Profile::open, false}, k_hidden_variant,
                                         Variant{Profile::fast, true, Retrieval::linear, true}),
                         [](const auto& variant) { return variant.param.name(); });

TEST_P(Drafts, say_what_a_conversation_without_them_says) {
  const GreedyCase c = greedy_cases()[0];  // whose choices are far apart
  constexpr std::size_t k_size = 3;
  const std::size_t count = GetParam().profile == Profile::open ? 16 : 8;
  const Spoken plain = speak(
      GetParam(), c.prompt_ids, count, [](const auto&) { return std::vector<TokenId>{}; }, 0);
  EXPECT_EQ(plain.passes, count);
  // The best guess there is, a useless one, and one that is right half of the time.
  const auto oracle = [&](const std::vector<TokenId>& known) {
    std::vector<TokenId> draft(
        plain.ids.begin() + static_cast<std::ptrdiff_t>(std::min(known.size() - c.prompt_ids.size(), plain.ids.size())),
        plain.ids.end());
    draft.resize(k_size, 0);
    return draft;
  };
  const Spoken best = speak(GetParam(), c.prompt_ids, count, oracle, k_size);
  EXPECT_EQ(best.ids, plain.ids);
  EXPECT_EQ(best.passes, count / (k_size + 1));
  const Spoken useless = speak(
      GetParam(), c.prompt_ids, count, [](const auto&) { return std::vector<TokenId>(k_size, 17); }, k_size);
  EXPECT_EQ(useless.ids, plain.ids);
  const Spoken half = speak(
      GetParam(), c.prompt_ids, count,
      [&](const auto& known) {
        auto draft = oracle(known);
        draft[1] = 17;
        return draft;
      },
      k_size);
  EXPECT_EQ(half.ids, plain.ids);
  EXPECT_LT(half.passes, useless.passes);
  const Spoken lookup = speak(
      GetParam(), c.prompt_ids, count, [](const auto& known) { return draft_by_lookup(known, k_size); }, k_size);
  EXPECT_EQ(lookup.ids, plain.ids);
  // Every pass looks the same to the provider, however many of its rows were kept.
  EXPECT_EQ(begins_alike(best, useless), best.received.size());

  // Another prompt of the same length, nothing of whose drafts holds.
  std::vector<TokenId> other = greedy_cases()[1].prompt_ids;
  other.resize(c.prompt_ids.size(), 11);
  const Spoken rejected = speak(
      GetParam(), other, count, [](const auto&) { return std::vector<TokenId>(k_size, 17); }, k_size);
  EXPECT_EQ(rejected.passes, count);
  EXPECT_EQ(begins_alike(best, rejected), best.received.size());
  // Blocks whose length went by what was kept would be told apart.
  std::size_t tokens = 0;
  const Spoken telling = speak(
      GetParam(), other, count,
      [&](const auto& known) {
        const bool kept = known.size() > std::exchange(tokens, known.size()) + 1;
        return std::vector<TokenId>(kept ? k_size : k_size - 1, 17);
      },
      k_size);
  EXPECT_LT(begins_alike(best, telling), best.received.size());
}

// Tokens that are taken back are dead keys, which the provider does not know of: what is said behind them is what a new conversation says.
TEST_P(Drafts, what_is_taken_back_is_not_heard_of_again) {
  const auto cases = greedy_cases();
  const Plan plan = smollm2_plan(GetParam());
  const std::vector<TokenId> first = cases[4].prompt_ids, second = cases[1].prompt_ids;
  constexpr std::size_t k_kept = 3;
  const auto answer = [&](UserSession& session, const std::vector<TokenId>& prompt) {
    session.prompt(prompt, greedy);
    std::vector<TokenId> ids;
    const auto more = [&](TokenId id) {
      ids.push_back(id);
      return ids.size() < 6;
    };
    while (ids.size() < 6) session.advance(std::vector<TokenId>{17, 17}, more, greedy);
    return ids;
  };
  std::vector<TokenId> together(first.begin(), first.begin() + k_kept);
  together.insert(together.end(), second.begin(), second.end());
  Rig fresh(smollm2().weights, plan, executor(), 1);
  fresh.deal_for_request(together.size(), 19, plan.hides_positions);
  std::vector<Frame> frames;
  Rig rig(smollm2().weights, plan, executor(), 2, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
    return std::make_unique<Recording>(std::move(link), frames);
  });
  rig.deal_for_request(first.size() + second.size(), 37, plan.hides_positions);
  answer(rig.user(), first);
  const std::size_t sent = frames.size();
  rig.user().rewind(k_kept);
  EXPECT_EQ(rig.user().length(), k_kept);
  EXPECT_EQ(frames.size(), sent);
  EXPECT_EQ(answer(rig.user(), second), answer(fresh.user(), together));
}

// The control: where positions are not hidden the provider is told.
TEST(DraftsControl, tokens_taken_back_are_told_where_positions_are) {
  const Plan plan = smollm2_plan({Profile::paper, true});
  std::vector<Frame> frames;
  Rig rig(smollm2().weights, plan, executor(), 2, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
    return std::make_unique<Recording>(std::move(link), frames);
  });
  rig.deal_for_pass(5, true);
  rig.user().prompt(std::vector<TokenId>{1, 2, 3, 4, 5}, greedy);
  const std::size_t sent = frames.size();
  rig.user().rewind(3);
  rig.user_channel().flush();
  EXPECT_EQ(frames.size(), sent + 1);
}

// Conversations without drafts under the same plan, and the two in turn.
TEST_P(Drafts, are_a_users_choice) {
  const GreedyCase c = greedy_cases()[1];
  const Plan plan = smollm2_plan(GetParam());
  Rig rig(smollm2().weights, plan, executor());
  rig.deal_for_request(c.prompt_ids.size(), 24, plan.hides_positions);
  rig.user().prompt(c.prompt_ids, greedy);
  std::vector<TokenId> ids;
  const auto more = [&](TokenId id) {
    ids.push_back(id);
    return true;
  };
  while (ids.size() < 3) rig.user().advance(more, greedy);
  while (ids.size() < 6) rig.user().advance(std::vector<TokenId>{17, 17}, more, greedy);
  rig.user().advance(more, greedy);
  EXPECT_EQ(ids, std::vector<TokenId>(c.float_ids.begin(), c.float_ids.begin() + 7));
}

// With a temperature the same draws choose the same tokens, with drafts as without.
TEST(OpenDrafts, choose_the_same_tokens_by_the_same_draws) {
  const GreedyCase c = greedy_cases()[4];
  constexpr std::size_t k_tokens = 12, k_size = 3;
  const auto answer = [&](const std::function<std::vector<TokenId>(const std::vector<TokenId>&)>& draft,
                          std::size_t size) {
    Sampler sampler({.temperature = 1, .top_k = 3, .seed = 4});  // of more, some are so near that a rounding swaps them
    const int unit = smollm2_plan({Profile::open, false}, 512).choice_frac();
    return speak({Profile::open, false}, c.prompt_ids, k_tokens, draft, size,
                 [&](std::span<const std::int64_t> logits) { return sampler.choose(logits, unit); });
  };
  const Spoken plain = answer([](const auto&) { return std::vector<TokenId>{}; }, 0);
  ModelDrafter drafter(smollm2_drafts(), executor());
  const Spoken drafted = answer([&](const auto& known) { return drafter.draft(known, k_size); }, k_size);
  EXPECT_EQ(drafted.ids, plain.ids);
  EXPECT_LT(drafted.passes, plain.passes);
}

}  // namespace
}  // namespace permllm::test
