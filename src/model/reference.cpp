#include "model/reference.h"

#include <algorithm>
#include <cmath>

#include "permllm/error.h"

namespace permllm {
namespace {

float entry(const FloatMatrix& m, std::size_t row, std::size_t col) { return m.values[row * m.cols() + col]; }
float entry(const IntMatrix& m, std::size_t row, std::size_t col) {
  return std::ldexp(static_cast<float>(m.at(row, col)), -m.frac());
}

// n rows of `size` numbers.
struct Rows {
  std::size_t size;
  std::vector<float> values;
  std::span<float> row(std::size_t i) { return std::span(values).subspan(i * size, size); }
  std::span<const float> row(std::size_t i) const { return std::span(values).subspan(i * size, size); }
  std::size_t count() const { return values.size() / size; }
};

template <class Matrix>
Rows linear(const Matrix& w, const Rows& x, Executor& executor) {
  Rows y{w.rows(), std::vector<float>(x.count() * w.rows())};
  product(w, x.values, y.values, executor);
  return y;
}

Rows norm(const Rows& x, double eps) {
  Rows y = x;
  for (std::size_t i = 0; i < x.count(); ++i) {
    double sum = 0;
    for (const float v : x.row(i)) sum += double{v} * double{v};
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(x.size) + eps);
    for (float& v : y.row(i)) v = static_cast<float>(v * scale);
  }
  return y;
}

void rotate(std::span<float> heads, const Config& c, std::size_t position) {
  for (std::size_t i = 0; i < c.head_dim / 2; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(c.rope_base, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
    const auto cos = static_cast<float>(std::cos(angle)), sin = static_cast<float>(std::sin(angle));
    for (std::size_t at = 2 * i; at < heads.size(); at += c.head_dim) {
      const float a = heads[at], b = heads[at + 1];
      heads[at] = a * cos - b * sin;
      heads[at + 1] = a * sin + b * cos;
    }
  }
}

void softmax(std::span<float> scores) {
  const float greatest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (float& s : scores) {
    s = std::exp(s - greatest);
    sum += double{s};
  }
  for (float& s : scores) s = static_cast<float>(s / sum);
}

// The usual approximation by tanh (arXiv 1606.08415, section 2).
float gelu(float x) { return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x))); }

}  // namespace

template <class Matrix>
std::vector<float> reference_forward(const Weights<Matrix>& w, std::span<const TokenId> ids, ReferenceCache& cache,
                                     Executor& executor, const Observer& observe) {
  const Config& c = w.config;
  const std::size_t n = ids.size(), start = cache.length;
  PERMLLM_ASSERT(n > 0);
  cache.keys.resize(c.layers);
  cache.values.resize(c.layers);
  const auto show = [&](std::string_view kind, std::size_t layer, const Rows& rows) {
    if (!observe) return;
    for (std::size_t i = 0; i < rows.count(); ++i) observe({kind, layer, start + i, rows.row(i)});
  };

  Rows x{c.width, std::vector<float>(n * c.width)};
  for (std::size_t i = 0; i < n; ++i) {
    PERMLLM_ASSERT(ids[i] < c.vocab);
    for (std::size_t d = 0; d < c.width; ++d) x.row(i)[d] = entry(w.embed, d, ids[i]);
  }
  for (std::size_t l = 0; l < c.layers; ++l) {
    const LayerWeights<Matrix>& layer = w.layer(l);
    show("norm.attn", l, x);
    Rows qkv = linear(layer.qkv, norm(x, c.norm_eps), executor);
    show("qkv", l, qkv);
    for (std::size_t i = 0; i < n; ++i) {
      rotate(qkv.row(i).first(c.q_rows() + c.kv_rows()), c, start + i);
      const auto k = qkv.row(i).subspan(c.q_rows(), c.kv_rows()), v = qkv.row(i).last(c.kv_rows());
      cache.keys[l].insert(cache.keys[l].end(), k.begin(), k.end());
      cache.values[l].insert(cache.values[l].end(), v.begin(), v.end());
    }
    Rows mixed{c.q_rows(), std::vector<float>(n * c.q_rows())};
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    for (std::size_t i = 0; i < n; ++i) {
      std::vector<float> p(start + i + 1);
      for (std::size_t h = 0; h < c.heads; ++h) {
        const std::size_t kv = c.kv_of(h) * c.head_dim;
        const auto q = qkv.row(i).subspan(h * c.head_dim, c.head_dim);
        for (std::size_t t = 0; t < p.size(); ++t) {
          p[t] = 0;
          for (std::size_t d = 0; d < c.head_dim; ++d) p[t] += q[d] * cache.keys[l][t * c.kv_rows() + kv + d];
        }
        if (observe) observe({"score", l, start + i, p});
        for (float& s : p) s *= scale;
        softmax(p);
        for (std::size_t t = 0; t < p.size(); ++t) {
          for (std::size_t d = 0; d < c.head_dim; ++d) {
            mixed.row(i)[h * c.head_dim + d] += p[t] * cache.values[l][t * c.kv_rows() + kv + d];
          }
        }
      }
    }
    show("attention", l, mixed);
    const Rows o = linear(layer.o, mixed, executor);
    show("o", l, o);
    for (std::size_t j = 0; j < x.values.size(); ++j) x.values[j] += o.values[j];

    show("norm.mlp", l, x);
    const Rows gate_up = linear(layer.up, norm(x, c.norm_eps), executor);
    show("gate_up", l, gate_up);
    Rows active{c.ff, std::vector<float>(n * c.ff)};
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < c.ff; ++j) {
        const float gate = gate_up.row(i)[j];
        active.row(i)[j] = c.gated ? gate / (1.0f + std::exp(-gate)) * gate_up.row(i)[c.ff + j] : gelu(gate);
      }
    }
    show("activation", l, active);
    const Rows down = linear(layer.down, active, executor);
    show("down", l, down);
    for (std::size_t j = 0; j < x.values.size(); ++j) x.values[j] += down.values[j];
  }
  cache.length += n;
  const Rows last{c.width, {x.row(n - 1).begin(), x.row(n - 1).end()}};
  if (observe) observe({"norm.final", c.layers, start + n - 1, last.values});
  return linear(w.head, norm(last, c.norm_eps), executor).values;
}

template std::vector<float> reference_forward(const FloatWeights&, std::span<const TokenId>, ReferenceCache&, Executor&,
                                              const Observer&);
template std::vector<float> reference_forward(const IntWeights&, std::span<const TokenId>, ReferenceCache&, Executor&,
                                              const Observer&);

}  // namespace permllm
