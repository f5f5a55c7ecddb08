// What state the making of a chain's material is in, and what is to be done next.
#pragma once

#include <optional>

#include "page/pack.h"
#include "plan/marks.h"

namespace permllm {

inline constexpr std::uint32_t k_least_order =
    64;  // fewer pieces are not worth the trip of an order, unless somebody waits for them
inline constexpr std::uint32_t k_smallest_order =
    16;  // orders are halved down to so many pieces where the provider has no room; then the filling fails

// The orders that take a chain from `made` to `target`, in the order of need: lists of batches of at most deal_batch pieces. The last pass of
// the target goes with its last slot. The first tokens of a prompt need entries.
std::vector<PackOrder> orders_between(const Plan& plan, const Marks& made, const Marks& target);

// Apart -> connected with the first order, and back once all is made and nobody asked for a while; failed until it is tried anew; stopped for good.
struct FillingState {
  enum class Phase { apart, connected, failed, stopped };
  struct Step {
    enum Kind {
      wait,    // until more is wanted, room was made, or a failed filling is tried anew
      make,    // have `order` made
      finish,  // take leave of provider and helper
      leave,   // end the filling's thread
    };
    Kind kind = wait;
    std::optional<PackOrder> order = {};
    bool operator==(Kind other) const { return kind == other; }
  };
  Phase phase = Phase::apart;
  bool ending = false;    // no further order is to be made
  Marks made, target;     // of the chain; how far it is wanted
  Marks used, needed;     // how far it is used; how far somebody waits for it
  std::size_t ahead = 0;  // slots that are made ahead of use
  std::size_t order = 0;  // pieces of an order at most

  // The order that comes next, of no more pieces than may be made ahead of use, or than somebody waits for: of a kind that somebody waits for, if
  // there is one. None: all is made, or no more may be.
  std::optional<PackOrder> next(const Plan& plan) const;
  Step step(const Plan& plan) const;
};

}  // namespace permllm
