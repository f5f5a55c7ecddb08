#include "model/matrix_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <string_view>

#include "permllm/error.h"

namespace permllm {

std::size_t MatrixSource::rows() const {
  std::size_t rows = 0;
  for (const GgufTensor* part : parts) rows += part->shape[1];
  return rows;
}

namespace {

struct TensorRow {
  const GgufTensor* tensor;
  std::size_t row;
};
TensorRow find_row(const MatrixSource& source, std::size_t r) {
  std::size_t row = source.order.empty() ? r : source.order[r];
  for (const GgufTensor* part : source.parts) {
    if (row < part->shape[1]) return {part, row};
    row -= part->shape[1];
  }
  PERMLLM_ASSERT(false);
}

}  // namespace

double dot(std::span<const float> x, std::span<const float> y) {
  std::array<double, 8> sums{};
  std::size_t i = 0;
  for (; i + sums.size() <= x.size(); i += sums.size()) {
    for (std::size_t k = 0; k < sums.size(); ++k) sums[k] += double{x[i + k]} * double{y[i + k]};
  }
  double sum = 0;
  for (const double part : sums) sum += part;
  for (; i < x.size(); ++i) sum += double{x[i]} * double{y[i]};
  return sum;
}

const GgufTensor& MatrixSource::tensor_of(std::size_t r) const { return *find_row(*this, r).tensor; }

void MatrixSource::row(std::size_t r, std::span<float> out, double* added) const {
  const TensorRow at = find_row(*this, r);
  dequantize_row(*at.tensor, at.row, out);
  if (!row_gain.empty() && row_gain[r] != 1) {
    for (float& v : out) v *= row_gain[r];
  }
  if (added != nullptr && !shift.empty()) *added = dot(out, shift);
  if (!gain.empty()) std::transform(out.begin(), out.end(), gain.begin(), out.begin(), std::multiplies<>());
  if (centred) {
    double sum = 0;
    for (const float v : out) sum += double{v};
    const auto mean = static_cast<float>(sum / static_cast<double>(cols));
    for (float& v : out) v -= mean;
  }
}

std::optional<CodeForm> MatrixSource::code_form() const {
  if (centred) return std::nullopt;
  std::optional<CodeForm> common;
  for (const GgufTensor* part : parts) {
    const std::optional<CodeForm> own = permllm::code_form(part->type);
    if (!own) return std::nullopt;
    if (!common) common = own;
    common =
        CodeForm{std::max(common->bits, own->bits), std::min(common->span, own->span), common->zeros || own->zeros};
  }
  if (common && common->bits == 5 && common->span == 16) common->bits = 6;
  return common;
}

void MatrixSource::codes(std::size_t r, const CodeForm& form, CodedRow& out) const {
  const TensorRow at = find_row(*this, r);
  codes_of_row(*at.tensor, at.row, out);
  // Codes of fewer bits become the high bits of codes of more.
  const int more = form.bits - permllm::code_form(at.tensor->type)->bits;
  if (more > 0) {
    for (std::uint8_t& code : out.codes) code = static_cast<std::uint8_t>(code << more);
    for (float& v : out.scale) v /= static_cast<float>(1 << more);
  }
  if (row_gain.empty() || row_gain[r] == 1) return;
  for (float& v : out.scale) v *= row_gain[r];
  for (float& v : out.least) v *= row_gain[r];
}

std::vector<float> Tensors::vector(const std::string& name, std::size_t size) {
  const GgufTensor& tensor = take(name, std::array<std::uint64_t, 1>{size});
  std::vector<float> values(size);
  dequantize_row(tensor, 0, values);
  for (const float v : values) {
    if (!std::isfinite(v)) throw Error(Code::file, "tensor " + name, "holds a number that is not finite");
  }
  return values;
}

MatrixSource Tensors::matrix(const std::vector<std::pair<std::string, std::size_t>>& names, std::size_t cols,
                             std::vector<float>* bias) {
  MatrixSource source;
  source.cols = cols;
  for (const auto& [name, rows] : names) {
    source.parts.push_back(&take(name + ".weight", std::array<std::uint64_t, 2>{cols, rows}));
    std::vector<float> probe(cols);  // an unsupported type is refused before the long work
    dequantize_row(*source.parts.back(), 0, probe);
    if (bias == nullptr) continue;
    const std::vector<float> own = vector(name + ".bias", rows);
    bias->insert(bias->end(), own.begin(), own.end());
  }
  return source;
}

void Tensors::refuse_others(const std::string& architecture) const {
  // Tables that are computed, not read.
  constexpr std::string_view k_harmless[] = {".rotary_emb.inv_freq", ".attn_rot_embd.weight"};
  for (const GgufTensor& tensor : file_.tensors()) {
    const auto ends_name = [&](std::string_view end) { return tensor.name.ends_with(end); };
    if (used_.contains(&tensor) || std::any_of(std::begin(k_harmless), std::end(k_harmless), ends_name)) continue;
    throw Error(Code::unsupported, "tensor " + tensor.name,
                fmt::format("is not known in a model of architecture {}", architecture));
  }
}

const GgufTensor& Tensors::take(const std::string& name, std::span<const std::uint64_t> shape) {
  const GgufTensor& tensor = file_.tensor(name, shape);
  used_.insert(&tensor);
  return tensor;
}

void scale_rows(const std::vector<float>& factors, MatrixSource& matrix, std::vector<float>* bias) {
  matrix.row_gain.resize(factors.size(), 1);
  for (std::size_t r = 0; r < factors.size(); ++r) matrix.row_gain[r] *= factors[r];
  for (std::size_t r = 0; bias != nullptr && r < bias->size(); ++r) (*bias)[r] *= factors[r];
}

void fold_norm(Tensors& tensors, const Config& config, const std::string& name, MatrixSource& matrix) {
  matrix.gain = tensors.vector(name + ".weight", config.width);
  if (config.norm != NormKind::layer) return;
  matrix.shift = tensors.vector(name + ".bias", config.width);
  matrix.centred = true;
}

Gain to_gain(const std::vector<float>& values, const std::string& name) {
  constexpr double k_limit = (1 << (k_gain_bits - 1)) - 1;
  double largest = 0;
  for (const float v : values) largest = std::max(largest, std::fabs(double{v}));
  if (largest > k_limit)
    throw Error(Code::unsupported, "tensor " + name,
                fmt::format("{}, gains of up to {} are supported", largest, k_limit));
  Gain gain{{}, 14};
  while (std::ldexp(largest, gain.frac) > k_limit) --gain.frac;
  for (const float v : values) gain.words.push_back(static_cast<Word>(std::llround(std::ldexp(double{v}, gain.frac))));
  return gain;
}

std::vector<std::uint32_t> adjacent_pairs(std::size_t head_dim, std::size_t dims, std::size_t parts) {
  std::vector<std::uint32_t> order;
  for (std::size_t part = 0; part < head_dim; part += head_dim / parts) {
    for (std::size_t e = 0; e < head_dim / parts; ++e) {
      order.push_back(static_cast<std::uint32_t>(part + (e < dims ? e / 2 + e % 2 * (dims / 2) : e)));
    }
  }
  return order;
}

void order_qkv(const Config& config, const std::function<std::size_t(std::size_t, std::size_t)>& row_of,
               const std::vector<std::uint32_t>& pairs, MatrixSource& matrix, std::vector<float>& bias) {
  for (std::size_t kind = 0; kind < 3; ++kind) {
    for (std::size_t head = 0; head < (kind == 0 ? config.heads : config.kv_heads); ++head) {
      const std::size_t first = row_of(kind, head);
      for (std::size_t e = 0; e < config.head_dim; ++e)
        matrix.order.push_back(static_cast<std::uint32_t>(first + (kind == 2 ? e : pairs[e])));
    }
  }
  const std::vector<float> own = bias;
  for (std::size_t r = 0; r < own.size(); ++r) bias[r] = own[matrix.order[r]];
}

}  // namespace permllm
