// A2: the published attack on permuted activations (arXiv 2605.04901), as a control. It knows no bits of its own: it names the places of a row by their
// rank, and neurons by what lies nearest to the first use, and takes least squares of what it sees by what it answered.
#pragma once

#include "audit/subject.h"

namespace permllm {

struct Sorting {
  std::size_t rows = 0;
  int finer = 0;             // bits by which rows and neurons were shown finer than the plan says
  double rows_aligned = 0;   // share of the places of a row that their rank names
  double pairs_aligned = 0;  // share of the neurons named rightly
  double error =
      1;  // relative, in the metric of what moved, of the rows of gate that stand most apart; above 1: worse than nothing
  bool found() const { return error < 0.5; }
};
// finer: as far as the plan's rings have the bits.
Sorting align_by_sorting(const AuditSubject& subject, std::size_t rows, int finer,
                         const AuditProgress& progress = nullptr);

}  // namespace permllm
