// The user's functions of what it opened, in clear: integers in units of 2^-k (`unit`), answers as words of a ring.
//
// Dispatched at run time (Highway); each has a scalar twin that tests compare with. What is opened is private: the same
// steps are taken whatever the values are, and nothing is allocated. Integers are exact up to 2^52 in magnitude. Answers
// are rounded and clamped as `encode` does, so that not-a-number never escapes. Spans of one call have equal lengths.
//
//   silu(x) = x / (1 + exp(-x))
//   gelu(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is x / (1 + exp(-2 sqrt(2 / pi) (..)))
#pragma once

#include <cstdint>
#include <span>

#include "ring/ring.h"

namespace permllm::clear {

// Sums of row[j], and of (row[j] unit)^2.
double sum(std::span<const std::int64_t> row);
double sum_of_squares(std::span<const std::int64_t> row, double unit);

// encode((row[j] - mean) factor).
void scale(std::span<const std::int64_t> row, double mean, double factor, Format out, std::span<Word> words);

// exp(x[j]) / sum exp(x), x[j] = unit (scores[j] - scores[0]): a common level, modulo the ring `shown`, does not count.
// unit > 0.
void softmax(std::span<const std::int64_t> scores, double unit, Ring shown, Format out, std::span<Word> words);

// f(gate[j] unit) up[j] unit.
void silu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words);
void gelu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words);
// gelu(x[j] unit).
void gelu(std::span<const std::int64_t> x, double unit, Format out, std::span<Word> words);

// limit tanh(row[j] / limit), in place.
void cap(std::span<double> row, double limit);

// The same on real numbers, each first multiplied by `scale`.
void softmax(std::span<double> row);  // in place
void silu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words);
void gelu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words);
void gelu(std::span<const double> x, double scale, Format out, std::span<Word> words);

namespace scalar {
double sum(std::span<const std::int64_t> row);
double sum_of_squares(std::span<const std::int64_t> row, double unit);
void scale(std::span<const std::int64_t> row, double mean, double factor, Format out, std::span<Word> words);
void cap(std::span<double> row, double limit);
void softmax(std::span<const std::int64_t> scores, double unit, Ring shown, Format out, std::span<Word> words);
void silu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words);
void gelu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words);
void gelu(std::span<const std::int64_t> x, double unit, Format out, std::span<Word> words);
void softmax(std::span<double> row);
void silu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words);
void gelu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words);
void gelu(std::span<const double> x, double scale, Format out, std::span<Word> words);
}  // namespace scalar

}  // namespace permllm::clear
