// Chooses a token where each logit is known to be a token's: the answer may be held to a form, and logits may be moved.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "model/tokenizer.h"
#include "permllm/client.h"
#include "user/sampler.h"

namespace permllm {

class NamedChoice {
 public:
  // All references outlive the object.
  NamedChoice(const AnswerOptions& how, const Tokenizer& tokenizer, Sampler& sampler);

  // Whether anything but the logits themselves has a say.
  bool wanted() const;
  // A token's id. logits: in vocabulary order, in units of 2^-frac; prompt, answer: the tokens before it.
  std::size_t choose(std::span<const std::int64_t> logits, int frac, std::span<const TokenId> prompt,
                     std::span<const TokenId> answer);
  // The likeliest tokens by the model itself, the best first.
  std::vector<Answer::Chance> likeliest(std::span<const std::int64_t> logits, int frac) const;

 private:
  bool moves() const;
  void move(std::span<std::int64_t> logits, int frac, std::span<const TokenId> prompt,
            std::span<const TokenId> answer) const;
  bool may_follow(std::size_t id) const;
  std::size_t choose_of_form(std::span<const std::int64_t> logits, int frac);

  const AnswerOptions& how_;
  const Tokenizer& tokenizer_;
  Sampler& sampler_;
};

}  // namespace permllm
