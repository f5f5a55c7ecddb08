// What provider and user say to each other first: the card, and on which chain they go on (docs/wire.md 3).
#pragma once

#include <bit>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "plan/marks.h"
#include "plan/plan_io.h"
#include "session/fields.h"

namespace permllm {

template <class Io>
void visit(Io& io, Vocabulary& v) {
  const auto text = [](auto& out, std::string& token) { out.text("vocabulary.token", token, k_token_limit); };
  const auto flag = [&](const char* field, bool& value) { visit_flag(io, field, value); };
  io.text("vocabulary.model", v.model, k_pre_limit);
  io.text("vocabulary.pre", v.pre, k_pre_limit);
  io.list("vocabulary.tokens", v.tokens, k_most_tokens, text);
  io.list("vocabulary.types", v.types, k_most_tokens, [](auto& out, std::uint32_t& type) { out.number("type", type); });
  io.list("vocabulary.scores", v.scores, k_most_tokens, [](auto& out, float& score) {
    auto bits = std::bit_cast<std::uint32_t>(score);
    out.number("score", bits);
    score = std::bit_cast<float>(bits);
  });
  io.list("vocabulary.merges", v.merges, k_most_tokens, text);
  bool has_bos = v.bos.has_value();
  flag("vocabulary.has_bos", has_bos);
  TokenId bos = v.bos.value_or(0);
  io.number("vocabulary.bos", bos);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (!has_bos && bos != 0) io.refuse("vocabulary.bos", "expected 0 where there is none");
  }
  v.bos = has_bos ? std::optional(bos) : std::nullopt;
  io.number("vocabulary.eos", v.eos);
  io.list("vocabulary.ends", v.ends, 16, [](auto& out, TokenId& id) { out.number("end", id); });
  flag("vocabulary.add_bos", v.add_bos);
  flag("vocabulary.add_space_prefix", v.add_space_prefix);
  flag("vocabulary.remove_extra_whitespaces", v.remove_extra_whitespaces);
  io.text("vocabulary.charsmap", v.charsmap, k_charsmap_limit);
  io.text("vocabulary.chat_template", v.chat_template, k_template_limit);
}

// user -> provider, first on each of its two links
struct Hello {
  static constexpr Tag tag = Tag::hello;
  enum Purpose : std::uint8_t { online = 1, offline = 2 };
  std::uint8_t purpose = online;
  std::uint64_t session = 0;  // of the session that an offline link joins; 0 online
  template <class Io>
  void visit(Io& io) {
    io.number("purpose", purpose);
    io.number("session", session);
  }
};

// What a provider has of a chain of its user's.
struct ChainState {
  std::uint64_t chain = 0;
  Marks made, burnt;
  bool busy = false;  // another session uses it
  template <class Io>
  void visit(Io& io) {
    io.number("chain", chain);
    made.visit(io);
    burnt.visit(io);
    visit_flag(io, "busy", busy);
  }
};

struct Card;
// Every size and id of a card against the others. The plan is checked by itself, the vocabulary's texts by the tokenizer that is made of them. A vocabulary
// may be empty: then a conversation is of ids alone. Errors: malformed, naming the field and what was expected.
void check(const Card& card);

// provider -> user: what the user needs to take part, all of it public but U's seed
struct Card {
  static constexpr Tag tag = Tag::card;
  std::uint64_t session = 0;
  std::string model_id;  // salted commitment to the weights
  Plan plan;             // of a session that hides no positions
  Vocabulary vocabulary;
  Seed model_mask;                      // expands U
  std::uint64_t tokens_left = 0;        // of the user's allowance
  std::vector<ChainState> chains = {};  // of this user and this model, of sessions that hide positions and others
  HiddenPositions hidden_positions = HiddenPositions::off;
  static constexpr std::size_t k_most_chains = 1000;
  static constexpr std::size_t k_most = std::size_t{64}
                                        << 20;  // a vocabulary of 262,144 tokens and twice as many merges has 14 MB
  template <class Io>
  void visit(Io& io) {
    io.number("session", session);
    io.text("model_id", model_id, 64);
    permllm::visit(io, plan);
    permllm::visit(io, vocabulary);
    permllm::visit(io, model_mask);
    io.number("tokens_left", tokens_left);
    io.list("chains", chains, k_most_chains, [](auto& out, ChainState& chain) { chain.visit(out); });
    visit_choice(io, "hidden_positions", hidden_positions, 3);
    if constexpr (std::is_same_v<Io, Reader>) check(*this);
  }
};

// user -> provider: the plan of the session, by the hash that the user computed from the card's, with positions hidden or not; and the session's chain:
// one of the card's that was begun under this plan, or a new one of a number that the user drew
struct Agreement {
  static constexpr Tag tag = Tag::agreement;
  std::string plan_hash;
  std::uint64_t chain = 0;
  bool keep = false;    // the chain outlives the session, as far as the provider keeps chains
  bool paired = false;  // the user has the seed of this chain that it agreed on with the helper
  Marks burnt = {};     // by the user's ledger
  template <class Io>
  void visit(Io& io) {
    io.text("plan_hash", plan_hash, 64);
    io.number("chain", chain);
    visit_flag(io, "keep", keep);
    visit_flag(io, "paired", paired);
    burnt.visit(io);
  }
};

// provider -> user: the session, or a filling of its chain, begins.
struct Accepted {
  static constexpr Tag tag = Tag::accepted;
  bool paired =
      false;  // both have their seeds with the helper and go on with them; else they agree new ones, and nothing is made yet
  Marks made = {}, burnt = {};  // burnt: by the later of both ledgers
  template <class Io>
  void visit(Io& io) {
    visit_flag(io, "paired", paired);
    made.visit(io);
    burnt.visit(io);
  }
};
// The user's: marks beyond the chain are malformed.
Accepted receive_accepted(Channel& provider, const Plan& plan);

}  // namespace permllm
