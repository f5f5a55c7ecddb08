// What rows of a user are worth, by formulas of plan and weights: quick enough for a provider's start. `permllm audit` measures the same.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

#include "model/weights.h"
#include "plan/plan.h"

namespace permllm {

// Rows of answers of a user's own choice, after which it has each matrix of every layer (audit/deviating.h): a row asks all layers.
struct ProbingRows {
  std::size_t gate_up = 0, down = 0, output = 0;
  int digits = 0, digit = 0;  // columns of down that a row tells at once, and bits of each
  std::size_t all() const;
};
ProbingRows probing_rows(const Plan& plan, const IntWeights& weights);

struct Worth {
  // Of an honest user who has one prompt answered again and again: rows after which it would know the first layer's matrix behind attention to k_known, if
  // it were told the place of every value and how each was rounded (A1's limit, audit/honest.h): no regression of that kind does with fewer, and
  // nobody tells it.
  std::size_t honest = 0;
  std::size_t deviating =
      0;  // of one who answers what it likes: rows after which it has gate, up and down of every layer
};
inline constexpr double k_known = 0.02;  // relative error
// Not of profile open, where weights are public.
Worth worth_of(const Plan& plan, const IntWeights& weights);

// For a provider's person, in a line: of a plan; and of a user's rows, like "8200 of 12000 rows at which an honest user ...".
std::string verdict_of(const Plan& plan, const IntWeights& weights);
std::string worth_of_rows(const Worth& worth, std::size_t rows);

// A provider keeps it in its folder `state` when it starts, for `permllm invite --list`, which has no model at hand. Of profile open there is none.
void keep_worth(const std::filesystem::path& state, const Plan& plan, const IntWeights& weights);
// None: nothing was kept. Errors: file, where it is damaged.
std::optional<Worth> kept_worth(const std::filesystem::path& state);

}  // namespace permllm
