#include "session/greeting.h"

#include <fmt/format.h>

#include <algorithm>

#include "session/ledger.h"

namespace permllm {
namespace {

// No kind of a chain's pieces has more of them than the chain has slots.
void check_marks(const char* field, const Marks& marks, std::size_t most) {
  for (const std::uint32_t mark : marks.first) {
    if (mark > most) throw Error(Code::malformed, field, fmt::format("{}, expected at most {}", mark, most));
  }
}

}  // namespace

void check(const Card& card) {
  const auto refuse = [](const char* field, const std::string& why) {
    throw Error(Code::malformed, std::string("Card.") + field, why);
  };
  const Vocabulary& v = card.vocabulary;
  const std::size_t tokens = v.tokens.size(), rows = card.plan.config.vocab;
  if (card.session == 0) refuse("session", "0, expected any other number");
  if (card.plan.hides_positions) refuse("plan.hides_positions", "1, expected 0: that is a session's choice");
  if (const std::string why = card.plan.why_not_hidden(); card.hidden_positions != HiddenPositions::off && !why.empty())
    refuse("hidden_positions", fmt::format("{}, but {}", name_of(card.hidden_positions), why));
  if (tokens > rows)
    refuse("vocabulary.tokens",
           fmt::format("{} of them, the plan's embedding table has {} rows: each token needs one", tokens, rows));
  if (v.types.size() != tokens)
    refuse("vocabulary.types", fmt::format("{} types for {} tokens", v.types.size(), tokens));
  if (!v.scores.empty() && v.scores.size() != tokens)
    refuse("vocabulary.scores", fmt::format("{} scores for {} tokens", v.scores.size(), tokens));
  const auto check_id = [&](const char* field, TokenId id) {
    if (id >= std::max<std::size_t>(tokens, 1))
      refuse(field, fmt::format("{}, the vocabulary has {} tokens", id, tokens));
  };
  check_id("vocabulary.eos", v.eos);
  if (v.bos) check_id("vocabulary.bos", *v.bos);
  for (const TokenId end : v.ends) check_id("vocabulary.ends", end);
  for (const ChainState& chain : card.chains) {
    check_marks("Card.chains.made", chain.made, card.plan.slots);
    check_marks("Card.chains.burnt", chain.burnt,
                card.plan.slots + Burning::k_stretch);  // burnt ahead of its use, by a process that died then
  }
}

Accepted receive_accepted(Channel& provider, const Plan& plan) {
  const auto accepted = provider.receive(Accepted{});
  check_marks("Accepted.made", accepted.made, plan.slots);
  check_marks("Accepted.burnt", accepted.burnt, plan.slots);
  return accepted;
}

}  // namespace permllm
