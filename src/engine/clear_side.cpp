#include "engine/clear_side.h"

#include <algorithm>
#include <cmath>

#include "ring/clear.h"

namespace permllm {

EmbeddingTable embedding_table(const IntMatrix& transposed) {
  const std::size_t width = transposed.rows(), vocab = transposed.cols();
  EmbeddingTable table(width * vocab);
  std::vector<std::int16_t> row(vocab);
  for (std::size_t d = 0; d < width; ++d) {
    transposed.row(d, row);
    for (std::size_t k = 0; k < vocab; ++k) table[k * width + d] = row[k];
  }
  return table;
}

ClearSide::ClearSide(const Plan& plan, const EmbeddingTable& table, Executor& executor)
    : plan_(plan), table_(table), executor_(executor), keys_(plan.config.layers), values_(plan.config.layers) {
  PERMLLM_ASSERT(table.size() == plan.config.vocab * plan.config.width);
}

Words ClearSide::begin(std::span<const TokenId> tokens) {
  begin_ = length_;
  length_ += tokens.size();
  const std::size_t width = plan_.config.width;
  const int shift = plan_.residual_frac - plan_.embed_frac;
  Words rows(tokens.size() * width);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::int16_t* row = &table_[tokens[i] * width];
    for (std::size_t d = 0; d < width; ++d) rows[i * width + d] = static_cast<Word>(std::int64_t{row[d]}) << shift;
  }
  return rows;
}

double ClearSide::inverse_rms(std::span<const double> row) const {
  double squares = 0;
  for (const double v : row) squares += v * v;
  return 1.0 / std::sqrt(squares / static_cast<double>(row.size()) + plan_.config.norm_eps);
}

Words ClearSide::attention(std::size_t layer, const ShownPair& shown) {
  const Config& c = plan_.config;
  const std::size_t n = length_ - begin_, kv_rows = c.kv_rows();
  std::vector<float>& keys = keys_[layer];
  std::vector<float>& values = values_[layer];
  keys.resize(length_ * kv_rows);
  values.resize(length_ * kv_rows);
  std::vector<float> queries(n * c.q_rows());
  std::vector<double> rotation(c.head_dim);  // cos and sin of each pair
  for (std::size_t i = 0; i < n; ++i) {
    const double scale = inverse_rms(shown.x.row(i));
    const auto row = shown.y.row(i);
    for (std::size_t p = 0; p < c.head_dim / 2; ++p) {
      const double angle = static_cast<double>(begin_ + i) * c.rope_of(layer)[p];
      rotation[2 * p] = std::cos(angle) * scale;
      rotation[2 * p + 1] = std::sin(angle) * scale;
    }
    const auto rotate = [&](std::span<const double> from, float* to) {
      for (std::size_t j = 0; j < from.size(); j += 2) {
        const double cos = rotation[j % c.head_dim], sin = rotation[j % c.head_dim + 1];
        to[j] = static_cast<float>(from[j] * cos - from[j + 1] * sin);
        to[j + 1] = static_cast<float>(from[j] * sin + from[j + 1] * cos);
      }
    };
    rotate(row.first(c.q_rows()), &queries[i * c.q_rows()]);
    rotate(row.subspan(c.q_rows(), kv_rows), &keys[(begin_ + i) * kv_rows]);
    for (std::size_t j = 0; j < kv_rows; ++j) values[(begin_ + i) * kv_rows + j] = static_cast<float>(row[c.q_rows() + kv_rows + j] * scale);
  }
  const Format out{plan_.o(layer), frac::attention};
  Words mixed(n * c.q_rows());
  executor_.parallel(n * c.heads, [&](std::size_t task) {
    const std::size_t i = task / c.heads, h = task % c.heads, kv = c.kv_of(h) * c.head_dim, live = begin_ + i + 1;
    const float* q = &queries[i * c.q_rows() + h * c.head_dim];
    std::vector<double> p(live);
    for (std::size_t t = 0; t < live; ++t) {
      const float* k = &keys[t * kv_rows + kv];
      float sum = 0;
      for (std::size_t d = 0; d < c.head_dim; ++d) sum += q[d] * k[d];
      p[t] = double{sum} * c.score_scale;
    }
    clear::softmax(p);
    std::vector<float> row(c.head_dim);
    for (std::size_t t = 0; t < live; ++t) {
      const auto weight = static_cast<float>(p[t]);
      const float* v = &values[t * kv_rows + kv];
      for (std::size_t d = 0; d < c.head_dim; ++d) row[d] += weight * v[d];
    }
    for (std::size_t d = 0; d < c.head_dim; ++d) mixed[i * c.q_rows() + h * c.head_dim + d] = encode(double{row[d]}, out);
  });
  return mixed;
}

Words ClearSide::activation(std::size_t layer, const ShownPair& shown) {
  const Config& c = plan_.config;
  const std::size_t n = length_ - begin_;
  const Format out{plan_.down(layer), frac::activation};
  Words active(n * c.ff);
  executor_.parallel(n, [&](std::size_t i) {
    const double scale = inverse_rms(shown.x.row(i));
    const auto row = shown.y.row(i);
    const std::span<Word> out_row = std::span(active).subspan(i * c.ff, c.ff);
    if (c.gated) {
      clear::silu_product(row.first(c.ff), row.last(c.ff), scale, out, out_row);
    } else {
      clear::gelu(row, scale, out, out_row);
    }
  });
  return active;
}

std::vector<std::int64_t> ClearSide::logits(const ShownPair& shown, std::size_t row) const {
  const double scale = std::ldexp(inverse_rms(shown.x.row(row)), frac::logit);
  std::vector<std::int64_t> all(shown.y.size);
  for (std::size_t k = 0; k < all.size(); ++k) all[k] = std::llrint(shown.y.row(row)[k] * scale);
  return all;
}

void ClearSide::keep(std::size_t n) {
  PERMLLM_ASSERT(n <= length_);
  length_ = n;
}

}  // namespace permllm
