#include "audit/worth.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/file.h"
#include "base/small_file.h"

namespace permllm {
namespace {

constexpr const char* k_kept = "worth.json";

}  // namespace

std::size_t ProbingRows::all() const { return std::max({gate_up, down, output}); }

ProbingRows probing_rows(const Plan& p, const IntWeights& weights) {
  const Config& c = p.config;
  // Unit vectors added to a base row and taken from it, and one of each column to find how large its entries are.
  ProbingRows rows{.gate_up = 3 * c.width + 1, .output = c.width};
  // Columns of down as digits of a number, below labels that are far apart. Where rows behind the matrix are shown by themselves no labels are there: a
  // row is known by its digits alone.
  const int keep = (c.post_norm ? p.down_reveal(0) : p.norm_reveal()).keep;
  rows.digit = std::bit_width(2 * static_cast<std::uint32_t>(weights.layer(0).down.most()) + 2);
  const int label = c.post_norm ? 0 : static_cast<int>(std::bit_width(c.width));
  rows.digits = std::max(0, (keep - 1 - label) / rows.digit);
  const auto digits = static_cast<std::size_t>(rows.digits);
  rows.down = digits == 0 ? 2 * c.ff : (c.ff + digits - 1) / digits;
  return rows;
}

Worth worth_of(const Plan& p, const IntWeights& weights) {
  const IntMatrix& o = weights.layer(0).o;
  std::vector<std::int32_t> row(o.cols());
  double squares = 0;
  for (std::size_t i = 0; i < o.rows(); ++i) {
    o.row(i, row);
    for (const std::int32_t w : row) squares += std::pow(static_cast<double>(w), 2);
  }
  const double mean_square = std::ldexp(squares / static_cast<double>(o.rows() * o.cols()), -2 * o.frac());
  // Least squares of values that are rounded to a unit (of variance 1/12) by inputs that move as a coin rounds them: by 1/6 of the square of their unit,
  // and by as much of v's.
  const int shown = p.config.post_norm ? p.o_frac(0) - p.o_reveal(0).drop : frac::norm_row,
            input = p.layers[0].attention;
  const double moves = (std::ldexp(1.0, -2 * input) + std::ldexp(1.0, -2 * p.v_frac(0))) / 6,
               noise = std::ldexp(1.0, -2 * shown) / 12;
  const double rows = noise / (moves * std::max(mean_square, 1e-300) * k_known * k_known);
  return {p.config.q_rows() + static_cast<std::size_t>(std::min(std::ceil(rows), 1e15)),
          probing_rows(p, weights).all()};
}

std::string verdict_of(const Plan& plan, const IntWeights& weights) {
  if (plan.open()) return "the weights are public";
  const Worth worth = worth_of(plan, weights);
  return fmt::format(
      "an honest user who were told the place of every value would need {} rows to know the first layer's matrix "
      "behind attention to {:.0f} %; one who deviates has gate, up and down of every layer after {}",
      worth.honest, 100 * k_known, worth.deviating);
}

std::string worth_of_rows(const Worth& worth, std::size_t rows) {
  return fmt::format(
      "{} of {} rows at which an honest user who were told the place of every value would know a matrix to {:.0f} %, "
      "and of {} at which one who deviates has the MLPs",
      rows, worth.honest, 100 * k_known, worth.deviating);
}

void keep_worth(const std::filesystem::path& state, const Plan& plan, const IntWeights& weights) {
  const std::filesystem::path path = state / k_kept;
  if (plan.open()) {
    std::filesystem::remove(path);
    return;
  }
  const Worth worth = worth_of(plan, weights);
  replace_file(path, nlohmann::json{{"honest", worth.honest}, {"deviating", worth.deviating}}.dump() + "\n", 0600);
}

std::optional<Worth> kept_worth(const std::filesystem::path& state) {
  const std::filesystem::path path = state / k_kept;
  if (!is_there(path)) return std::nullopt;
  const nlohmann::json kept = nlohmann::json::parse(read_small_file(path), nullptr, false);
  const auto rows = [&](const char* key) {
    if (!kept.is_object() || !kept.contains(key) || !kept.at(key).is_number_unsigned())
      throw Error(Code::file, path.string(),
                  fmt::format("has no number \"{}\"; the provider's next start makes it anew", key));
    return kept.at(key).get<std::size_t>();
  };
  return Worth{rows("honest"), rows("deviating")};
}

}  // namespace permllm
