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

// Where there is a bias, or a gain.
void add(std::span<float> row, std::span<const float> bias) {
  for (std::size_t j = 0; j < bias.size(); ++j) row[j] += bias[j];
}
void multiply(std::span<float> row, const Gain& gain) {
  for (std::size_t j = 0; j < gain.words.size(); ++j) row[j] *= static_cast<float>(gain.value(j));
}

template <class Matrix>
Rows linear(const Matrix& w, const Rows& x, const std::vector<float>& bias, Executor& executor) {
  Rows y{w.rows(), std::vector<float>(x.count() * w.rows())};
  product(w, x.values, y.values, executor);
  for (std::size_t i = 0; i < y.count(); ++i) add(y.row(i), bias);
  return y;
}

Rows norm(const Rows& x, const Config& c) {
  Rows y = x;
  for (std::size_t i = 0; i < x.count(); ++i) {
    const auto n = static_cast<double>(x.size);
    double mean = 0, squares = 0;
    for (const float v : x.row(i)) mean += double{v} / n;
    if (c.norm == NormKind::rms) mean = 0;
    for (const float v : x.row(i)) squares += (double{v} - mean) * (double{v} - mean);
    const double scale = 1.0 / std::sqrt(squares / n + c.norm_eps);
    for (float& v : y.row(i)) v = static_cast<float>((double{v} - mean) * scale);
  }
  return y;
}

// Each of q and k by itself, and its gain.
void norm_heads(std::span<float> qk, const Config& c, const Gain& gain) {
  for (std::size_t at = 0; at < qk.size(); at += c.head_dim) {
    const Rows head = norm(
        Rows{c.head_dim,
             {qk.begin() + static_cast<std::ptrdiff_t>(at), qk.begin() + static_cast<std::ptrdiff_t>(at + c.head_dim)}},
        c);
    std::copy(head.values.begin(), head.values.end(), qk.begin() + static_cast<std::ptrdiff_t>(at));
  }
  multiply(qk, gain);
}

// Where a token stands: positions of the prompt count in `place`; with rotary_2d those of the answer in `block`.
struct Place {
  std::size_t place = 0, block = 0;
};
Place place_of(const Config& c, std::size_t token, std::size_t prefix) {
  if (c.positions != Positions::rotary_2d || token < prefix) return {token, 0};
  return {prefix - 1, token - prefix + 1};
}

void rotate(std::span<float> heads, const Config& c, std::size_t layer, Place at_place) {
  const std::vector<double>& rope = c.rope_of(layer);
  for (std::size_t i = 0; i < rope.size(); ++i) {
    const bool by_block = c.positions == Positions::rotary_2d && i >= rope.size() / 2;
    const double angle = static_cast<double>(by_block ? at_place.block : at_place.place) * rope[i];
    const auto cos = static_cast<float>(std::cos(angle)), sin = static_cast<float>(std::sin(angle));
    for (std::size_t at = 2 * i; at < heads.size(); at += c.head_dim) {
      const float a = heads[at], b = heads[at + 1];
      heads[at] = a * cos - b * sin;
      heads[at + 1] = a * sin + b * cos;
    }
  }
}

