// C: what a user takes who deviates, that is answers rows of its choice. It knows which place of a row is which: rows that it answers itself, far apart,
// label them. Each token probes every layer at once.
#pragma once

#include <algorithm>

#include "audit/subject.h"

namespace permllm {

struct Deviating {
  // Gate and up, of the first layer: unit vectors, added to and taken from a base row; some columns are measured.
  std::size_t gate_up_rows = 0;
  double gate_up_right = 0;  // share of the entries that are right to half a step of the weights
  // Down: some columns at once, as digits of a number; and what attention puts out.
  std::size_t down_rows = 0, output_rows = 0;
  double down_right = 0;  // share of exact integers, of the columns measured
  std::size_t rows() const { return std::max({gate_up_rows, down_rows, output_rows}); }  // of the whole model
};
Deviating probe_rows(const AuditSubject& subject, const AuditProgress& progress = nullptr);

}  // namespace permllm
