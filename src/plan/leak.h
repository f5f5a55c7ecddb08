// What each party is shown under a plan: the one table that says so. The tests hold the boxes against it (tests/protocol/leak_test.cpp) and
// whole passes (tests/parties/views_test.cpp, architectures_test.cpp); inspect, the gateway, docs/guide.md and SECURITY.md are printed from it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "protocol/spec.h"

namespace permllm {

// One thing that one party is shown, beside what is its own.
struct Leak {
  Shown shown;
  Role role;
  const char* box;                   // src/protocol/BOX.h shows it; empty: no box of a pass does
  std::optional<Disguise> disguise;  // of rows that the user sees; none of what is no row
  unsigned profiles;                 // a bit for each: in_profile
  const char* where;                 // further, in words; empty: everywhere
  bool (*holds)(const Plan&);        // the same as a condition; null: everywhere
  const char* sees;                  // behind "the user sees" and the like, for a person
};
constexpr unsigned in_profile(Profile profile) { return 1u << static_cast<unsigned>(profile); }

std::span<const Leak> all_leaks();
// Of these, what one role is shown under a plan.
std::vector<Leak> leaks_of(const Plan& plan, Role role);
// The same in words.
std::vector<std::string> seen_by(Role role, const Plan& plan);

}  // namespace permllm
