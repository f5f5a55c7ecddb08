// What a user needs no regression for: D, the logits by their values, and E, the embedding table.
#pragma once

#include "audit/subject.h"

namespace permllm {

// D: of logits that are shown again, how many the value nearest to theirs names: of all of them, and of the ten greatest.
struct Followed {
  double all = 0, top = 0;
  double moves = 0;  // standard deviation of a logit between the two
};
struct Logits {
  Followed again, near;  // the same prompt, and one of which an early token is another
};
// The whole model, three times, over as much of the subject's prompt as `tokens` says.
Logits follow_logits(const AuditSubject& subject, std::size_t tokens, const AuditProgress& progress = nullptr);

// E: of so many tokens' rows of the embedding table, as a user sees them (entries in any order), the share that no other of them is equal to.
struct Embeddings {
  std::size_t tokens = 0;
  double named = 0;
};
Embeddings name_embeddings(const AuditSubject& subject);

}  // namespace permllm
