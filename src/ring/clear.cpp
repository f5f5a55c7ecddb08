#include "ring/clear.h"

#include <algorithm>
#include <cmath>

namespace permllm::clear {
namespace scalar {
namespace {

// exp overflows and underflows beyond; what it scales is far below a unit there.
constexpr double k_exp_limit = 700;
// gelu's 2 sqrt(2 / pi).
constexpr double k_gelu = 1.5957691216057308;

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-std::clamp(x, -k_exp_limit, k_exp_limit))); }
double silu_of(double x) { return x * sigmoid(x); }
double gelu_of(double x) { return x * sigmoid(k_gelu * (x + 0.044715 * x * x * x)); }

template <class T, class F>
void products(F f, std::span<const T> gate, std::span<const T> up, double unit, Format out, std::span<Word> words) {
  for (std::size_t j = 0; j < words.size(); ++j) {
    words[j] = encode(f(static_cast<double>(gate[j]) * unit) * (static_cast<double>(up[j]) * unit), out);
  }
}

template <class T>
void gelus(std::span<const T> x, double unit, Format out, std::span<Word> words) {
  for (std::size_t j = 0; j < words.size(); ++j) words[j] = encode(gelu_of(static_cast<double>(x[j]) * unit), out);
}

double difference(std::span<const std::int64_t> scores, std::size_t j, Ring shown) {
  return static_cast<double>(centre(static_cast<Word>(scores[j]) - static_cast<Word>(scores[0]), shown));
}

}  // namespace

double sum_of_squares(std::span<const std::int64_t> row, double unit) {
  double sum = 0;
  for (const std::int64_t v : row) sum += (static_cast<double>(v) * unit) * (static_cast<double>(v) * unit);
  return sum;
}

void scale(std::span<const std::int64_t> row, double factor, Format out, std::span<Word> words) {
  for (std::size_t j = 0; j < words.size(); ++j) words[j] = encode(static_cast<double>(row[j]) * factor, out);
}

// The words hold the exponentials as doubles until their sum is known.
void softmax(std::span<const std::int64_t> scores, double unit, Ring shown, Format out, std::span<Word> words) {
  double greatest = -1e300, sum = 0;
  for (std::size_t j = 0; j < words.size(); ++j) greatest = std::max(greatest, difference(scores, j, shown));
  for (std::size_t j = 0; j < words.size(); ++j) {
    const double weight = std::exp(std::max((difference(scores, j, shown) - greatest) * unit, -k_exp_limit));
    sum += weight;
    words[j] = std::bit_cast<Word>(weight);
  }
  for (Word& word : words) word = encode(std::bit_cast<double>(word) / sum, out);
}

void silu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  products(silu_of, gate, up, unit, out, words);
}
void gelu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  products(gelu_of, gate, up, unit, out, words);
}
void gelu(std::span<const std::int64_t> x, double unit, Format out, std::span<Word> words) {
  gelus(x, unit, out, words);
}

void softmax(std::span<double> row) {
  double greatest = -1e300, sum = 0;
  for (const double x : row) greatest = std::max(greatest, x);
  for (double& x : row) {
    x = std::exp(std::max(x - greatest, -k_exp_limit));
    sum += x;
  }
  for (double& x : row) x /= sum;
}

void silu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words) {
  products(silu_of, gate, up, scale, out, words);
}
void gelu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words) {
  products(gelu_of, gate, up, scale, out, words);
}
void gelu(std::span<const double> x, double scale, Format out, std::span<Word> words) { gelus(x, scale, out, words); }

}  // namespace scalar

double sum_of_squares(std::span<const std::int64_t> row, double unit) { return scalar::sum_of_squares(row, unit); }
void scale(std::span<const std::int64_t> row, double factor, Format out, std::span<Word> words) {
  scalar::scale(row, factor, out, words);
}
void softmax(std::span<const std::int64_t> scores, double unit, Ring shown, Format out, std::span<Word> words) {
  scalar::softmax(scores, unit, shown, out, words);
}
void silu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  scalar::silu_product(gate, up, unit, out, words);
}
void gelu_product(std::span<const std::int64_t> gate, std::span<const std::int64_t> up, double unit, Format out,
                  std::span<Word> words) {
  scalar::gelu_product(gate, up, unit, out, words);
}
void gelu(std::span<const std::int64_t> x, double unit, Format out, std::span<Word> words) {
  scalar::gelu(x, unit, out, words);
}
void softmax(std::span<double> row) { scalar::softmax(row); }
void silu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words) {
  scalar::silu_product(gate, up, scale, out, words);
}
void gelu_product(std::span<const double> gate, std::span<const double> up, double scale, Format out,
                  std::span<Word> words) {
  scalar::gelu_product(gate, up, scale, out, words);
}
void gelu(std::span<const double> x, double scale, Format out, std::span<Word> words) {
  scalar::gelu(x, scale, out, words);
}

}  // namespace permllm::clear
