// One conversation of one or several turns over a session, under every Conversation of the library; and what each answer cost: the report of `demo`
// and `bench`.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "page/declared.h"
#include "user/draft.h"
#include "user/links.h"

namespace permllm {

class MeasuredConversation {
 public:
  // links: makes the user's links, metered by what it is given. The ledger outlives it. Errors: those of
  // UserClient. wanted: what it is begun for, by the plan; drafts: whether its answers may be drafted.
  using Links = std::function<UserLinks(UserTraffic&)>;
  MeasuredConversation(const Links& links, const LinkShape& shape, Clock::duration patience, Executor& executor,
                       Ledger& ledger, bool drafts, const std::function<Wanted(const Plan&)>& wanted = nullptr,
                       ProductStore* products = nullptr);

  const Card& card() const { return client_.card(); }
  const Plan& plan() const { return client_.card().plan; }
  const Vocabulary& vocabulary() const { return client_.card().vocabulary; }

  struct Request {
    std::vector<TokenId>
        ids;  // of the whole conversation: what it has in common with the turns before is not fed again
    std::size_t max_tokens = 1;
    std::size_t ahead = 256;       // slots of material to make ahead of need
    std::size_t start = SIZE_MAX;  // tokens of the answer whose material is waited for before it begins
    Drafts* drafts =
        nullptr;  // null: none. Only where the plan takes drafts. It outlives the conversation, and is of it alone
    UserSession::Choose choose;
    std::function<bool(TokenId)> on_token;          // false: no more
    std::function<void()> on_ready = nullptr;       // material for the request is there
    std::function<void(double)> on_read = nullptr;  // the share of the model's layers that have read the prompt
    std::function<std::size_t()> rows_left =
        nullptr;                                // that the next pass may have, asked before each; 0: there is none
    OnOffline on_material = nullptr;            // while material is waited for before that
    std::function<bool()> cancelled = nullptr;  // asked while material is waited for; true: no more
  };
  // All of the request's functions are called in the caller's thread. Errors: usage when the request does not fit the chain, or drafts the profile. After
  // another, or where it was cancelled before its first pass, the conversation cannot go on.
  void run(const Request& request);
  // Has the material for a further turn made, where there is room for one, and waits for nothing: of its prompt and the beginning of its answer.
  void prepare(std::size_t prompt_tokens, std::size_t answer_tokens);
  // The longest answer to these ids for which there is room behind what the conversation has used, in passes of at most so many rows; 0: for none.
  std::size_t answer_room(std::span<const TokenId> ids, std::size_t block);
  // The chain, and how much of it is made and not used.
  std::uint64_t chain() const { return client_.chain(); }
  Marks ready() { return between(client_.session().marks(), client_.filler().made()); }
  // Whether there was an answer before; prompt tokens that were fed for the last one.
  bool used() const { return !fed_.empty(); }
  // Whether a pass of the last answer was begun.
  bool began() { return client_.session().slots() > before_; }
  std::size_t prompted() const { return prompted_; }
  // Of the last answer's passes behind the prompt's: how many there were, the tokens that were drafted for them, those that were kept, and the
  // offline material of the rows that were not.
  struct Drafted {
    std::size_t passes = 0, drafted = 0, kept = 0, rejected_bytes = 0;
    std::size_t rejected() const { return drafted - kept; }
  };
  const Drafted& drafted() const { return drafted_; }
  // Tokens of a prompt that were fed before.
  std::size_t in_common(std::span<const TokenId> ids) const;

  // Values beyond their range (docs/protocol.md 2.9) in what the session holds, and the tokens of the last answer before the first of them.
  std::uint64_t out_of_range() { return client_.session().beyond(); }
  std::size_t trusted_tokens() const { return trusted_; }
  // Of the last answer's prompt, profile open: UserSession::hidden_state.
  const std::vector<float>& hidden_state() { return client_.session().hidden_state(); }
  // Whether the last answer ended because there was no material for its next pass and none could be made.
  bool out_of_stock() const { return out_of_stock_; }

  // Ends the session. The report of `--json`, one object.
  nlohmann::json end();
  // The same of the last answer, without what the parties tell at the end.
  nlohmann::json report() const;
  const UserTraffic& traffic() const { return traffic_; }

 private:
  struct Moment {
    Clock::time_point time;
    Traffic online;
    double waited = 0, cpu = 0, checks = 0;
  };
  Moment now();
  // Parts of the report.
  nlohmann::json seconds_json() const;
  nlohmann::json declared_json() const;
  nlohmann::json parties_json(const UserClient::Reports& reports) const;
  double tokens_behind_first() const;  // at least 1
  double slots_wanted() const;         // by the last request: of its prompt and of the longest answer
  std::size_t slots_of(const Request& request) const;
  void pass(const Request& request, std::size_t n, const std::vector<TokenId>& history,
            const std::function<bool(TokenId)>& on_token);
  // Errors: usage, where it does not fit, with rows of its prompt and slots in all, or its drafts do not.
  void check(const Request& request, std::size_t rows, std::size_t slots);
  // Has a request's material made, and waits for the part with which the answer begins; the rest is made beside the answer. prompt: tokens to feed.
  void make_material(const Request& request, std::size_t prompt);
  // Whether the answer's tokens are fed as a prompt's are (PassBegin::block).
  bool in_blocks(const Request& request) const;
  // Whether so many rows more fit the context of the model that drafts. By the slots that are used, of which the text takes some, and not by its own
  // length: the provider sees by the clock when the model is not asked any more.
  bool guesses(const Request& request, std::size_t rows);
  std::size_t room();

  LinkShape shape_;
  UserTraffic traffic_;
  UserClient client_;
  Request request_;
  std::vector<TokenId> fed_;               // tokens that the session holds
  std::size_t prompted_ = 0, before_ = 0;  // prompt tokens that were fed for the last answer; slots used before it
  double offline_before_ = 0;
  std::vector<TokenId> output_;
  std::size_t trusted_ = 0;         // of its tokens
  std::uint64_t out_of_range_ = 0;  // at its end
  bool out_of_stock_ = false;
  bool blocks_ =
      false;  // the last answer was in_blocks() when it began: a length that is chosen meanwhile is of the drafts alone
  Moment begin_, first_, last_;
  // Passes after the prompt's that were completed, the tokens that they kept, and what their links carried.
  std::size_t passes_ = 0, kept_ = 0;
  Cost declared_;  // of these passes
  Drafted drafted_;
  Traffic passes_begin_, passes_end_;
};

}  // namespace permllm
