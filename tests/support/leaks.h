// What a user told its observer over passes, beside what the table of leaks says of the plan.
#pragma once

#include <set>
#include <utility>

#include "plan/leak.h"
#include "protocol/roles.h"

namespace permllm::test {

// Rows that the user sees: what, and how disguised.
using SeenRows = std::set<std::pair<Shown, Disguise>>;

inline SeenRows declared_rows(const Plan& plan) {
  SeenRows rows;
  for (const Leak& leak : leaks_of(plan, Role::user)) {
    if (leak.disguise) rows.insert({leak.shown, *leak.disguise});
  }
  return rows;
}
inline void add_to(SeenRows& rows, const Seen& seen) { rows.insert({seen.shown, seen.disguise}); }

}  // namespace permllm::test
