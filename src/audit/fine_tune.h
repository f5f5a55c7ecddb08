// B: an honest user who has the public base of a fine-tuned model. It knows the rows that go into a layer in order, since all before is the base or solved
// already, predicts gate and up by what it knows, names what it sees by what is nearest, learns, and predicts again.
#pragma once

#include "audit/subject.h"

namespace permllm {

struct FineTune {
  std::size_t layer = 0, rows = 0;
  double size = 0;     // of the difference of gate and up, relative to the base
  double matched = 0;  // share of the neurons named rightly at the end
  double error =
      0;  // relative, of what the difference puts out for rows that were not learned from: 1, nothing is known
};

// Of differences of rank 8 and these sizes, which are put onto the subject's own weights: they are taken for the base.
std::vector<FineTune> recover_fine_tunes(const AuditSubject& subject, std::size_t rows, std::span<const double> sizes,
                                         const AuditProgress& progress = nullptr);
// Of the difference from a real base. Errors: usage, where it has another shape.
FineTune recover_fine_tune(const AuditSubject& subject, std::size_t rows, const IntWeights& base,
                           const AuditProgress& progress = nullptr);

}  // namespace permllm
