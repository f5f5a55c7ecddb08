// C: what a user takes who deviates, that is answers rows of its choice. It knows which place of a row is which: rows that it answers itself, far apart,
// label them. Each token probes every layer at once.
#pragma once

#include "audit/subject.h"
#include "audit/worth.h"

namespace permllm {

struct Deviating {
  ProbingRows rows;
  double gate_up_right =
      0;  // of the first layer: share of the entries that are right to half a step of the weights, of some columns
  double down_right = 0;  // likewise: share of exact integers; 0 where it is not measured
};
Deviating probe_rows(const AuditSubject& subject, const AuditProgress& progress = nullptr);

}  // namespace permllm
