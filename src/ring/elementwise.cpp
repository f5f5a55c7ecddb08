#include "ring/elementwise.h"

namespace permllm {
namespace scalar {

void add(std::span<Word> to, std::span<const Word> a) {
  for (std::size_t j = 0; j < to.size(); ++j) to[j] += a[j];
}

void subtract(std::span<Word> to, std::span<const Word> a) {
  for (std::size_t j = 0; j < to.size(); ++j) to[j] -= a[j];
}

void permute_cut(std::span<const Word> y, std::span<const Word> s0, std::span<const std::uint32_t> order,
                 const Word* sign, Word level, int drop, std::span<Word> out) {
  for (std::size_t j = 0; j < out.size(); ++j) {
    const std::size_t column = order[j];
    const Word g = sign == nullptr ? Word{1} : sign[column];
    out[j] = cut(y[column] * g + level + s0[j], drop);
  }
}

void open(std::span<const Word> a, std::span<const Word> s1, int drop, Ring sent, std::span<std::int64_t> shown) {
  for (std::size_t j = 0; j < shown.size(); ++j) shown[j] = centre(a[j] + cut(s1[j], drop), sent);
}

void unpermute_add(std::span<const Word> b, std::span<const std::uint32_t> order, const Word* sign,
                   std::span<const Word> w, std::span<Word> y) {
  for (std::size_t j = 0; j < b.size(); ++j) {
    const std::size_t column = order[j];
    y[column] = b[j] * (sign == nullptr ? Word{1} : sign[column]) + w[column];
  }
}

Word dot(const Word* a, const Word* b, std::size_t n) {
  Word sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void dots(const Word* q, const Word* keys, std::size_t stride, std::size_t n_keys, std::size_t dim, Word* out) {
  for (std::size_t j = 0; j < n_keys; ++j) out[j] += scalar::dot(q, keys + j * stride, dim);
}

void mix_rows(const Word* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Word* out) {
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t d = 0; d < dim; ++d) out[d] += weights[j] * values[j * stride + d];
  }
}

}  // namespace scalar

void add(std::span<Word> to, std::span<const Word> a) { scalar::add(to, a); }
void subtract(std::span<Word> to, std::span<const Word> a) { scalar::subtract(to, a); }
void permute_cut(std::span<const Word> y, std::span<const Word> s0, std::span<const std::uint32_t> order,
                 const Word* sign, Word level, int drop, std::span<Word> out) {
  scalar::permute_cut(y, s0, order, sign, level, drop, out);
}
void open(std::span<const Word> a, std::span<const Word> s1, int drop, Ring sent, std::span<std::int64_t> shown) {
  scalar::open(a, s1, drop, sent, shown);
}
void unpermute_add(std::span<const Word> b, std::span<const std::uint32_t> order, const Word* sign,
                   std::span<const Word> w, std::span<Word> y) {
  scalar::unpermute_add(b, order, sign, w, y);
}
Word dot(const Word* a, const Word* b, std::size_t n) { return scalar::dot(a, b, n); }
void dots(const Word* q, const Word* keys, std::size_t stride, std::size_t n_keys, std::size_t dim, Word* out) {
  scalar::dots(q, keys, stride, n_keys, dim, out);
}
void mix_rows(const Word* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Word* out) {
  scalar::mix_rows(weights, values, stride, n, dim, out);
}

}  // namespace permllm
