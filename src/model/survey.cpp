#include "model/survey.h"

#include <algorithm>
#include <array>
#include <bit>

#include "permllm/error.h"
#include "ring/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/survey.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef PERMLLM_MODEL_SURVEY_ONCE
#define PERMLLM_MODEL_SURVEY_ONCE
namespace permllm {
namespace {

// A row's squares are so many sums side by side, which are added up in order; then come the numbers that are left.
constexpr std::size_t k_sums = 8;

void survey_rest(std::span<const float> row, std::size_t from, std::span<std::int32_t> largest,
                 std::span<float> squares, RowSurvey& of) {
  for (std::size_t i = from; i < row.size(); ++i) {
    const std::int32_t magnitude = std::bit_cast<std::int32_t>(row[i]) & 0x7fffffff;
    of.largest = std::max(of.largest, magnitude);
    largest[i] = std::max(largest[i], magnitude);
    squares[i] += row[i] * row[i];
    of.squares += double{row[i]} * double{row[i]};
  }
}

}  // namespace
}  // namespace permllm
#endif

HWY_BEFORE_NAMESPACE();
namespace permllm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
using scalar::survey_row;
#else

// This file is compiled without contraction of products and sums (CMakeLists.txt).
RowSurvey survey_row(std::span<const float> row, std::span<std::int32_t> largest, std::span<float> squares) {
  const hn::CappedTag<double, k_sums> wide;
  const hn::Rebind<float, decltype(wide)> d;
  const hn::RebindToSigned<decltype(d)> bits;
  constexpr std::size_t kLanes = hn::MaxLanes(wide), kParts = k_sums / kLanes;
  static_assert(k_sums % kLanes == 0);
  auto most = hn::Zero(bits);
  hn::Vec<decltype(wide)> sums[kParts];
  for (auto& sum : sums) sum = hn::Zero(wide);
  const std::size_t whole = row.size() / k_sums * k_sums;
  for (std::size_t i = 0; i < whole; i += k_sums) {
    for (std::size_t part = 0; part < kParts; ++part) {
      const std::size_t at = i + part * kLanes;
      const auto x = hn::LoadU(d, row.data() + at);
      const auto magnitude = hn::And(hn::BitCast(bits, x), hn::Set(bits, 0x7fffffff));
      most = hn::Max(most, magnitude);
      hn::StoreU(hn::Max(magnitude, hn::LoadU(bits, largest.data() + at)), bits, largest.data() + at);
      hn::StoreU(hn::Add(hn::LoadU(d, squares.data() + at), hn::Mul(x, x)), d, squares.data() + at);
      const auto exact = hn::PromoteTo(wide, x);
      sums[part] = hn::Add(sums[part], hn::Mul(exact, exact));  // the product is exact
    }
  }
  std::array<double, k_sums> all;
  for (std::size_t part = 0; part < kParts; ++part) hn::StoreU(sums[part], wide, all.data() + part * kLanes);
  RowSurvey of;
  std::array<std::int32_t, kLanes> lanes;
  hn::StoreU(most, bits, lanes.data());
  of.largest = *std::max_element(lanes.begin(), lanes.end());
  for (const double sum : all) of.squares += sum;
  survey_rest(row, whole, largest, squares, of);
  return of;
}

#endif  // HWY_SCALAR

}  // namespace permllm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm {

HWY_EXPORT(survey_row);

namespace {
const bool k_capped = kernels::cap_simd();
}

RowSurvey survey_row(std::span<const float> row, std::span<std::int32_t> largest, std::span<float> squares) {
  PERMLLM_ASSERT(largest.size() == row.size() && squares.size() == row.size());
  return HWY_DYNAMIC_DISPATCH(survey_row)(row, largest, squares);
}

RowSurvey scalar::survey_row(std::span<const float> row, std::span<std::int32_t> largest, std::span<float> squares) {
  RowSurvey of;
  std::array<RowSurvey, k_sums> sums;
  const std::size_t whole = row.size() / k_sums * k_sums;
  for (std::size_t i = 0; i < whole; ++i) survey_rest(row.first(i + 1), i, largest, squares, sums[i % k_sums]);
  for (const RowSurvey& sum : sums) {
    of.largest = std::max(of.largest, sum.largest);
    of.squares += sum.squares;
  }
  survey_rest(row, whole, largest, squares, of);
  return of;
}

}  // namespace permllm
#endif  // HWY_ONCE
