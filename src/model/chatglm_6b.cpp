// ChatGLM-6B, after config.json and modeling_chatglm.py of THUDM/chatglm-6b.
#include <fmt/format.h>

#include <cmath>
#include <string>

#include "model/architectures.h"
#include "permllm/error.h"

namespace permllm {

Config chatglm_6b_config(const ModelFile& file) {
  const nlohmann::json& json = file.folder()->config();
  const auto field = [](const char* key) { return std::string("config.json: ") + key; };
  const auto value = [&](const char* key) {
    if (!json.contains(key)) throw Error(Code::file, field(key), "is missing");
    return json.at(key);
  };
  const auto count = [&](const char* key, std::uint64_t least, std::uint64_t most) -> std::size_t {
    const nlohmann::json number = value(key);
    if (!number.is_number_unsigned()) throw Error(Code::file, field(key), "is not a whole number");
    const auto n = number.get<std::uint64_t>();
    if (n < least || n > most)
      throw Error(Code::file, field(key), fmt::format("{}, expected {} to {}", n, least, most));
    return n;
  };
  const nlohmann::json type = value("model_type");
  if (type != "chatglm" || !json.contains("position_encoding_2d")) {
    throw Error(Code::unsupported, field("model_type"),
                "is not that of ChatGLM-6B, the one model that is read from a folder; convert others to GGUF");
  }
  if (value("position_encoding_2d") != true)
    throw Error(Code::unsupported, field("position_encoding_2d"), "is supported as true only");
  for (const char* key : {"quantization_bit", "pre_seq_len"}) {
    if (json.contains(key) && !json.at(key).is_null() && json.at(key) != 0)
      throw Error(Code::unsupported, field(key), "is not supported");
  }
  Config c;
  c.architecture = "chatglm-6b";
  c.name = "ChatGLM-6B";
  c.layers = count("num_layers", 1, 1000);
  c.width = count("hidden_size", 2, 1 << 17);
  c.heads = c.kv_heads = count("num_attention_heads", 1, 1 << 10);
  if (c.width % (4 * c.heads) != 0)
    throw Error(Code::file, field("hidden_size"),
                fmt::format("{} is no multiple of 4 times {} heads", c.width, c.heads));
  c.head_dim = c.width / c.heads;
  c.ff = count("inner_hidden_size", 1, 1 << 19);
  c.vocab = count("vocab_size", 1, 1 << 20);
  c.context = count("max_sequence_length", 1, 1 << 24);
  const nlohmann::json eps = value("layernorm_epsilon");
  if (!eps.is_number()) throw Error(Code::file, field("layernorm_epsilon"), "is not a number");
  c.norm_eps = eps.get<double>();
  if (!(c.norm_eps >= 0 && c.norm_eps <= 1))
    throw Error(Code::file, field("layernorm_epsilon"), fmt::format("{}, expected 0 to 1", c.norm_eps));
  c.norm = NormKind::layer;
  c.activation = Activation::gelu;
  c.gated = false;
  c.positions = Positions::rotary_2d;
  const std::vector<double> half = rope_frequencies(10000, c.head_dim / 2, c.head_dim / 2);
  for (int i = 0; i < 2; ++i) c.rope.insert(c.rope.end(), half.begin(), half.end());
  c.prefix = true;
  c.score_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  c.normed_residual = true;
  c.qkv_bias = c.up_bias = c.head_bias = true;
  return c;
}

ModelSource chatglm_6b_source(const ModelFile& file) {
  ModelSource w;
  w.config = chatglm_6b_config(file);
  const Config& c = w.config;
  Tensors tensors(file);
  // What attention and MLP put out is added to this many times the norm's output.
  const auto alpha = static_cast<float>(std::sqrt(2.0 * static_cast<double>(c.layers)));
  const auto keep_norm = [&](const std::string& name, const MatrixSource& folded, Gain& gain,
                             std::vector<float>& shift) {
    std::vector<float> scaled = folded.gain;
    for (float& v : scaled) v *= alpha;
    gain = to_gain(scaled, name + ".weight");
    shift = folded.shift;
    for (float& v : shift) v *= alpha;
  };
  const std::vector<std::uint32_t> pairs = adjacent_pairs(c.head_dim, c.head_dim / 2, 2);

  w.embed = tensors.matrix({{"transformer.word_embeddings", c.vocab}}, c.width);
  w.head = tensors.matrix({{"lm_head", c.vocab}}, c.width);
  fold_norm(tensors, c, "transformer.final_layernorm", w.head);
  for (std::size_t l = 0; l < c.layers; ++l) {
    const std::string p = fmt::format("transformer.layers.{}.", l);
    LayerWeights<MatrixSource>& layer = w.layers.emplace_back();
    layer.qkv = tensors.matrix({{p + "attention.query_key_value", c.qkv_rows()}}, c.width, &layer.qkv_bias);
    order_qkv(
        c, [&](std::size_t kind, std::size_t head) { return (3 * head + kind) * c.head_dim; }, pairs, layer.qkv,
        layer.qkv_bias);
    fold_norm(tensors, c, p + "input_layernorm", layer.qkv);
    keep_norm(p + "input_layernorm", layer.qkv, layer.attention_gain, layer.attention_shift);
    layer.o = tensors.matrix({{p + "attention.dense", c.width}}, c.q_rows(), &layer.o_bias);
    layer.up = tensors.matrix({{p + "mlp.dense_h_to_4h", c.ff}}, c.width, &layer.up_bias);
    fold_norm(tensors, c, p + "post_attention_layernorm", layer.up);
    keep_norm(p + "post_attention_layernorm", layer.up, layer.mlp_gain, layer.mlp_shift);
    layer.down = tensors.matrix({{p + "mlp.dense_4h_to_h", c.width}}, c.ff, &layer.down_bias);
  }
  tensors.refuse_others(c.architecture);
  return w;
}

}  // namespace permllm
