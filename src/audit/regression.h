// A1, whole: an honest user who knows nothing of the weights has prompts of one token answered again and again, and takes for known what the low bits of
// its own parts would have decided. From a few values that are told apart by themselves it learns how what goes into the first layer's matrix behind
// attention was rounded, by that follows the other places of the row, whose order is fresh each time, learns more, and takes least squares. It stands
// where cuts are not secret (docs/protocol.md 2.10); with secret ones it must find no row.
#pragma once

#include "audit/subject.h"

namespace permllm {

struct Regression {
  std::size_t tokens = 0, rows = 0;  // prompts, and rows of all of them; 0 where there are too few
  std::size_t all = 0, held = 0;     // rows of the matrix; those that it has to k_held, from any of the prompts
  double error = 1;                  // relative, in the metric of what moved: the median of those held
  double inputs =
      0;  // share that it knows of how what goes into the matrix moves: of the prompt of which it knows most
};
inline constexpr double k_held = 0.1;
// rows: in all; beyond four prompts of 3,000 rows each (more where there are many unknowns) no more are simulated.
Regression regress_on_own_bits(const AuditSubject& subject, std::size_t rows, const AuditProgress& progress = nullptr);

}  // namespace permllm
