// Which of its chains a session takes: by what their material serves now, because the helper may be away.
#pragma once

#include <span>

#include "plan/marks.h"
#include "plan/plan.h"

namespace permllm {

// A chain that a session could take, as both ledgers see it.
struct ChainChoice {
  std::uint64_t chain = 0;
  Marks made, burnt;
  // Pieces that are made and not burnt.
  Marks ready() const { return between(burnt, made); }
  bool fresh() const { return burnt == Marks{}; }
};

// What a session is begun for.
struct Wanted {
  std::size_t prompt_tokens = 1;
  std::size_t answer_tokens = 1;  // at most
  std::size_t least = 1;          // tokens of an answer for which a chain must have room
  std::size_t draft = 0;          // drafted tokens a pass
  bool from_stock = false;        // only chains whose material serves the prompt and a token of the answer
};

// Slots that are left behind the marks, with an entry and a pass for each: those are burnt ahead, too.
std::size_t room_behind(const Marks& burnt, std::size_t slots);
// For how many tokens of an answer to the prompt this much material serves, at most answer_tokens; 0: not for the first.
std::size_t answer_served(const Plan& plan, const Marks& ready, const Wanted& wanted);
// Of the chains with room, the one whose material serves most of what is wanted; of several the least burnt, because burnt slots cost memory and
// bytes; then the one with most ready. Null: a new one. Errors: usage (out_of_stock), where from_stock leaves none.
const ChainChoice* best_chain(const Plan& plan, std::span<const ChainChoice> chains, const Wanted& wanted);

}  // namespace permllm
