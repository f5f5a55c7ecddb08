// What the conversations of a Client share.
#pragma once

#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "permllm/client.h"
#include "user/draft_model.h"
#include "user/links.h"
#include "user/measure.h"
#include "user/user_state.h"

namespace permllm {

struct Client::State {
  State(const std::filesystem::path& invite, const ClientOptions& options);
  UserLinks links(UserTraffic& counted) {
    UserLinks all = links_of(invite, {}, options.patience, counted, &traffic);
    all.grace = options.grace;
    return all;
  }
  // Takes over what a card says of the chains; not its count of tokens, which is exact only before the first session: those under way are charged ahead.
  void know(const Card& card) {
    const Lock lock(mutex);
    ready.clear();
    for (const Chain& chain : chains_of(card)) ready[chain.number] = chain.tokens;
  }
  // Its plan is that of this client's sessions. Errors: those of a peer, and of plan_of_session.
  Card read_card();
  // Of sessions under the card's plan.
  std::vector<Chain> chains_of(const Card& card);
  // Errors: those of ChatFormat::chosen.
  ChatFormat format(const ConversationOptions& with);
  // Ids of a whole conversation, up to where the answer begins.
  std::vector<TokenId> encode(const std::vector<Message>& messages, const ConversationOptions& with);
  void set_ready(std::uint64_t chain, std::size_t tokens) {
    const Lock lock(mutex);
    ready[chain] = tokens;
  }
  // So much of the allowance is used.
  void use_tokens(std::uint64_t number) {
    std::uint64_t left = tokens_left;
    while (!tokens_left.compare_exchange_weak(left, left - std::min(left, number))) {
    }
  }

  Invite invite;
  Ledger ledger;
  ProductStore products;
  ClientOptions options;
  Executor executor;
  UserTraffic traffic;  // what the links of all conversations carried
  UserTraffic spent;    // what links carried that belong to no conversation: cards, material for nobody's question
  Party provider{invite.provider_address, invite.provider_pin}, helper{invite.helper_address, invite.helper_pin};
  std::string plan_hash;
  Model model;
  Views views;
  Vocabulary vocabulary;
  std::optional<Tokenizer> tokenizer;
  std::optional<DraftModel> draft_model;
  Mutex long_text;                             // held while a long text is cut into tokens: one at a time
  std::atomic<std::uint64_t> tokens_left = 0;  // of answers
  Mutex mutex;
  std::map<std::uint64_t, std::size_t> ready GUARDED_BY(mutex);  // tokens of each chain
  std::optional<ChatFormat> own_format GUARDED_BY(mutex);        // the model's, once it was asked for
};

// The library's own figures in the types of its public interface.
AnswerProgress progress_of(const OfflineProgress& made);
Answer::Bytes bytes_of(const permllm::Traffic& traffic);
// How many tokens of a question and its answer this much material serves. A question takes entries where the weights are not public, an answer takes
// passes, and both take slots.
std::size_t tokens_of(const Plan& plan, const Marks& made);

}  // namespace permllm
