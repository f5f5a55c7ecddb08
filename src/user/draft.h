// Drafts of what may follow, made by the user alone: no message.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/tokenizer.h"
#include "plan/plan.h"
#include "user/draft_model.h"

namespace permllm {

// Prompt lookup: what followed the last place where the history's last three (two, one) tokens stood before. Always n
// tokens, whatever was found: a block's size must not tell how good the guess is.
std::vector<TokenId> draft_by_lookup(std::span<const TokenId> history, std::size_t n);

// What is kept of a pass that fed a sampled token and a draft: rows from the first on as long as the token that each row samples by itself is the one
// that the next row was fed. So every token of an answer is a row's own sample, whatever was drafted: the answer has the distribution that it has
// without drafts. `more` is told of each further token that was fed and kept; the first for which it returns false is the last.
struct KeptRows {
  std::size_t rows;
  TokenId sampled;  // by the last of them
};
KeptRows kept_rows(std::span<const TokenId> fed, const std::function<TokenId(std::size_t row)>& sample,
                   const std::function<bool(TokenId)>& more);

// Guesses for one conversation. Which tokens it has been told of before, and which of its guesses held, changes neither how many tokens it puts out
// nor, up to what attention over a longer text takes, how long it takes.
class Drafter {
 public:
  virtual ~Drafter() = default;
  // The longest text, with the draft, that it guesses by.
  virtual std::size_t context() const { return SIZE_MAX; }
  // `history` is fed soon, or stands already: work that can be done ahead of draft() begins, beside the caller.
  virtual void follow(std::span<const TokenId> /*history*/) {}
  // Until that work is done.
  virtual void wait() {}
  // Forgets every text.
  virtual void forget() {}
  // n tokens that may follow.
  virtual std::vector<TokenId> draft(std::span<const TokenId> history, std::size_t n) = 0;
  // The share of drafted tokens that are kept, as it is assumed of any text.
  virtual double acceptance() const = 0;
};

// By the text alone.
class LookupDrafter : public Drafter {
 public:
  std::vector<TokenId> draft(std::span<const TokenId> history, std::size_t n) override {
    return draft_by_lookup(history, n);
  }
  double acceptance() const override { return 0.2; }
};

// By a model. Where the text so far says something else, however long what it repeats is, the model is right more often.
class ModelDrafter : public Drafter {
 public:
  // Both outlive the drafter.
  ModelDrafter(const DraftModel& model, Executor& executor) : model_(model), executor_(executor) {}
  std::size_t context() const override { return model_.config().context; }
  void follow(std::span<const TokenId> history) override;
  void wait() override;
  void forget() override;
  std::vector<TokenId> draft(std::span<const TokenId> history, std::size_t n) override;
  double acceptance() const override { return 0.7; }

 private:
  // Forgets what is not the beginning of `history`; returns how much stays.
  std::size_t keep_common(std::span<const TokenId> history);
  // Logits of the last.
  std::vector<float> feed(std::span<const TokenId> tokens);

  const DraftModel& model_;
  Executor& executor_;
  std::vector<TokenId> fed_;  // what the cache holds
  ReferenceCache cache_;
  std::future<void> ahead_;  // of follow(). The last member: its end is waited for before the others go
};

// How many tokens the drafts of a conversation have. The provider sees it, so it depends on nothing that the text decides: it is fixed, or chosen
// once, by how long the first passes took, three without a draft and three with the longest, and by an acceptance that is assumed of any text.
class DraftLength {
 public:
  static constexpr std::size_t k_most_chosen = 4;

  static DraftLength fixed(std::size_t n) { return DraftLength(n, 0); }
  static DraftLength chosen(double acceptance) { return DraftLength(std::nullopt, acceptance); }

  // Of the next pass; of it and of all to come, the most.
  std::size_t next() const { return length_.value_or(passes_ < k_each ? 0 : k_most_chosen); }
  std::size_t most() const { return length_.value_or(k_most_chosen); }
  // What a pass with a draft of next() tokens took, with the making of the draft.
  void note(double seconds);

 private:
  static constexpr std::size_t k_each = 3;  // passes that are timed

  DraftLength(std::optional<std::size_t> length, double acceptance) : length_(length), acceptance_(acceptance) {}

  std::optional<std::size_t> length_;
  double acceptance_;
  std::size_t passes_ = 0;
  double without_ = 0, with_ = 0;  // seconds, the least of k_each passes
};

// Errors: usage, naming `field`, where a profile has no drafts.
void check_drafts(bool takes_drafts, Profile profile, const char* field);
// The plan of a session under the plan of a card. drafts: whether the user may draft in it, which hides positions in paper and fast. Errors: usage, where the
// provider does not take drafts.
Plan plan_of_session(const Plan& plan, HiddenPositions allowed, bool drafts);

// What a conversation needs for drafts.
struct Drafts {
  std::unique_ptr<Drafter> by;
  DraftLength length;
};
// model: null where there is none; length: none where it is chosen. Model and executor outlive the drafts.
Drafts drafts_of(const DraftModel* model, std::optional<std::size_t> length, Executor& executor);

}  // namespace permllm
