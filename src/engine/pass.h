// One pass over new tokens, as provider and user agree on it.
#pragma once

#include "engine/transformer.h"
#include "wire/message.h"

namespace permllm {

struct PassBegin {  // user -> provider
  static constexpr Tag tag = Tag::pass_begin;
  enum Kind : std::uint8_t {
    prompt = 1,    // tokens of a prompt: their one-hots follow
    sampled = 2,   // the token that was sampled last
    retrieve = 3,  // no pass: only the id of the token that was sampled last
  };
  static constexpr std::size_t k_bytes = 5;
  std::uint8_t kind = prompt;
  std::uint32_t tokens = 1;
  template <class Io>
  void visit(Io& io) {
    io.number("kind", kind);
    io.number("tokens", tokens);
  }
};

// How much of the chain is used. Both sides advance it when a pass begins, so that a pass that is given up leaves no doubt
// about what it burnt.
struct Progress {
  Batch entry, slot, pass;

  void begin(const PassBegin& begin) {
    entry = {entry.index(entry.count), begin.kind == PassBegin::prompt ? begin.tokens : 0};
    slot = {slot.index(slot.count), begin.tokens};
    pass = {pass.index(pass.count), 1};
  }
  Batch of(Part::Kind kind) const {
    return kind == Part::Kind::entry ? entry : kind == Part::Kind::slot ? slot : pass;
  }
};

}  // namespace permllm
