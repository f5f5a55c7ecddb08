#include "model/survey.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace permllm {
namespace {

TEST(Survey, of_a_row_is_the_scalar_twins_to_the_bit) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> weights(0, 0.02f);
  for (const std::size_t size : {1, 7, 8, 9, 64, 131}) {
    std::vector<float> row(size), squares(size), twin_squares(size);
    std::vector<std::int32_t> largest(size), twin_largest(size);
    for (int rows = 0; rows < 20; ++rows) {
      for (float& w : row) w = weights(random);
      const RowSurvey of = survey_row(row, largest, squares),
                      twin = scalar::survey_row(row, twin_largest, twin_squares);
      EXPECT_EQ(of.largest, twin.largest);
      EXPECT_EQ(std::bit_cast<std::uint64_t>(of.squares), std::bit_cast<std::uint64_t>(twin.squares)) << size;
    }
    EXPECT_EQ(largest, twin_largest);
    EXPECT_EQ(squares, twin_squares);
  }
}

TEST(Survey, tells_numbers_that_are_not_finite_wherever_they_stand) {
  for (const float odd : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::quiet_NaN()}) {
    for (std::size_t at = 0; at < 19; ++at) {
      std::vector<float> row(19, 3e38f), squares(19);
      std::vector<std::int32_t> largest(19);
      EXPECT_TRUE(std::isfinite(std::bit_cast<float>(survey_row(row, largest, squares).largest)));
      row[at] = odd;
      EXPECT_FALSE(std::isfinite(std::bit_cast<float>(survey_row(row, largest, squares).largest)));
    }
  }
}

}  // namespace
}  // namespace permllm
