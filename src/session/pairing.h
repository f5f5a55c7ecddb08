// How the helper brings user and provider of a session together, and which seeds they have by it (docs/wire.md 3).
#pragma once

#include <string>

#include "session/fields.h"

namespace permllm {

// user or provider -> helper: which session, chain and model, and this side's half of their common seed; of a chain that has one, the
// seed itself: the helper keeps none
struct PairHello {
  static constexpr Tag tag = Tag::pair_hello;
  std::uint64_t session = 0;
  std::string
      user;  // of the provider: the key of the session's user (Peer::key); of the user: empty, its connection says who it is
  std::string model_id, plan_hash;
  std::uint64_t chain = 0;
  bool whole = false;  // seed is the common seed, not a half
  Seed seed;
  template <class Io>
  void visit(Io& io) {
    io.number("session", session);
    io.text("user", user, 64);
    io.text("model_id", model_id, 64);
    io.text("plan_hash", plan_hash, 64);
    io.number("chain", chain);
    visit_flag(io, "whole", whole);
    permllm::visit(io, seed);
  }
};

// helper -> user and provider, once both are there: a digest of the seed that it has with the other. In all fillings of a chain it is the
// same: two chains of one seed at one side and different ones at the other would tell of masks.
struct Paired {
  static constexpr Tag tag = Tag::paired;
  Digest other{};
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, other);
  }
};
Digest seed_digest(const Seed& seed, std::uint64_t chain);

struct
    PairAccepted {  // helper -> user or provider: the helper's half of the seed; not used where the hello had the whole seed
  static constexpr Tag tag = Tag::pair_accepted;
  Seed half;
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, half);
  }
};

// The seed of two parties: from their halves, bound to session, chain, model and plan; or the one that the hello has whole.
Seed common_seed(const Seed& helper, const char* domain, const PairHello& hello);

}  // namespace permllm
