#include "user/clear_side.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ring/clear.h"

namespace permllm {

PublicPart public_part(const IntWeights& weights) {
  PublicPart part;
  part.table = embedding_table(weights.embed);
  part.vectors.config = weights.config;
  part.vectors.head_bias = weights.head_bias;
  part.vectors.positions = weights.positions;
  for (const LayerWeights<IntMatrix>& w : weights.layers) {
    LayerWeights<NoMatrix>& layer = part.vectors.layers.emplace_back();
    layer.qkv_bias = w.qkv_bias;
    layer.up_bias = w.up_bias;
    layer.o_bias = w.o_bias;
    layer.down_bias = w.down_bias;
    layer.qk_gain = w.qk_gain;
    layer.attention_gain = w.attention_gain;
    layer.mlp_gain = w.mlp_gain;
    layer.attention_shift = w.attention_shift;
    layer.mlp_shift = w.mlp_shift;
  }
  return part;
}

namespace {

// In a fixed order, several sums side by side.
float dot(const float* x, const float* y, std::size_t n) {
  constexpr std::size_t k_sums = 16;
  using Sums = float __attribute__((vector_size(k_sums * sizeof(float))));
  Sums sums{}, a, b;
  std::size_t i = 0;
  for (; i + k_sums <= n; i += k_sums) {
    std::memcpy(&a, x + i, sizeof a);
    std::memcpy(&b, y + i, sizeof b);
    sums += a * b;
  }
  float sum = 0;
  for (std::size_t k = 0; k < k_sums; ++k) sum += sums[k];
  for (; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// to += weight x.
void add_times(float weight, const float* x, std::span<float> to) {
  float* const out = to.data();
  for (std::size_t i = 0; i < to.size(); ++i) out[i] += weight * x[i];
}

}  // namespace

ClearSide::ClearSide(const Plan& plan, const PublicPart& part, Executor& executor, const ProductKeys* keys)
    : plan_(plan), part_(part), executor_(executor), keys_(plan.config.layers), values_(plan.config.layers) {
  PERMLLM_ASSERT(part.table.size() == plan.config.vocab * plan.config.width && plan.checked == (keys != nullptr));
  if (keys != nullptr) checks_.emplace(plan, *keys, executor);
}

Words ClearSide::begin(std::span<const TokenId> tokens, std::size_t heads) {
  begin_ = length_;
  length_ += tokens.size();
  if (begin_ == 0) prefix_ = plan_.config.prefix ? tokens.size() - 1 : 0;
  heads_ = heads;
  const std::size_t width = plan_.config.width;
  rows_.assign(tokens.size() * width, 0);
  Words words(rows_.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::int16_t* row = &part_.table[tokens[i] * width];
    for (std::size_t d = 0; d < width; ++d) {
      double& x = rows_[i * width + d];
      x = static_cast<double>(row[d]) * power_of_two(-plan_.embed_frac);
      if (!part_.vectors.positions.empty()) x += double{part_.vectors.positions[(begin_ + i) * width + d]};
      words[i * width + d] = encode(x, {plan_.residual, plan_.residual_frac});
    }
  }
  if (checks_) checks_->begin(words);
  return words;
}

RowNorm ClearSide::norm_of(std::span<const double> row) const {
  const auto n = static_cast<double>(row.size());
  double sum = 0, squares = 0;
  for (const double v : row) sum += v;
  const double mean = plan_.config.norm == NormKind::layer ? sum / n : 0;
  for (const double v : row) squares += (v - mean) * (v - mean);
  return {mean, 1.0 / std::sqrt(squares / n + plan_.config.norm_eps)};
}

// The mean needs no taking away here: the matrix does that (model/weights.h).
std::vector<double> ClearSide::output(const ShownPair& shown, std::size_t i, const std::vector<float>& bias) const {
  const auto y = shown.y.row(i);
  const double scale = shown.x.size == 0 ? 1.0 : norm_of(shown.x.row(i)).scale;
  std::vector<double> out(y.size());
  std::transform(y.begin(), y.end(), out.begin(), [&](double x) { return x * scale; });
  for (std::size_t j = 0; j < bias.size(); ++j) out[j] += double{bias[j]};
  return out;
}

void ClearSide::note_normed(const ShownPair& shown) {
  if (!plan_.config.normed_residual) return;
  const std::size_t width = plan_.config.width;
  for (std::size_t i = 0; i < length_ - begin_; ++i) {
    const auto row = shown.x.row(i);
    const RowNorm of = norm_of(row);
    for (std::size_t d = 0; d < width; ++d) rows_[i * width + d] = (row[d] - of.mean) * of.scale;
  }
}

// The angle of a pair of entries, by the same positions as HeadShape::angle.
double ClearSide::place_of_pair(std::size_t token, std::size_t pair) const {
  if (plan_.config.positions != Positions::rotary_2d) return static_cast<double>(token);
  const bool by_place = pair < plan_.config.head_dim / 4;
  if (token < prefix_) return by_place ? static_cast<double>(token) : 0;
  return static_cast<double>(by_place ? prefix_ - 1 : token - prefix_ + 1);
}

Words ClearSide::attention(std::size_t layer, const ShownPair& shown) {
  const Config& c = plan_.config;
  const LayerWeights<NoMatrix>& vectors = part_.vectors.layer(layer);
  const std::vector<double>& rope = c.rope_of(layer);
  const std::size_t n = length_ - begin_, kv_rows = c.kv_rows();
  if (checks_) checks_->see(shown, qkv_shape(plan_, layer));
  note_normed(shown);
  std::vector<float>& keys = keys_[layer];
  std::vector<float>& values = values_[layer];
  keys.resize(length_ * kv_rows);
  values.resize(length_ * kv_rows);
  std::vector<float> queries(n * c.q_rows());
  executor_.parallel(n, [&](std::size_t i) {
    std::vector<double> row = output(shown, i, vectors.qkv_bias);
    for (std::size_t at = 0, size = 0; c.qk_norm && at < c.qk_rows(); at += size) {
      size = c.qk_norm_size(at);
      const RowNorm of = norm_of(std::span(row).subspan(at, size));
      for (std::size_t j = at; j < at + size; ++j) row[j] *= of.scale * vectors.qk_gain.value(j);
    }
    for (std::size_t p = 0; p < rope.size(); ++p) {
      const double angle = rope[p] * place_of_pair(begin_ + i, p), cos = std::cos(angle), sin = std::sin(angle);
      for (std::size_t j = 2 * p; j < c.qk_rows(); j += c.head_dim) {
        const double a = row[j], b = row[j + 1];
        row[j] = a * cos - b * sin;
        row[j + 1] = a * sin + b * cos;
      }
    }
    const auto to = [](float* out, std::span<const double> from) {
      for (std::size_t j = 0; j < from.size(); ++j) out[j] = static_cast<float>(from[j]);
    };
    const std::span<const double> all(row);
    to(&queries[i * c.q_rows()], all.first(c.q_rows()));
    to(&keys[(begin_ + i) * kv_rows], all.subspan(c.q_rows(), kv_rows));
    to(&values[(begin_ + i) * kv_rows], all.last(kv_rows));
  });
  const Format out{plan_.o(layer), plan_.layers[layer].attention};
  Words mixed(n * c.q_rows());
  const auto attend = [&](std::size_t task) {
    const std::size_t i = task / c.heads, h = task % c.heads, kv = c.kv_of(h) * c.head_dim,
                      live = std::max(begin_ + i + 1, prefix_);
    const std::size_t first = c.windowed(layer) && live > c.window ? live - c.window : 0;
    const float* q = &queries[i * c.q_rows() + h * c.head_dim];
    std::vector<double> p(live - first);
    for (std::size_t t = first; t < live; ++t)
      p[t - first] = double{dot(q, &keys[t * kv_rows + kv], c.head_dim)} * c.score_scale;
    if (c.score_cap != 0) clear::cap(p, c.score_cap);
    clear::softmax(p);
    std::vector<float> row(c.head_dim);
    for (std::size_t t = first; t < live; ++t)
      add_times(static_cast<float>(p[t - first]), &values[t * kv_rows + kv], row);
    for (std::size_t d = 0; d < c.head_dim; ++d)
      mixed[i * c.q_rows() + h * c.head_dim + d] = encode(double{row[d]}, out);
  };
  // Threads are woken for what takes longer than that.
  if (constexpr std::size_t k_little = std::size_t{1} << 18; n * length_ * c.q_rows() < k_little) {
    for (std::size_t task = 0; task < n * c.heads; ++task) attend(task);
  } else {
    executor_.parallel(n * c.heads, attend);
  }
  if (checks_) checks_->hand(mixed, out.ring, o_shape(plan_, layer), vectors.o_bias);
  return mixed;
}

Words ClearSide::activation(std::size_t layer, const ShownPair& shown) {
  const Config& c = plan_.config;
  const std::size_t n = length_ - begin_;
  const Format out{plan_.down(layer), plan_.layers[layer].activation};
  if (checks_) checks_->see(shown, up_shape(plan_, layer));
  note_normed(shown);
  Words active(n * c.ff);
  executor_.parallel(n, [&](std::size_t i) {
    const std::vector<double> row = output(shown, i, part_.vectors.layer(layer).up_bias);
    const std::span<Word> out_row = std::span(active).subspan(i * c.ff, c.ff);
    if (!c.gated) return clear::gelu(row, 1, out, out_row);
    const auto gate = std::span(row).first(c.ff), up = std::span(row).last(c.ff);
    c.activation == Activation::gelu ? clear::gelu_product(gate, up, 1, out, out_row)
                                     : clear::silu_product(gate, up, 1, out, out_row);
  });
  if (checks_) checks_->hand(active, out.ring, down_shape(plan_, layer), part_.vectors.layer(layer).down_bias);
  return active;
}

// Rows of the residual from `first` on, normed.
Words ClearSide::normed(std::size_t first, const NormShape& norm, const LinearShape& matrix) {
  const std::size_t width = plan_.config.width;
  Words words;
  for (std::size_t at = first * width; at < rows_.size(); at += width) {
    const auto row = std::span(rows_).subspan(at, width);
    const RowNorm of = norm.plain != 0 ? RowNorm{0, norm.plain} : norm_of(row);
    for (const double x : row) words.push_back(encode((x - of.mean) * of.scale, norm.map.answers[0].out));
  }
  if (checks_) checks_->hand(words, norm.map.answers[0].out.ring, matrix);
  return words;
}
Words ClearSide::normed_for_attention(std::size_t layer) {
  return normed(0, attention_norm_shape(plan_, layer), qkv_shape(plan_, layer));
}
Words ClearSide::normed_for_mlp(std::size_t layer) {
  return normed(0, mlp_norm_shape(plan_, layer), up_shape(plan_, layer));
}
Words ClearSide::normed_for_head() {
  return normed(length_ - begin_ - heads_, final_norm_shape(plan_), head_shape(plan_));
}

Words ClearSide::joined(const Gain& gain, const std::vector<float>& shift) {
  const std::size_t width = plan_.config.width;
  Words words(rows_.size());
  for (std::size_t j = 0; j < words.size(); ++j) {
    words[j] =
        encode(rows_[j] * gain.value(j % width) + double{shift[j % width]}, {plan_.residual, plan_.residual_frac});
  }
  if (checks_) checks_->hand_residual(words);
  return words;
}
Words ClearSide::joined_attention(std::size_t layer) {
  return joined(part_.vectors.layer(layer).attention_gain, part_.vectors.layer(layer).attention_shift);
}
Words ClearSide::joined_mlp(std::size_t layer) {
  return joined(part_.vectors.layer(layer).mlp_gain, part_.vectors.layer(layer).mlp_shift);
}

void ClearSide::add_normed(const ShownPair& shown, const Gain& gain) {
  const std::size_t width = plan_.config.width;
  for (std::size_t i = 0; i < length_ - begin_; ++i) {
    const auto row = shown.y.row(i);
    const double scale = norm_of(row).scale;
    for (std::size_t d = 0; d < width; ++d) rows_[i * width + d] += row[d] * scale * gain.value(d);
  }
}
void ClearSide::add_attention(std::size_t layer, const ShownPair& o) {
  if (checks_) checks_->see(o, o_shape(plan_, layer));
  add_normed(o, part_.vectors.layer(layer).attention_gain);
}
void ClearSide::add_mlp(std::size_t layer, const ShownPair& down) {
  if (checks_) checks_->see(down, down_shape(plan_, layer));
  add_normed(down, part_.vectors.layer(layer).mlp_gain);
}

void ClearSide::check(const ShownPair& logits) {
  if (!checks_) return;
  checks_->see(logits, head_shape(plan_));
  checks_->end();
}

std::vector<std::int64_t> ClearSide::logits(const ShownPair& shown, std::size_t row) const {
  const std::vector<double> real = output(shown, row, part_.vectors.head_bias);
  std::vector<std::int64_t> all(real.size());
  const double unit = power_of_two(plan_.choice_frac());
  std::transform(real.begin(), real.end(), all.begin(), [&](double x) { return std::llrint(x * unit); });
  cap_logits(all, plan_.config.logit_cap * unit);
  return all;
}

std::vector<float> ClearSide::hidden_state(const ShownPair& shown, std::size_t row) const {
  const std::size_t width = plan_.config.width, first = length_ - begin_ - heads_;
  const std::span<const double> residual =
      plan_.config.post_norm ? std::span(rows_).subspan((first + row) * width, width) : shown.x.row(row);
  const RowNorm of = norm_of(residual);
  std::vector<float> normed(width);
  std::transform(residual.begin(), residual.end(), normed.begin(),
                 [&](double x) { return static_cast<float>((x - of.mean) * of.scale); });
  return normed;
}

void ClearSide::keep(std::size_t n) {
  PERMLLM_ASSERT(n <= length_);
  length_ = n;
}

}  // namespace permllm
