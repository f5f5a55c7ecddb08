#include "model/synthetic.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "permllm/error.h"

namespace permllm {
namespace {

Config shape(const char* name, std::size_t layers, std::size_t width, std::size_t heads, std::size_t kv_heads,
             std::size_t ff, std::size_t vocab) {
  Config c;
  c.architecture = "synthetic";
  c.name = name;
  c.layers = layers;
  c.width = width;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.head_dim = width / heads;
  c.ff = ff;
  c.vocab = vocab;
  c.context = 1 << 15;
  c.rope = rope_frequencies(10000, c.head_dim, c.head_dim);
  c.score_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  return c;
}

// THUDM/chatglm-6b, as model/chatglm_6b.cpp reads it.
Config chatglm_6b() {
  Config c = shape("chatglm-6b", 28, 4096, 32, 32, 16384, 130528);
  c.norm = NormKind::layer;
  c.gated = false;
  c.activation = Activation::gelu;
  c.positions = Positions::rotary_2d;
  c.rope = rope_frequencies(10000, c.head_dim / 2, c.head_dim);
  std::copy_n(c.rope.begin(), c.rope.size() / 2, c.rope.begin() + static_cast<std::ptrdiff_t>(c.rope.size() / 2));
  c.prefix = c.normed_residual = c.qkv_bias = c.up_bias = c.head_bias = true;
  return c;
}

std::vector<Config> shapes() {
  return {chatglm_6b(), shape("llama-7b", 32, 4096, 32, 32, 11008, 32000),
          shape("llama-70b", 80, 8192, 64, 8, 28672, 32000), shape("smollm2-135m", 30, 576, 9, 3, 1536, 49152)};
}

}  // namespace

bool is_synthetic(const std::string& name) {
  return std::ranges::any_of(shapes(), [&](const Config& c) { return c.name == name; });
}

Config synthetic_config(const std::string& name, std::size_t layers, std::size_t width) {
  for (Config c : shapes()) {
    if (c.name != name) continue;
    if (layers != 0) c.layers = layers;
    if (width != 0) {
      const std::size_t step = c.head_dim * (c.heads / c.kv_heads);
      if (width % step != 0 || width > (1 << 17)) {
        throw Error(Code::usage, "width", fmt::format("{}, expected a multiple of {}, for whole heads", width, step));
      }
      c.ff = c.ff * width / c.width / 2 * 2;
      c.width = width;
      c.kv_heads = c.kv_heads * (width / c.head_dim) / c.heads;
      c.heads = width / c.head_dim;
    }
    return c;
  }
  std::vector<std::string> names;
  for (const Config& c : shapes()) names.push_back(c.name);
  throw Error(Code::usage, "model",
              fmt::format("\"{:.60}\" is no shape that is known: {}", name, fmt::join(names, ", ")));
}

IntWeights synthetic_weights(const Config& c, int bits, Executor& executor, Machines* machines) {
  IntWeights w;
  w.config = c;
  std::uint64_t seed = 0;
  const auto matrix = [&](std::size_t rows, std::size_t cols) {
    return IntMatrix::random(rows, cols, bits - 1, ++seed, executor, bits, machines);
  };
  const auto bias = [](bool has, std::size_t n) { return std::vector<float>(has ? n : 0, 0.02f); };
  // The norms' gains of about 1, times sqrt(2 layers).
  const double scale = std::sqrt(2.0 * static_cast<double>(c.layers));
  Gain gain;
  if (c.normed_residual) gain = {Words(c.width, encode(scale, {Ring{64}, 11})), 11};
  for (std::size_t l = 0; l < c.stored_layers(); ++l) {
    w.layers.push_back({.qkv = matrix(c.qkv_rows(), c.width),
                        .o = matrix(c.width, c.q_rows()),
                        .up = matrix(c.up_rows(), c.width),
                        .down = matrix(c.width, c.ff),
                        .qkv_bias = bias(c.qkv_bias, c.qkv_rows()),
                        .up_bias = bias(c.up_bias, c.up_rows()),
                        .attention_gain = gain,
                        .mlp_gain = gain,
                        .attention_shift = bias(c.normed_residual, c.width),
                        .mlp_shift = bias(c.normed_residual, c.width)});
  }
  w.head_bias = bias(c.head_bias, c.vocab);
  ++seed;
  if (machines == nullptr || machines->own() == 0)
    w.embed = IntMatrix::random(c.width, c.vocab, k_weight_bits - 1, seed, executor, k_weight_bits);
  w.head = matrix(c.vocab, c.width);
  return w;
}

}  // namespace permllm
