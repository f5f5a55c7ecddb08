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
float entry(const RoundedMatrix& m, std::size_t row, std::size_t col) { return entry(m.integers(), row, col); }

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

// What goes into the matrices of attention and MLP.
Rows before_matrix(const Rows& x, const Config& c) {
  if (c.pre_norm) return norm(x, c);
  Rows y = x;
  for (float& v : y.values) v *= static_cast<float>(k_plain_scale);
  return y;
}

// Each of q and k by itself, and its gain.
void norm_heads(std::span<float> qk, const Config& c, const Gain& gain) {
  for (std::size_t at = 0, size = 0; at < qk.size(); at += size) {
    size = c.qk_norm_size(at);
    const Rows head = norm(
        Rows{size, {qk.begin() + static_cast<std::ptrdiff_t>(at), qk.begin() + static_cast<std::ptrdiff_t>(at + size)}},
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

// n tokens on their way through the layers.
template <class Matrix>
class Forward {
 public:
  Forward(const Weights<Matrix>& w, std::span<const TokenId> ids, ReferenceCache& cache, Executor& executor,
          const Observer& observe)
      : w_(w),
        c_(w.config),
        cache_(cache),
        executor_(executor),
        observe_(observe),
        n_(ids.size()),
        start_(cache.length),
        x_{c_.width, std::vector<float>(n_ * c_.width)} {
    PERMLLM_ASSERT(n_ > 0);
    if (start_ == 0) cache_.prefix = c_.prefix ? n_ - 1 : 0;
    cache_.keys.resize(c_.layers);
    cache_.values.resize(c_.layers);
    for (std::size_t i = 0; i < n_; ++i) {
      PERMLLM_ASSERT(ids[i] < c_.vocab);
      for (std::size_t d = 0; d < c_.width; ++d) x_.row(i)[d] = entry(w_.embed, d, ids[i]);
      if (c_.positions == Positions::learned)
        add(x_.row(i), std::span(w_.positions).subspan((start_ + i) * c_.width, c_.width));
    }
  }
  std::vector<float> logits() {
    for (std::size_t l = 0; l < c_.layers; ++l) {
      attention(l);
      mlp(l);
    }
    cache_.length += n_;
    show("final", c_.layers, x_);
    const Rows last{c_.width, {x_.row(n_ - 1).begin(), x_.row(n_ - 1).end()}};
    if (observe_) observe_({"norm.final", c_.layers, start_ + n_ - 1, last.values});
    std::vector<float> logits = linear(w_.head, norm(last, c_), w_.head_bias, executor_).values;
    if (observe_) observe_({"logits", c_.layers, start_ + n_ - 1, logits});
    if (!std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); }))
      throw Error(Code::unsupported, "logits",
                  "are not finite numbers: what the weights make of the text exceeds float32");
    for (float& v : logits) v = capped(v, c_.logit_cap);
    return logits;
  }

 private:
  void show(std::string_view kind, std::size_t l, const Rows& rows) const {
    if (!observe_) return;
    for (std::size_t i = 0; i < rows.count(); ++i) observe_({kind, l, start_ + i, rows.row(i)});
  }
  // What a part of the layer put out joins the residual.
  void join(std::size_t l, Rows out, const Rows& normed, const Gain& gain, const std::vector<float>& shift,
            std::string_view kind) {
    if (c_.post_norm) {
      out = norm(out, c_);
      for (std::size_t i = 0; i < n_; ++i) multiply(out.row(i), gain);
      show(kind, l, out);
    }
    if (c_.normed_residual) {
      x_ = normed;
      for (std::size_t i = 0; i < n_; ++i) multiply(x_.row(i), gain), add(x_.row(i), shift);
    }
    for (std::size_t j = 0; j < x_.values.size(); ++j) x_.values[j] += out.values[j];
  }
  void attention(std::size_t l) {
    const LayerWeights<Matrix>& layer = w_.layer(l);
    show("norm.attn", l, x_);
    const Rows h = before_matrix(x_, c_);
    Rows qkv = linear(layer.qkv, h, layer.qkv_bias, executor_);
    show("qkv", l, qkv);
    for (std::size_t i = 0; i < n_; ++i) {
      const auto qk = qkv.row(i).first(c_.qk_rows());
      if (c_.qk_norm) {
        norm_heads(qk, c_, layer.qk_gain);
        if (observe_) observe_({"qk", l, start_ + i, qk});
      }
      rotate(qk, c_, l, place_of(c_, start_ + i, cache_.prefix));
      for (std::size_t j = 0; j < layer.key_level.size(); ++j) qk[c_.q_rows() + j] -= layer.key_level[j];
      const auto k = qk.last(c_.kv_rows()), v = qkv.row(i).last(c_.kv_rows());
      cache_.keys[l].insert(cache_.keys[l].end(), k.begin(), k.end());
      cache_.values[l].insert(cache_.values[l].end(), v.begin(), v.end());
    }
    const Rows mixed = mix(l, qkv);
    show("attention", l, mixed);
    const Rows o = linear(layer.o, mixed, layer.o_bias, executor_);
    show("o", l, o);
    join(l, o, h, layer.attention_gain, layer.attention_shift, "post.attn");
  }
  // p[t] = q . k of token t. Several keys at a time: an addition waits for the one before it.
  void score(std::span<const float> q, const float* keys, std::span<float> p) const {
    constexpr std::size_t k_keys = 8;
    for (std::size_t t = 0; t < p.size(); t += k_keys) {
      const std::size_t count = std::min(k_keys, p.size() - t);
      const float* rows[k_keys];
      for (std::size_t k = 0; k < k_keys; ++k) rows[k] = keys + (t + std::min(k, count - 1)) * c_.kv_rows();
      float sums[k_keys] = {};
      for (std::size_t d = 0; d < q.size(); ++d) {
        for (std::size_t k = 0; k < k_keys; ++k) sums[k] += q[d] * rows[k][d];
      }
      std::copy_n(sums, count, p.data() + t);
    }
  }
  // Values, weighed by the scores of their keys.
  Rows mix(std::size_t l, const Rows& qkv) const {
    Rows mixed{c_.q_rows(), std::vector<float>(n_ * c_.q_rows())};
    std::vector<std::vector<float>> seen(observe_ ? n_ : 0);  // scores: [token][head][key]
    executor_.parallel(n_, [&](std::size_t i) {
      std::vector<float> p(std::max(start_ + i + 1, cache_.prefix));
      const std::size_t first = c_.windowed(l) && start_ + i + 1 > c_.window ? start_ + i + 1 - c_.window : 0;
      for (std::size_t h_q = 0; h_q < c_.heads; ++h_q) {
        const std::size_t kv = c_.kv_of(h_q) * c_.head_dim;
        score(qkv.row(i).subspan(h_q * c_.head_dim, c_.head_dim), cache_.keys[l].data() + kv, p);
        if (observe_) seen[i].insert(seen[i].end(), p.begin(), p.end());
        for (float& s : p) s = capped(s * static_cast<float>(c_.score_scale), c_.score_cap);
        softmax(std::span(p).subspan(first));
        float* const out = mixed.row(i).data() + h_q * c_.head_dim;
        for (std::size_t t = first; t < p.size(); ++t) {
          const float* const v = cache_.values[l].data() + t * c_.kv_rows() + kv;
          for (std::size_t d = 0; d < c_.head_dim; ++d) out[d] += p[t] * v[d];
        }
      }
    });
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const std::size_t keys = seen[i].size() / c_.heads;
      for (std::size_t h = 0; h < c_.heads; ++h)
        observe_({"score", l, start_ + i, std::span(seen[i]).subspan(h * keys, keys)});
    }
    return mixed;
  }
  void mlp(std::size_t l) {
    const LayerWeights<Matrix>& layer = w_.layer(l);
    show("norm.mlp", l, x_);
    const Rows g = before_matrix(x_, c_);
    const Rows gate_up = linear(layer.up, g, layer.up_bias, executor_);
    show("gate_up", l, gate_up);
    Rows active{c_.ff, std::vector<float>(n_ * c_.ff)};
    executor_.parallel(n_, [&](std::size_t i) {
      for (std::size_t j = 0; j < c_.ff; ++j) {
        const float gate = gate_up.row(i)[j],
                    f = c_.activation == Activation::silu ? gate / (1.0f + std::exp(-gate)) : gelu(gate);
        active.row(i)[j] = c_.gated ? f * gate_up.row(i)[c_.ff + j] : f;
      }
    });
    show("activation", l, active);
    const Rows down = linear(layer.down, active, layer.down_bias, executor_);
    show("down", l, down);
    join(l, down, g, layer.mlp_gain, layer.mlp_shift, "post.mlp");
  }

  const Weights<Matrix>& w_;
  const Config& c_;
  ReferenceCache& cache_;
  Executor& executor_;
  const Observer& observe_;
  const std::size_t n_, start_;
  Rows x_;  // the residual
};

}  // namespace

void ReferenceCache::keep(std::size_t n, const Config& config) {
  PERMLLM_ASSERT(n <= length && !config.prefix);
  length = n;
  for (auto* rows : {&keys, &values}) {
    for (std::vector<float>& of_layer : *rows) of_layer.resize(n * config.kv_rows());
  }
}

template <class Matrix>
std::vector<float> reference_forward(const Weights<Matrix>& w, std::span<const TokenId> ids, ReferenceCache& cache,
                                     Executor& executor, const Observer& observe) {
  return Forward(w, ids, cache, executor, observe).logits();
}

template std::vector<float> reference_forward(const FloatWeights&, std::span<const TokenId>, ReferenceCache&, Executor&,
                                              const Observer&);
template std::vector<float> reference_forward(const IntWeights&, std::span<const TokenId>, ReferenceCache&, Executor&,
                                              const Observer&);
template std::vector<float> reference_forward(const RoundedWeights&, std::span<const TokenId>, ReferenceCache&,
                                              Executor&, const Observer&);

}  // namespace permllm
