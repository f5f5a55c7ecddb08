// The user's side of one conversation: prompt in, tokens out.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "model/tokenizer.h"
#include "page/pass.h"
#include "user/clear_side.h"

namespace permllm {

class UserSession {
 public:
  // Chooses a position among the logits (units of 2^-Plan::choice_frac(), unknown order and level; in profile open the position
  // is the id).
  using Choose = std::function<std::size_t(std::span<const std::int64_t>)>;
  using Behind = std::function<void(std::size_t)>;
  using Done = std::function<void()>;

  // part: of profile open, bfv: where tokens are retrieved so (Plan::bfv), else null. All references outlive the session. The chain is burnt up
  // to `burnt`; each pass burns more of it by `burn`.
  // keys: of a checked plan, else null.
  UserSession(const Plan& plan, Channel& provider, Coins& coins, Executor& executor, const PublicPart* part = nullptr,
              BfvUser* bfv = nullptr, const Marks& burnt = {}, Burn burn = nullptr, const ProductKeys* keys = nullptr);

  // Feeds prompt tokens in one pass; a token is sampled. behind: called behind each layer. Errors: usage when the chain has no room (both numbers).
  void prompt(
      std::span<const TokenId> tokens, const Choose& choose, const Behind& behind = [](std::size_t) {});
  // Feeds the token that was sampled last. Its id is known at once (retrieved by BFV: behind the first layer) and given to `more`;
  // when that returns false the pass is given up (its slot is burnt), otherwise it is completed and the next token sampled.
  // Returns the id.
  TokenId advance(const std::function<bool(TokenId)>& more, const Choose& choose);
  // As advance, with a draft of what may follow: feeds the sampled token and the draft in one pass, keeps what the model
  // would have said itself, and samples the token after that. `more` is told every token that was fed and kept; the first
  // for which it returns false is the last. done: called when the pass's last message is there, before it is seen which tokens are kept. Only where
  // Plan::takes_drafts: a pass tells the provider nothing of how many were kept.
  void advance(
      std::span<const TokenId> draft, const std::function<bool(TokenId)>& more, const Choose& choose,
      const Done& done = [] {});
  // Profile open: what the head was given of the prompt's last token (ClearSide::hidden_state), from before its logits are chosen among.
  const std::vector<float>& hidden_state() const { return hidden_state_; }
  // The id of the token that was sampled last, without feeding it.
  TokenId retrieve_last();

  // Forgets all but the first n tokens that were fed; a prompt comes next. The slots of the others stay dead. Not in models that take one prompt
  // a conversation (Config::prefix). The provider learns n, but not where Plan::takes_drafts.
  void rewind(std::size_t n);

  // Called with what was wrong, before the Error of a wrong product (Plan::checked) is thrown. No pass can follow.
  void on_wrong_product(std::function<void(const std::string&)> told) { wrong_product_ = std::move(told); }
  // Asked before each pass of profile open; what it throws goes to who asks.
  void before_checked_pass(std::function<void()> ask) { before_checked_pass_ = std::move(ask); }

  // Values beyond their range (docs/protocol.md 2.9) in the passes of the tokens that are kept.
  std::uint64_t beyond() const { return beyond_; }

  // That the checks of products took.
  double check_seconds() const { return clear_ ? clear_->check_seconds() : 0; }

  // Slots used so far, and how much of the chain.
  std::size_t slots() const { return timeline_.slots(); }
  Marks marks() const { return progress_.marks(plan_); }
  // Tokens that were fed and are kept.
  std::size_t length() const { return clear_ ? clear_->length() : timeline_.length(); }
  void observe(std::function<void(const Seen&)> observer) { user_.observe = std::move(observer); }

 private:
  void begin(PassBegin begin);
  std::vector<TokenId> padded(std::span<const TokenId> tokens) const;
  Mask feed(std::span<const TokenId> rows);
  std::vector<TokenId> run_block(std::span<const TokenId> fed, const Choose& choose);
  void run(
      const Mask& rows, const Choose& choose, const Behind& behind = [](std::size_t) {});
  ShownPair run_open(
      std::span<const TokenId> tokens, std::size_t heads, const Behind& behind = [](std::size_t) {});
  void keep(std::size_t n);
  void give_up();
  void skip(std::uint32_t slot);
  void forget_beyond(std::size_t n);

  const Plan& plan_;
  Weights<NoMatrix> none_;
  Timeline timeline_;
  std::vector<UserKeys> keys_;
  User user_;
  Progress progress_;
  Sampled<Mask> sampled_;
  BfvUser* bfv_;
  Burn burn_;
  std::function<void(const std::string&)> wrong_product_;
  std::function<void()> before_checked_pass_;
  std::atomic<std::uint64_t> beyond_ = 0;
  // Of the passes so far: the tokens that were kept before it, and the values beyond their range in the passes before it.
  struct Before {
    std::size_t length;
    std::uint64_t beyond;
  };
  std::vector<Before> passes_;
  std::optional<ClearSide> clear_;  // profile open
  TokenId sampled_id_ = 0;          // profile open, and behind a block
  std::vector<float> hidden_state_;
};

}  // namespace permllm
