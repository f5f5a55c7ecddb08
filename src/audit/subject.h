// What is audited, and the walk that all measures share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "audit/witness.h"
#include "model/tokenizer.h"

namespace permllm {

struct AuditSubject {
  const IntWeights& weights;
  const Plan& plan;
  Executor& executor;
  std::vector<TokenId> prompt;  // of real text, two tokens or more; the first alone is the prompt of one token
  bool coined = true;           // false: as if cuts had no coin that the user never has (Witness)
};
using AuditProgress = std::function<void(double)>;  // the share that is done
// Of a stretch of the work; null where nobody asks.
AuditProgress stretch(const AuditProgress& progress, double from, double to);

// Walks `layers` layers of a prompt, `repeats` times, some at a time; set(witness) says what is to be recorded, by index. Coins are the same at each audit
// of a model, so that its figures are; those of another seed are others.
void walk(const AuditSubject& subject, std::span<const TokenId> prompt, std::size_t repeats, std::size_t layers,
          std::uint8_t seed, const std::function<void(Witness&)>& set, const AuditProgress& progress = nullptr,
          const std::function<void(const Witness&, const Masked& residual)>& behind = nullptr);

// Coins by a number.
Seed coin_seed(std::uint8_t number);

}  // namespace permllm
