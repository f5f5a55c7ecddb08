// What moves a choice among logits that have names.
#include "user/named_choice.h"

#include <gtest/gtest.h>

#include <cmath>

namespace permllm {
namespace {

constexpr int k_frac = 8;

const Tokenizer& tokenizer() {
  static const Tokenizer shared([] {
    Vocabulary v;
    v.model = "llama";
    v.tokens = {"<unk>", "<s>", "</s>", "a", "b", "c", "d"};
    v.types = {k_unknown, k_control, k_control, k_normal, k_normal, k_normal, k_normal};
    v.scores.assign(v.tokens.size(), 0);
    v.bos = 1;
    v.eos = 2;
    return v;
  }());
  return shared;
}

// In vocabulary order, of a, b, c and d.
std::vector<std::int64_t> logits(std::initializer_list<double> of) {
  std::vector<std::int64_t> all(3, -100 << k_frac);
  for (const double x : of) all.push_back(std::llrint(std::ldexp(x, k_frac)));
  return all;
}

std::string choose(const AnswerOptions& how, const std::vector<std::int64_t>& among,
                   const std::vector<TokenId>& prompt = {}, const std::vector<TokenId>& answer = {}) {
  Sampler sampler({});
  NamedChoice choice(how, tokenizer(), sampler);
  return std::string(tokenizer().bytes(static_cast<TokenId>(choice.choose(among, k_frac, prompt, answer))));
}

TEST(NamedChoice, is_the_best_where_nothing_moves_it) {
  Sampler sampler({});
  EXPECT_FALSE(NamedChoice({}, tokenizer(), sampler).wanted());
  EXPECT_EQ(choose({}, logits({1, 3, 2, 0})), "b");
}

TEST(NamedChoice, a_bias_is_added_to_its_tokens_logit) {
  AnswerOptions how;
  how.logit_bias = {{4, -1.5}};
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0})), "c");
  how.logit_bias = {{4, -0.5}, {99, 100}};  // one that is none of the vocabulary changes nothing
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0})), "b");
  how.logit_bias = {{6, 100}};
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0})), "d");
}

TEST(NamedChoice, penalties_count_what_the_answer_has_said) {
  AnswerOptions how;
  how.frequency_penalty = 0.6;
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0}), {4, 4, 4, 4}, {4}), "b");  // the question does not count
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0}), {}, {4, 4}), "c");
  how = {};
  how.presence_penalty = 0.6;
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0}), {}, {4, 4, 4}), "b");  // once, however often
  how.presence_penalty = 1.1;
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0}), {}, {4}), "c");
  how.presence_penalty = -1.1;
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0}), {}, {5}), "c");
}

TEST(NamedChoice, repetition_divides_logits_above_0_and_multiplies_those_below) {
  AnswerOptions how;
  how.repetition_penalty = 2;
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0}), {4}), "c");  // the question counts, too
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0}), {}, {4, 5}), "b");
  EXPECT_EQ(choose(how, logits({-3, -1, -1.5, -4}), {}, {4}), "c");
}

TEST(NamedChoice, tells_the_likeliest_by_the_model_itself) {
  AnswerOptions how;
  how.top_logprobs = 2;
  how.logit_bias = {{6, 100}};
  Sampler sampler({});
  const auto told = NamedChoice(how, tokenizer(), sampler).likeliest(logits({1, 3, 2, 0}), k_frac);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0].bytes, "b");
  EXPECT_EQ(told[1].bytes, "c");
  const double sum = std::exp(1) + std::exp(3) + std::exp(2) + 1;
  EXPECT_NEAR(told[0].log_probability, 3 - std::log(sum), 1e-9);
  EXPECT_NEAR(told[1].log_probability, 2 - std::log(sum), 1e-9);
}

// A form and a bias at once: what may not follow is not chosen, whatever its logit.
TEST(NamedChoice, a_form_bars_tokens) {
  struct Only : AnswerForm {
    bool may_follow(std::string_view bytes) const override { return bytes == "a" || bytes == "d"; }
    void add(std::string_view) override {}
    bool may_end() const override { return false; }
    bool is_over() const override { return false; }
  };
  AnswerOptions how;
  how.form = std::make_shared<Only>();
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0})), "a");
  how.logit_bias = {{6, 2}};
  EXPECT_EQ(choose(how, logits({1, 3, 2, 0})), "d");
}

}  // namespace
}  // namespace permllm
