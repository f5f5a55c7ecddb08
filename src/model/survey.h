// What a row of weights adds to the statistics of its matrix.
#pragma once

#include <cstdint>
#include <span>

namespace permllm {

struct RowSurvey {
  // Magnitude, as the bits of a float without its sign: they order as numbers do, infinity and NaN above all finite ones.
  std::int32_t largest = 0;
  double squares = 0;  // their sum
};

// Raises the columns' largest magnitudes and adds the row's squares to theirs; spans of equal lengths. Dispatched at run time: sums are in an order,
// and products rounded, that are the same on all targets.
RowSurvey survey_row(std::span<const float> row, std::span<std::int32_t> largest, std::span<float> squares);

namespace scalar {
RowSurvey survey_row(std::span<const float> row, std::span<std::int32_t> largest, std::span<float> squares);
}

}  // namespace permllm