float capped(float x, double cap) { return cap == 0 ? x : static_cast<float>(cap * std::tanh(double{x} / cap)); }

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
  if (start == 0) cache.prefix = c.prefix ? n - 1 : 0;
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
    if (c.positions == Positions::learned)
      add(x.row(i), std::span(w.positions).subspan((start + i) * c.width, c.width));
  }
  for (std::size_t l = 0; l < c.layers; ++l) {
    const LayerWeights<Matrix>& layer = w.layer(l);
    // What a part of the layer put out joins the residual.
    const auto join = [&](Rows out, const Rows& normed, const Gain& gain, const std::vector<float>& shift,
                          std::string_view kind) {
      if (c.post_norm) {
        out = norm(out, c);
        for (std::size_t i = 0; i < n; ++i) multiply(out.row(i), gain);
        show(kind, l, out);
      }
      if (c.normed_residual) {
        x = normed;
        for (std::size_t i = 0; i < n; ++i) multiply(x.row(i), gain), add(x.row(i), shift);
      }
      for (std::size_t j = 0; j < x.values.size(); ++j) x.values[j] += out.values[j];
    };

    show("norm.attn", l, x);
    const Rows h = norm(x, c);
    Rows qkv = linear(layer.qkv, h, layer.qkv_bias, executor);
    show("qkv", l, qkv);
    for (std::size_t i = 0; i < n; ++i) {
      const auto qk = qkv.row(i).first(c.qk_rows());
      if (c.qk_norm) {
        norm_heads(qk, c, layer.qk_gain);
        if (observe) observe({"qk", l, start + i, qk});
      }
      rotate(qk, c, l, place_of(c, start + i, cache.prefix));
      const auto k = qk.last(c.kv_rows()), v = qkv.row(i).last(c.kv_rows());
      cache.keys[l].insert(cache.keys[l].end(), k.begin(), k.end());
      cache.values[l].insert(cache.values[l].end(), v.begin(), v.end());
    }
    Rows mixed{c.q_rows(), std::vector<float>(n * c.q_rows())};
    for (std::size_t i = 0; i < n; ++i) {
      std::vector<float> p(std::max(start + i + 1, cache.prefix));
      const std::size_t first = c.windowed(l) && start + i + 1 > c.window ? start + i + 1 - c.window : 0;
      for (std::size_t h_q = 0; h_q < c.heads; ++h_q) {
        const std::size_t kv = c.kv_of(h_q) * c.head_dim;
        const auto q = qkv.row(i).subspan(h_q * c.head_dim, c.head_dim);
        for (std::size_t t = 0; t < p.size(); ++t) {
          p[t] = 0;
          for (std::size_t d = 0; d < c.head_dim; ++d) p[t] += q[d] * cache.keys[l][t * c.kv_rows() + kv + d];
        }
        if (observe) observe({"score", l, start + i, p});
        for (float& s : p) s = capped(s * static_cast<float>(c.score_scale), c.score_cap);
        softmax(std::span(p).subspan(first));
        for (std::size_t t = first; t < p.size(); ++t) {
          for (std::size_t d = 0; d < c.head_dim; ++d) {
            mixed.row(i)[h_q * c.head_dim + d] += p[t] * cache.values[l][t * c.kv_rows() + kv + d];
          }
        }
      }
    }
    show("attention", l, mixed);
    const Rows o = linear(layer.o, mixed, layer.o_bias, executor);
    show("o", l, o);
    join(o, h, layer.attention_gain, layer.attention_shift, "post.attn");

    show("norm.mlp", l, x);
    const Rows g = norm(x, c);
    const Rows gate_up = linear(layer.up, g, layer.up_bias, executor);
    show("gate_up", l, gate_up);
    Rows active{c.ff, std::vector<float>(n * c.ff)};
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < c.ff; ++j) {
        const float gate = gate_up.row(i)[j],
                    f = c.activation == Activation::silu ? gate / (1.0f + std::exp(-gate)) : gelu(gate);
        active.row(i)[j] = c.gated ? f * gate_up.row(i)[c.ff + j] : f;
      }
    }
    show("activation", l, active);
    const Rows down = linear(layer.down, active, layer.down_bias, executor);
    show("down", l, down);
    join(down, g, layer.mlp_gain, layer.mlp_shift, "post.mlp");
  }
  cache.length += n;
  const Rows last{c.width, {x.row(n - 1).begin(), x.row(n - 1).end()}};
  if (observe) observe({"norm.final", c.layers, start + n - 1, last.values});
  std::vector<float> logits = linear(w.head, norm(last, c), w.head_bias, executor).values;
  if (observe) observe({"logits", c.layers, start + n - 1, logits});
  for (float& v : logits) v = capped(v, c.logit_cap);
  return logits;
}

template std::vector<float> reference_forward(const FloatWeights&, std::span<const TokenId>, ReferenceCache&, Executor&,
                                              const Observer&);
template std::vector<float> reference_forward(const IntWeights&, std::span<const TokenId>, ReferenceCache&, Executor&,
                                              const Observer&);

}  // namespace permllm
