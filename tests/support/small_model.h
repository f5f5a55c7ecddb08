// Models of a few numbers, to be changed one place at a time: settings and tensors by name, as a GGUF file or as a ChatGLM-6B folder.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/temporary_directory.h"
#include "model/model_file.h"
#include "support/gguf_writer.h"

namespace permllm::test {

struct SmallTensor {
  std::vector<std::uint64_t> shape;  // rows first
  std::vector<float> values;
  float at(std::size_t row, std::size_t col) const { return values[row * shape[1] + col]; }
};

// Eighths from -2 to 2, others for each name.
inline SmallTensor small_tensor(const std::string& name, std::vector<std::uint64_t> shape) {
  std::uint64_t state = 1, count = 1;
  for (const char c : name) state = state * 31 + static_cast<std::uint8_t>(c);
  for (const std::uint64_t extent : shape) count *= extent;
  SmallTensor tensor{std::move(shape), {}};
  for (std::uint64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tensor.values.push_back(static_cast<float>(static_cast<int>(state >> 33) % 17) / 8);
  }
  return tensor;
}

struct SmallModel {
  std::map<std::string, nlohmann::json> settings;  // GGUF: without the architecture; of a folder: config.json
  std::map<std::string, SmallTensor> tensors;
  std::string architecture;

  void add(const std::string& name, std::vector<std::uint64_t> shape) {
    tensors[name] = small_tensor(name, std::move(shape));
  }

