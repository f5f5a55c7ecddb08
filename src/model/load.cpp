// Config and weights out of a GGUF file.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "model/gguf.h"
#include "permllm/error.h"

namespace permllm {
namespace {

constexpr const char* k_architecture = "llama";

std::size_t bounded(const Gguf& file, const std::string& key, std::uint64_t least, std::uint64_t most) {
  const std::uint64_t value = file.number(key);
  if (value < least || value > most) {
    throw Error(Code::file, key, fmt::format("{}, expected {} to {}", value, least, most));
  }
  return value;
}

// A matrix that is one or several tensors on top of one another, rows scaled by a gain of the columns (the norm before).
struct Source {
  std::vector<const GgufTensor*> parts;
  std::vector<float> gain;
  std::size_t rows = 0, cols = 0;

  void row(std::size_t r, std::span<float> out) const {
    for (const GgufTensor* part : parts) {
      if (r < part->shape[1]) {
        dequantize_row(*part, r, out);
        for (std::size_t c = 0; c < gain.size(); ++c) out[c] *= gain[c];
        return;
      }
      r -= part->shape[1];
    }
    PERMLLM_ASSERT(false);
  }
};

Source stacked(const Gguf& file, const std::vector<std::pair<std::string, std::size_t>>& names, std::size_t cols,
               const std::string& gain) {
  Source source;
  source.cols = cols;
  for (const auto& [name, rows] : names) {
    source.parts.push_back(&file.tensor(name, std::array<std::uint64_t, 2>{cols, rows}));
    source.rows += rows;
    std::vector<float> probe(cols);  // an unsupported type is refused here, not in a worker thread
    dequantize_row(*source.parts.back(), 0, probe);
  }
  if (!gain.empty()) {
    source.gain.resize(cols);
    dequantize_row(file.tensor(gain, std::array<std::uint64_t, 1>{cols}), 0, source.gain);
  }
  return source;
}

// Real weights and their largest magnitude. Every number of a model file is checked where it becomes a weight.
struct Real {
  FloatMatrix matrix;
  float largest = 0;
};
Real to_float(const Source& source, Executor& executor) {
  Real real{{source.rows, source.cols, std::vector<float>(source.rows * source.cols)}};
  // Magnitudes as the bits of a float without its sign: they order as numbers do, infinity and NaN above all finite ones.
  std::vector<std::uint32_t> largest(source.rows);
  executor.parallel(source.rows, [&](std::size_t r) {
    const auto row = std::span(real.matrix.values).subspan(r * source.cols, source.cols);
    source.row(r, row);
    std::uint32_t most = 0;
    for (const float v : row) most = std::max(most, std::bit_cast<std::uint32_t>(v) & 0x7fffffffu);
    largest[r] = most;
  });
  real.largest = std::bit_cast<float>(*std::max_element(largest.begin(), largest.end()));
  if (!std::isfinite(real.largest)) {
    throw Error(Code::file, "tensor " + source.parts[0]->name, "holds a weight that is not a finite number");
  }
  return real;
}

FloatMatrix transposed(const FloatMatrix& matrix, Executor& executor) {
  FloatMatrix result{matrix.cols(), matrix.rows(), std::vector<float>(matrix.values.size())};
  constexpr std::size_t k_block = 32;
  executor.parallel((matrix.cols() + k_block - 1) / k_block, [&](std::size_t task) {
    const std::size_t begin = task * k_block, end = std::min(matrix.cols(), begin + k_block);
    for (std::size_t r = 0; r < matrix.rows(); ++r) {
      for (std::size_t c = begin; c < end; ++c) result.values[c * matrix.rows() + r] = matrix.values[r * matrix.cols() + c];
    }
  });
  return result;
}

// Reads every matrix as real numbers and hands it to `convert`, one at a time; the embedding table to `convert_table`.
template <class Matrix, class Convert, class ConvertTable>
Weights<Matrix> load(const Gguf& file, Executor& executor, Convert convert, ConvertTable convert_table) {
  Weights<Matrix> w;
  w.config = read_config(file);
  const Config& c = w.config;
  using Parts = std::vector<std::pair<std::string, std::size_t>>;
  const auto read = [&](const Parts& names, std::size_t cols, const std::string& gain) {
    return to_float(stacked(file, names, cols, gain), executor);
  };
  // The largest first: its two copies are gone before the others come.
  {
    Real table = read({{"token_embd.weight", c.vocab}}, c.width, "");
    table.matrix = transposed(table.matrix, executor);
    w.embed = convert_table(std::move(table));
  }
  w.head = convert(read({{c.tied_head ? "token_embd.weight" : "output.weight", c.vocab}}, c.width, "output_norm.weight"));
  for (std::size_t l = 0; l < c.layers; ++l) {
    const std::string p = fmt::format("blk.{}.", l);
    LayerWeights<Matrix> layer;
    layer.qkv = convert(read({{p + "attn_q.weight", c.q_rows()}, {p + "attn_k.weight", c.kv_rows()}, {p + "attn_v.weight", c.kv_rows()}},
                             c.width, p + "attn_norm.weight"));
    layer.o = convert(read({{p + "attn_output.weight", c.width}}, c.q_rows(), ""));
    layer.up = convert(read({{p + "ffn_gate.weight", c.ff}, {p + "ffn_up.weight", c.ff}}, c.width, p + "ffn_norm.weight"));
    layer.down = convert(read({{p + "ffn_down.weight", c.width}}, c.ff, ""));
    w.layers.push_back(std::move(layer));
  }
  return w;
}

}  // namespace

Config read_config(const Gguf& file) {
  Config c;
  c.architecture = file.string("general.architecture");
  if (c.architecture != k_architecture) {
    throw Error(Code::unsupported, "general.architecture",
                fmt::format("\"{:.40}\" is not supported; \"{}\" is", c.architecture, k_architecture));
  }
  c.name = file.has("general.name") ? file.string("general.name").substr(0, 256) : "unnamed model";
  c.layers = bounded(file, "llama.block_count", 1, 1000);
  c.width = bounded(file, "llama.embedding_length", 2, 1 << 17);
  c.heads = bounded(file, "llama.attention.head_count", 1, 1 << 10);
  c.kv_heads = file.has("llama.attention.head_count_kv") ? bounded(file, "llama.attention.head_count_kv", 1, 1 << 10) : c.heads;
  if (c.heads % c.kv_heads != 0) {
    throw Error(Code::file, "llama.attention.head_count_kv", fmt::format("{} does not divide {} heads", c.kv_heads, c.heads));
  }
  if (!file.has("llama.attention.key_length") && c.width % c.heads != 0) {
    throw Error(Code::file, "llama.embedding_length", fmt::format("{} is no multiple of {} heads", c.width, c.heads));
  }
  c.head_dim = file.has("llama.attention.key_length") ? bounded(file, "llama.attention.key_length", 2, 1 << 12) : c.width / c.heads;
  if (c.head_dim % 2 != 0) throw Error(Code::file, "llama.attention.key_length", fmt::format("{} is odd", c.head_dim));
  if (file.has("llama.attention.value_length") && file.number("llama.attention.value_length") != c.head_dim) {
    throw Error(Code::unsupported, "llama.attention.value_length", "differs from key_length, which is not supported");
  }
  if (file.has("llama.rope.dimension_count") && file.number("llama.rope.dimension_count") != c.head_dim) {
    throw Error(Code::unsupported, "llama.rope.dimension_count", "rotates a part of each head only, which is not supported");
  }
  if (file.has("llama.rope.scaling.type") && file.string("llama.rope.scaling.type") != "none") {
    throw Error(Code::unsupported, "llama.rope.scaling.type", fmt::format("\"{:.40}\" is not supported", file.string("llama.rope.scaling.type")));
  }
  if (file.find("rope_freqs.weight") != nullptr) {
    throw Error(Code::unsupported, "tensor rope_freqs.weight", "scaled rotary frequencies are not supported");
  }
  if (file.find("blk.0.attn_q.bias") != nullptr) throw Error(Code::unsupported, "tensor blk.0.attn_q.bias", "biases are not supported");
  if (file.has("llama.expert_count") && file.number("llama.expert_count") != 0) {
    throw Error(Code::unsupported, "llama.expert_count", "mixtures of experts are not supported");
  }
  c.ff = bounded(file, "llama.feed_forward_length", 1, 1 << 19);
  c.context = bounded(file, "llama.context_length", 1, 1 << 24);
  const double rope_base = file.has("llama.rope.freq_base") ? file.real("llama.rope.freq_base") : 10000.0;
  c.norm_eps = file.real("llama.attention.layer_norm_rms_epsilon");
  if (!(rope_base > 1 && rope_base < 1e12)) throw Error(Code::file, "llama.rope.freq_base", "is out of range");
  c.rope = rope_frequencies(rope_base, c.head_dim, c.head_dim);
  c.score_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  if (!(c.norm_eps >= 0 && c.norm_eps < 1)) throw Error(Code::file, "llama.attention.layer_norm_rms_epsilon", "is out of range");
  const GgufTensor* table = file.find("token_embd.weight");
  if (table == nullptr || table->shape.size() != 2) throw Error(Code::file, "tensor token_embd.weight", "is missing or no matrix");
  if (table->shape[1] > (1 << 20)) throw Error(Code::unsupported, "tensor token_embd.weight", "more than 2^20 tokens are not supported");
  c.vocab = table->shape[1];
  c.tied_head = file.find("output.weight") == nullptr;
  return c;
}

IntWeights load_int_weights(const Gguf& file, Executor& executor, int bits) {
  const auto of_bits = [&executor](int own) {
    return [&executor, own](const Real& real) {
      return IntMatrix(real.matrix, IntMatrix::fraction_bits(real.largest, own), executor, own);
    };
  };
  return load<IntMatrix>(file, executor, of_bits(bits), of_bits(k_weight_bits));
}

FloatWeights load_float_weights(const Gguf& file, Executor& executor) {
  const auto as_read = [](Real real) { return std::move(real.matrix); };
  return load<FloatMatrix>(file, executor, as_read, as_read);
}

}  // namespace permllm
