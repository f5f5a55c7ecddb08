// The user: joins a session with the provider on one of its chains, has its offline material made, and asks.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "model/chat_format.h"
#include "model/tokenizer.h"
#include "net/resumable.h"
#include "session/greeting.h"
#include "session/ledger.h"
#include "session/report.h"
#include "user/chain_choice.h"
#include "user/filler.h"
#include "user/product_store.h"
#include "user/session.h"

namespace permllm {

// The user's three links. The online link carries the conversation; the other two offline material, and are made when there is some to make.
struct UserLinks {
  std::function<std::unique_ptr<Link>()> online, offline, helper;
  Clock::duration
      grace{};  // how long the online link waits for its next connection when one was lost (net/resumable.h)
};

class UserClient {
 public:
  // Which of the chains a session takes, once its plan is known; null: a new one.
  using Choose = std::function<const ChainChoice*(const Plan&, std::span<const ChainChoice>)>;
  // For a prompt in general.
  static const ChainChoice* any_chain(const Plan& plan, std::span<const ChainChoice> chains) {
    return best_chain(plan, chains, {});
  }

  // Handshakes with the provider; of a new chain also with the helper. The ledger outlives the client; where it is a file, so does the chain. drafts: as
  // plan_of_session. products: what there is for the check of products (Plan::checked), and where it is kept; it outlives the client. Null: for this
  // session alone. Errors: mismatch (names both values), closed, timeout; those of plan_of_session and of ProductStore.
  UserClient(const UserLinks& links, Ledger& ledger, Executor& executor, Clock::duration patience,
             const Choose& choose = any_chain, bool drafts = false, ProductStore* products = nullptr);
  ~UserClient();
  UserClient(const UserClient&) = delete;
  UserClient& operator=(const UserClient&) = delete;

  // Its plan is the session's.
  const Card& card() const { return card_; }
  UserSession& session() { return *session_; }
  std::uint64_t chain() const { return record_.chain; }
  // Slots of the chain that this session may still use.
  std::size_t room() const { return card_.plan.slots - session_->slots(); }

  // Has the material made for a prompt and an answer of at most max_tokens, from what the session has used on, about `ahead` slots ahead of
  // need, and in orders of about that size. in_blocks, here and below: as target_of.
  void make_material(std::size_t prompt_tokens, std::size_t max_tokens, std::size_t ahead, bool in_blocks = false);
  // Makes material for no prompt in particular, up to the marks; returns once the provider says that it has it all. Errors: those of Filler::wait_for and
  // check.
  void fill(const Marks& target, const OnOffline& on_progress);
  // Waits until the provider has material for a prompt and an answer of `tokens`. given_up: whether nobody waits any more; null: somebody does. False:
  // it said so. on_progress, errors: those of Filler::wait_for, and of the session, where the provider ends it meanwhile.
  bool wait_for_material(std::size_t prompt_tokens, std::size_t tokens, const OnOffline& on_progress = nullptr,
                         bool in_blocks = false, const std::function<bool()>& given_up = nullptr);
  // To be called before a pass behind the prompt's: waits for the material of so many tokens, `heads` of which are sampled from. False, errors: as
  // above; nothing is burnt then.
  bool wait_for_pass(std::size_t tokens, std::size_t heads = 1, bool in_blocks = false,
                     const std::function<bool()>& given_up = nullptr);
  const Filler& filler() const { return *filler_; }

  // Payload bytes of product keys that this session had from the helper.
  std::uint64_t product_key_bytes() const { return product_key_bytes_; }

  // Time spent waiting for the provider online.
  double waited_seconds() const { return online_->waited_seconds(); }

  // Ends the session and asks the provider, and the helper where it took part, for their reports.
  struct Reports {
    PartyReport provider;
    std::optional<PartyReport> helper;
  };
  Reports end();

 private:
  Digest receive_public_part();
  void get_product_keys(const Digest& public_part);
  bool wait_for(const Marks& needed, const OnOffline& on_progress, const std::function<bool()>& given_up);
  void take_chain(const std::vector<ChainRecord>& before, const Choose& choose);

  Ledger& ledger_;
  std::unique_ptr<ResumableLink> online_link_;
  std::unique_ptr<Channel> online_;
  Card card_;
  Ledger::Hold hold_;  // keeps other programs of this user off the chain; let go of after burning_ has written its last
  ChainRecord record_;
  Accepted accepted_;
  PublicPart public_;  // profile open
  ProductStore own_products_;
  ProductStore& products_;
  std::optional<ProductKeys> product_keys_;  // of a checked plan
  std::uint64_t product_key_bytes_ = 0;
  std::unique_ptr<ReadableStream> mask_stream_;
  Weights<StreamedMatrix> u_;
  std::optional<BfvUser> bfv_;
  std::unique_ptr<AesCoins> coins_;
  std::optional<Burning> burning_;
  std::unique_ptr<Filler> filler_;
  std::unique_ptr<UserSession> session_;
};

// What the provider says of itself and of the user's chains, without a session. Errors: closed, timeout.
Card read_card(const UserLinks& links, Clock::duration patience);

// The orders for a prompt of n tokens and an answer of at most m on a new chain.
std::vector<PackOrder> orders_for(const Plan& plan, std::size_t prompt_tokens, std::size_t max_tokens,
                                  bool in_blocks = false);

}  // namespace permllm