  ModelFile gguf() const {
    GgufWriter writer;
    writer.text("general.architecture", architecture);
    for (const auto& [name, value] : settings) {
      const std::string key = architecture + "." + name;
      if (value.is_number_integer())
        writer.number(key, value);
      else if (value.is_number())
        writer.real(key, value);
      else if (value.is_boolean())
        writer.boolean(key, value);
      else if (value.is_array())
        writer.scalars(key, 7, value.get<std::vector<std::uint8_t>>());  // flags, 0 or 1
      else
        writer.text(key, value);
    }
    for (const auto& [name, tensor] : tensors)
      writer.tensor(name, {tensor.shape.rbegin(), tensor.shape.rend()}, tensor.values);
    return Gguf::parse(writer.finish());
  }
};

// Sizes of all small models: 2 heads and 1 of keys and values, of 4 entries.
struct Small {
  static constexpr std::size_t layers = 2, width = 8, heads = 2, kv_heads = 1, head_dim = 4, ff = 3, vocab = 5,
                               context = 6;
};

inline SmallModel small_gguf(const std::string& architecture) {
  using S = Small;
  SmallModel m;
  m.architecture = architecture;
  const bool gpt2 = architecture == "gpt2", fused = gpt2 || architecture == "phi3" || architecture == "chatglm";
  const bool gemma = architecture.starts_with("gemma"),
             qkv_bias = gpt2 || architecture == "qwen2" || architecture == "glm4" || architecture == "chatglm";
  const bool behind = architecture == "olmo2";
  const std::size_t kv_heads = gpt2 || behind ? S::heads : S::kv_heads, q = S::heads * S::head_dim,
                    kv = kv_heads * S::head_dim;
  m.settings = {{"block_count", S::layers},
                {"context_length", S::context},
                {"embedding_length", S::width},
                {"feed_forward_length", S::ff},
                {"attention.head_count", S::heads},
                {"attention.head_count_kv", kv_heads},
                {gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5}};
  if (gemma) m.settings["attention.sliding_window"] = 3;
  if (architecture == "glm4" || architecture == "chatglm") m.settings["rope.dimension_count"] = S::head_dim / 2;
  const auto norm = [&](const std::string& name, std::size_t size = S::width) {
    m.add(name + ".weight", {size});
    if (gpt2) m.add(name + ".bias", {size});
  };
  const auto linear = [&](const std::string& name, std::size_t rows, std::size_t cols, bool bias) {
    m.add(name + ".weight", {rows, cols});
    if (bias) m.add(name + ".bias", {rows});
  };
  linear("token_embd", S::vocab, S::width, false);
  if (gpt2) linear("position_embd", S::context, S::width, false);
  norm("output_norm");
  if (!gemma && !gpt2) linear("output", S::vocab, S::width, false);
  for (std::size_t l = 0; l < S::layers; ++l) {
    const std::string p = "blk." + std::to_string(l) + ".";
    if (!behind) norm(p + "attn_norm"), norm(p + "ffn_norm");
    if (fused)
      linear(p + "attn_qkv", q + 2 * kv, S::width, qkv_bias);
    else
      linear(p + "attn_q", q, S::width, qkv_bias), linear(p + "attn_k", kv, S::width, qkv_bias),
          linear(p + "attn_v", kv, S::width, qkv_bias);
    if (architecture == "qwen3" || architecture == "gemma3")
      norm(p + "attn_q_norm", S::head_dim), norm(p + "attn_k_norm", S::head_dim);
    if (behind) norm(p + "attn_q_norm", q), norm(p + "attn_k_norm", kv);
    linear(p + "attn_output", S::width, q, gpt2);
    const bool fused_up = architecture == "phi3" || architecture == "glm4" || architecture == "chatglm";
    if (!fused_up && !gpt2) linear(p + "ffn_gate", S::ff, S::width, false);
    linear(p + "ffn_up", fused_up ? 2 * S::ff : S::ff, S::width, gpt2);
    linear(p + "ffn_down", S::width, S::ff, gpt2);
    if (gemma || behind || architecture == "glm4") norm(p + "post_attention_norm"), norm(p + "post_ffw_norm");
  }
  return m;
}

inline SmallModel small_chatglm_6b() {
  using S = Small;
  SmallModel m;
  m.architecture = "chatglm-6b";
  m.settings = {{"model_type", "chatglm"},           {"num_layers", S::layers},    {"hidden_size", S::width},
                {"num_attention_heads", S::heads},   {"inner_hidden_size", S::ff}, {"vocab_size", S::vocab},
                {"max_sequence_length", S::context}, {"layernorm_epsilon", 1e-5},  {"position_encoding_2d", true}};
  const auto both = [&](const std::string& name, std::vector<std::uint64_t> shape) {
    const std::uint64_t rows = shape[0];
    m.add(name + ".weight", std::move(shape));
    m.add(name + ".bias", {rows});
  };
  m.add("transformer.word_embeddings.weight", {S::vocab, S::width});
  m.add("lm_head.weight", {S::vocab, S::width});
  both("transformer.final_layernorm", {S::width});
  for (std::size_t l = 0; l < S::layers; ++l) {
    const std::string p = "transformer.layers." + std::to_string(l) + ".";
    m.add(p + "attention.rotary_emb.inv_freq", {S::head_dim / 4});
    both(p + "input_layernorm", {S::width});
    both(p + "attention.query_key_value", {3 * S::width, S::width});
    both(p + "attention.dense", {S::width, S::width});
    both(p + "post_attention_layernorm", {S::width});
    both(p + "mlp.dense_h_to_4h", {S::ff, S::width});
    both(p + "mlp.dense_4h_to_h", {S::width, S::ff});
  }
  return m;
}

// ---- safetensors ---------------------------------------------------------------------------------------------------------

using FileBytes = std::vector<std::uint8_t>;

inline FileBytes bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

// A header, as it is, before data.
inline FileBytes safetensors(const std::string& header, const FileBytes& data) {
  const std::uint64_t length = header.size();
  FileBytes bytes(8 + header.size() + data.size());
  std::memcpy(bytes.data(), &length, 8);
  std::copy(header.begin(), header.end(), bytes.begin() + 8);
  std::copy(data.begin(), data.end(), bytes.end() - static_cast<std::ptrdiff_t>(data.size()));
  return bytes;
}

// The header of F32 tensors that follow one another, and their data.
inline std::pair<nlohmann::json, FileBytes> header_and_data(const std::map<std::string, SmallTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  FileBytes data;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t begin = data.size();
    data.resize(begin + tensor.values.size() * 4);
    std::memcpy(data.data() + begin, tensor.values.data(), tensor.values.size() * 4);
    header[name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return {header, data};
}

inline FileBytes safetensors(const std::map<std::string, SmallTensor>& tensors) {
  const auto [header, data] = header_and_data(tensors);
  return safetensors(header.dump(), data);
}

// A folder that goes when this does.
class TemporaryFolder {
 public:
  const std::filesystem::path& path() const { return folder_.path(); }
  void write(const std::string& name, const FileBytes& bytes) const {
    std::ofstream(path() / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  void write(const SmallModel& model) const {
    write("config.json", bytes_of(nlohmann::json(model.settings).dump()));
    write("model.safetensors", safetensors(model.tensors));
  }

 private:
  TemporaryDirectory folder_;
};

}  // namespace permllm::test
