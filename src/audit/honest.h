// What an honest user of a plan can take who has one prompt answered again and again, each time in a session of its own: measured on the simulation of
// what such a user sees (audit/witness.h). Where it says "limit", the attacker is given what it would have to find first (which place is which), so no
// attack of that kind does better. An attack that fails proves nothing about others.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "audit/subject.h"

namespace permllm {

// A share of variance, and what chance may make of it (five standard deviations).
struct Explained {
  double share = 0, chance = 0;
  bool found() const { return share > chance; }
};

// What the user's own bits tell. Check 1.
struct OwnBits {
  std::size_t rows = 0;
  // Of the row behind the first layer's attention: how far a value moves between uses (standard deviation, the median of the entries), and of the
  // movement of all the share that the low bits of the user's own parts explain.
  double moves = 0;
  Explained of_row;
  // Of each kind of cut, in the layer where it is greatest: the share of its rounding that the user's own bits explain.
  struct Cut {
    std::string name;
    std::size_t layer = 0;
    Explained by;
  };
  std::vector<Cut> cuts;
  bool violated() const;
};

// A1's limit. Relative errors of the best linear estimate, 1 where nothing is told.
struct Limit {
  struct Point {
    std::size_t rows = 0;
    double output = 1;     // the first layer's matrix behind attention, its inputs' roundings given, too
    double gate_up = 1;    // the rows of gate and up (without a gate: of up)
    bool measured = true;  // else carried on from the greatest that was, with the root of the rows: no error is less
  };
  std::vector<Point> points;                     // rising
  double rows_isolated = 0, pairs_isolated = 0;  // shares of places that can be followed by their value alone
};

struct Repeated {
  OwnBits own;
  Limit limit;
};
// One token, `rows` times; of them at most k_most_repeats are simulated.
inline constexpr std::size_t k_most_repeats = 4000;
Repeated repeat_one_token(const AuditSubject& subject, std::size_t rows, const AuditProgress& progress = nullptr);

// A3: queries and keys of the first layer in true order, regressed on the user's own bits from the scores of prompts of two tokens, each `rows` times (0
// where rows are fewer than unknowns): the first pairs of the subject's prompt, 4 at most.
struct Scores {
  std::size_t rows = 0;  // of a prompt
  Explained moves;       // how the difference of the two scores moves
  // Means over heads and prompts of the correlation of what is found with what is true; of either by chance, five standard deviations.
  double query = 0, key = 0, chance = 0;
};
Scores repeat_two_tokens(const AuditSubject& subject, std::size_t rows, const AuditProgress& progress = nullptr);

}  // namespace permllm
