// One pass over new tokens, as provider and user agree on it.
#pragma once

#include <functional>

#include "page/transformer.h"
#include "plan/marks.h"
#include "wire/message.h"

namespace permllm {

// Rows of a pass whose logits are wanted, at most: each costs words of the whole vocabulary, several times over.
inline constexpr std::size_t k_most_heads = 64;

struct PassBegin {  // user -> provider
  static constexpr Tag tag = Tag::pass_begin;
  enum Kind : std::uint8_t {
    prompt = 1,    // tokens of a prompt: their one-hots follow
    sampled = 2,   // the token that was sampled last
    retrieve = 3,  // no pass: only the id of the token that was sampled last
    rows = 4,      // profile open: rows that the user hands over follow
    rewind = 5,  // no pass: the first `tokens` live slots stay, the others become dead; not where positions are hidden
    block =
        6,  // hidden positions: as prompt, and the ids of the tokens that the last `heads` rows sample are retrieved at once
  };
  static constexpr std::size_t k_bytes = 13;
  std::uint8_t kind = prompt;
  std::uint32_t tokens = 1;  // rows of the pass
  std::uint32_t dead = 0;    // of these: dead slots of a prompt that attends both ways, the last of its slots
  std::uint32_t heads =
      1;  // the last rows of the pass whose logits are wanted; more than one of kinds rows and block alone
  bool is_pass() const { return kind != retrieve && kind != rewind; }  // the others use nothing of the chain
  bool feeds() const { return kind == prompt || kind == block; }       // whether one-hots follow
  template <class Io>
  void visit(Io& io) {
    io.number("kind", kind);
    io.number("tokens", tokens);
    io.number("dead", dead);
    io.number("heads", heads);
  }
};

// The slots of a pass join the timeline.
inline void append(Timeline& timeline, const PassBegin& begin, const Plan& plan) {
  for (std::size_t i = 0; i < begin.tokens; ++i)
    timeline.append(begin.dead == 0 || i >= plan.prompt_slots || i < plan.prompt_slots - begin.dead);
}

// How much of the chain is used. Both sides advance it when a pass begins, so that a pass that is given up leaves no doubt
// about what it burnt.
struct Progress {
  Batch entry, slot, pass;

  void begin(const PassBegin& begin) {
    entry = {entry.index(entry.count), begin.feeds() ? begin.tokens : 0};
    slot = {slot.index(slot.count), begin.tokens};
    pass = {pass.index(pass.count), begin.heads};
  }
  // From a chain that is burnt so far.
  explicit Progress(const Marks& burnt = {})
      : entry{burnt[k_entry_kind], 0}, slot{burnt[k_slot_kind], 0}, pass{burnt[k_pass_kind], 0} {}
  Marks marks(const Plan& plan) const {
    const auto end = [](const Batch& batch) { return batch.index(batch.count); };
    return {{end(slot), end(entry), end(pass), plan.bfv() ? end(pass) : 0}};
  }
  Batch of(Part::Kind kind) const { return kind == Part::Kind::entry ? entry : kind == Part::Kind::slot ? slot : pass; }
};

// A prompt's entries, as many together as k_cut_bytes hold one-hots of, at least one: a provider has words of so many at a time.
inline std::vector<Batch> together(const Plan& plan, Batch entries) {
  const std::size_t most =
      std::max<std::size_t>(1, k_cut_bytes / cost(one_hot_shape(plan), {0, 1}).online.user_to_provider);
  std::vector<Batch> batches;
  for (std::size_t at = 0; at < entries.count; at += most)
    batches.push_back({entries.index(at), std::min(most, entries.count - at)});
  return batches;
}
template <class Value>
void append(Value& rows, Value more) {
  if (rows.words.empty()) return void(rows = std::move(more));
  rows.words.insert(rows.words.end(), more.words.begin(), more.words.end());
}

// Told before anything is made of the pieces in front of the marks: they are burnt when it returns. What it throws ends the pass before it
// begins.
using Burn = std::function<void(const Marks&)>;

}  // namespace permllm
