// The user's side of one conversation: prompt in, tokens out.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/pass.h"
#include "model/tokenizer.h"

namespace permllm {

class UserSession {
 public:
  // Chooses a position among the logits (units of frac::logit, unknown order and level).
  using Choose = std::function<std::size_t(std::span<const std::int64_t>)>;

  UserSession(const Plan& plan, Channel& provider, Coins& coins);

  // Feeds prompt tokens in one pass; a token is sampled. Errors: usage when the chain has no room (both numbers).
  void prompt(std::span<const TokenId> tokens, const Choose& choose);
  // Feeds the token that was sampled last. Its id is known at once and given to `more`; when that returns false the pass
  // is given up (its slot is burnt), otherwise it is completed and the next token sampled. Returns the id.
  TokenId advance(const std::function<bool(TokenId)>& more, const Choose& choose);
  // The id of the token that was sampled last, without feeding it.
  TokenId retrieve_last();

  // Slots used so far.
  std::size_t slots() const { return timeline_.slots(); }
  void observe(std::function<void(const Seen&)> observer) { user_.observe = std::move(observer); }

 private:
  void begin(PassBegin begin);
  void run(const Mask& rows, const Choose& choose);
  void give_up();

  const Plan& plan_;
  Weights<NoMatrix> none_;
  Timeline timeline_;
  std::vector<UserKeys> keys_;
  User user_;
  Progress progress_;
  Sampled<Mask> sampled_;
};

}  // namespace permllm
