// Writes small GGUF files: tensors of any type, a whole tiny llama model, and every way of spoiling one.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace permllm::test {

class GgufWriter {
 public:
  // A number that the file's structure depends on: where it stands, of how many bytes, and what the reader's errors call it.
  struct Field {
    std::string name;
    std::size_t at, bytes;
  };

  void text(const std::string& key, const std::string& value) {
    meta(key, 8, [&] { put_text(value, key); });
  }
  void number(const std::string& key, std::uint32_t value) { scalar(key, 4, value); }
  void real(const std::string& key, float value) { scalar(key, 6, value); }
  void boolean(const std::string& key, bool value) { scalar(key, 7, static_cast<std::uint8_t>(value)); }
  // A value of any type: 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool, 10 u64, 11 i64, 12 f64.
  template <class T>
  void scalar(const std::string& key, std::uint32_t type, T value) {
    meta(key, type, [&] { put(value); });
  }
  void texts(const std::string& key, const std::vector<std::string>& values) {
    list(key, 8, values, [&](const std::string& value) { put_text(value, key); });
  }
  void numbers(const std::string& key, const std::vector<std::int32_t>& values) { scalars(key, 5, values); }
  void reals(const std::string& key, const std::vector<float>& values) { scalars(key, 6, values); }
  template <class T>
  void scalars(const std::string& key, std::uint32_t type, const std::vector<T>& values) {
    list(key, type, values, [&](const T& value) { put(value); });
  }
  // A tensor of any type, from its bytes; shape as in the file (row length first).
  void tensor(const std::string& name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
              std::vector<std::uint8_t> data) {
    tensors_.push_back({name, shape, type, std::move(data)});
  }
  // One of F32, whatever type it claims to be.
  void tensor(const std::string& name, const std::vector<std::uint64_t>& shape, const std::vector<float>& values,
              std::uint32_t type = 0) {
    const auto bytes = std::as_bytes(std::span(values));
    const auto* from = reinterpret_cast<const std::uint8_t*>(bytes.data());
    tensor(name, shape, type, std::vector<std::uint8_t>(from, from + bytes.size()));
  }
  // Before finish: the parts of a split file, as llama.cpp's tool makes them. The first has all metadata.
  std::vector<GgufWriter> split(std::size_t count) const {
    std::vector<GgufWriter> parts(count);
    parts[0].bytes_ = bytes_;
    parts[0].fields_ = fields_;
    parts[0].metadata_ = metadata_;
    for (std::size_t p = 0; p < count; ++p) {
      parts[p].scalar("split.no", 2, static_cast<std::uint16_t>(p));
      parts[p].scalar("split.count", 2, static_cast<std::uint16_t>(count));
      parts[p].scalar("split.tensors.count", 5, static_cast<std::int32_t>(tensors_.size()));
      const auto at = [&](std::size_t part) {
        return tensors_.begin() + static_cast<std::ptrdiff_t>(part * tensors_.size() / count);
      };
      parts[p].tensors_.assign(at(p), at(p + 1));
    }
    return parts;
  }
  std::vector<std::uint8_t> finish() {
    std::vector<std::uint8_t> body = std::move(bytes_);
    std::vector<Field> body_fields = std::move(fields_);
    bytes_.clear();
    fields_.clear();
    put(std::uint32_t{0x46554747}, "magic");
    put(std::uint32_t{3}, "version");
    put(static_cast<std::uint64_t>(tensors_.size()), "tensor_count");
    put(metadata_, "metadata_count");
    for (const Field& field : body_fields) fields_.push_back({field.name, field.at + bytes_.size(), field.bytes});
    bytes_.insert(bytes_.end(), body.begin(), body.end());
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const Tensor& t = tensors_[i];
      put_text(t.name, "tensor[" + std::to_string(i) + "].name");
      put(static_cast<std::uint32_t>(t.shape.size()), "tensor " + t.name + ".dimensions");
      for (const std::uint64_t extent : t.shape) put(extent, "tensor " + t.name + ".shape");
      put(t.type);
      put(offset, "tensor " + t.name + ".offset");
      offset += (t.data.size() + 31) / 32 * 32;
    }
    info_end_ = bytes_.size();
    bytes_.resize((bytes_.size() + 31) / 32 * 32);
    for (const Tensor& t : tensors_) {
      const std::size_t at = bytes_.size();
      bytes_.resize(at + (t.data.size() + 31) / 32 * 32);
      if (!t.data.empty()) std::memcpy(bytes_.data() + at, t.data.data(), t.data.size());
    }
    return bytes_;
  }
  // After finish: length of header, metadata and tensor table (what parsing depends on), and the fields in it.
  std::size_t info_end() const { return info_end_; }
  const std::vector<Field>& fields() const { return fields_; }

 private:
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> shape;
    std::uint32_t type;
    std::vector<std::uint8_t> data;
  };
  template <class T>
  void put(T value, const std::string& field = "") {
    if (!field.empty()) fields_.push_back({field, bytes_.size(), sizeof value});
    const auto* from = reinterpret_cast<const std::uint8_t*>(&value);
    bytes_.insert(bytes_.end(), from, from + sizeof value);
  }
  void put_text(const std::string& value, const std::string& field) {
    put(static_cast<std::uint64_t>(value.size()), field);
    bytes_.insert(bytes_.end(), value.begin(), value.end());
  }
  void meta(const std::string& key, std::uint32_t type, const std::function<void()>& value) {
    put_text(key, "metadata[" + std::to_string(metadata_) + "].key");
    put(type, key + ".type");
    value();
    ++metadata_;
  }
  template <class T, class Put>
  void list(const std::string& key, std::uint32_t type, const std::vector<T>& values, const Put& put_value) {
    meta(key, 9, [&] {
      put(type, key + ".type");
      put(static_cast<std::uint64_t>(values.size()), key + ".length");
      for (const T& value : values) put_value(value);
    });
  }
  std::vector<std::uint8_t> bytes_;
  std::vector<Field> fields_;
  std::vector<Tensor> tensors_;
  std::uint64_t metadata_ = 0;
  std::size_t info_end_ = 0;
};

inline constexpr const char* k_chatml =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{{ "
    "'<|im_start|>assistant\\n' }}";

struct TinyOptions {
  std::uint32_t layers = 2, width = 32, heads = 4, kv_heads = 2, ff = 48, context = 64;
  bool tied = true;
  std::string architecture = "llama", tokenizer = "gpt2", pre = "smollm", chat_template = k_chatml;
  std::uint32_t tensor_type = 0;  // of blk.0.attn_q.weight, whatever its data is
  std::string name = "tiny";
  std::uint64_t rows = 0;  // of the embedding table; 0: one for each token
  std::vector<std::string> pieces =
      {};            // where there are some: a vocabulary of sentencepiece; the first three are <unk>, <s> and </s>
  float growth = 0;  // not 0: what the token k_growing alone adds to entry 9 of its residual, in layer 0, by one neuron
};

// "~" of tiny_llama's vocabulary of bytes. Its row is small.
inline constexpr std::uint32_t k_growing = 3 + '~';

// What makes that token's row grow: its embedding is 0.5 at entry 3, where all others have -1; normed it is the root of the width, and neuron 0 alone
// reads that entry.
inline void let_grow(const std::string& name, std::size_t cols, float growth, std::vector<float>& values) {
  constexpr std::size_t k_entry = 3, k_grown = 9;
  constexpr float k_gain = 16;
  const std::size_t rows = values.size() / cols;
  const auto at = [&](std::size_t row, std::size_t col) -> float& { return values[row * cols + col]; };
  if (name == "token_embd.weight") {
    for (std::size_t token = 0; token < rows; ++token) at(token, k_entry) = -1;
    for (std::size_t d = 0; d < cols; ++d) at(k_growing, d) = d == k_entry ? 0.5f : 0;
  } else if (name == "blk.0.attn_output.weight") {
    for (float& v : values) v *= 1e-3f;
  } else if (name == "blk.0.ffn_gate.weight" || name == "blk.0.ffn_up.weight") {
    for (std::size_t neuron = 0; neuron < rows; ++neuron) at(neuron, k_entry) = 0;
    for (std::size_t d = 0; d < cols; ++d) at(0, d) = d == k_entry ? k_gain : 0;
  } else if (name == "blk.0.ffn_down.weight") {
    const float active = k_gain * k_gain * static_cast<float>(rows);  // silu(x) x of x = k_gain sqrt(width)
    for (std::size_t d = 0; d < rows; ++d) at(d, 0) = d == k_grown ? growth / active : 0;
  }
}

// A tiny llama with random weights and a byte-level vocabulary: 256 bytes, ChatML's marks, one merge.
inline GgufWriter tiny_llama(const TinyOptions& o = {}) {
  GgufWriter w;
  std::mt19937 random(1);
  std::vector<std::string> tokens{"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<std::int32_t> types{3, 3, 3};
  unsigned extra = 256;
  const auto letter = [](unsigned code) {
    return code < 0x80 ? std::string(1, static_cast<char>(code))
                       : std::string{static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
  };
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    tokens.push_back(letter(printable ? byte : extra++));
    types.push_back(1);
  }
  tokens.push_back("th");
  types.push_back(1);
  if (!o.pieces.empty()) {
    tokens = o.pieces;
    types.assign(tokens.size(), 1);
    types[0] = 2, types[1] = types[2] = 3;
    w.reals("tokenizer.ggml.scores", std::vector<float>(tokens.size(), -1.0f));
  }
  const std::uint64_t table_rows = o.rows != 0 ? o.rows : tokens.size();
  w.text("general.architecture", o.architecture);
  w.text("general.name", o.name);
  w.number("llama.block_count", o.layers);
  w.number("llama.context_length", o.context);
  w.number("llama.embedding_length", o.width);
  w.number("llama.feed_forward_length", o.ff);
  w.number("llama.attention.head_count", o.heads);
  w.number("llama.attention.head_count_kv", o.kv_heads);
  w.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  w.text("tokenizer.ggml.model", o.pieces.empty() ? o.tokenizer : "llama");
  w.text("tokenizer.ggml.pre", o.pre);
  w.texts("tokenizer.ggml.tokens", tokens);
  w.numbers("tokenizer.ggml.token_type", types);
  w.texts("tokenizer.ggml.merges", {"t h"});
  w.number("tokenizer.ggml.eos_token_id", 2);
  w.text("tokenizer.chat_template", o.chat_template);
  const auto matrix = [&](const std::string& name, std::uint64_t cols, std::uint64_t rows, float size,
                          std::uint32_t type = 0) {
    std::normal_distribution<float> normal(0, size);
    std::vector<float> values(cols * rows);
    for (float& v : values) v = normal(random);
    if (o.growth != 0) let_grow(name, cols, o.growth, values);
    w.tensor(name, {cols, rows}, values, type);
  };
  const auto gain = [&](const std::string& name) { w.tensor(name, {o.width}, std::vector<float>(o.width, 1.0f)); };
  const std::uint64_t kv = o.width / o.heads * o.kv_heads;
  matrix("token_embd.weight", o.width, table_rows, 0.5f);
  for (std::uint32_t l = 0; l < o.layers; ++l) {
    const std::string p = "blk." + std::to_string(l) + ".";
    gain(p + "attn_norm.weight");
    matrix(p + "attn_q.weight", o.width, o.width, 0.2f, l == 0 ? o.tensor_type : 0);
    matrix(p + "attn_k.weight", o.width, kv, 0.2f);
    matrix(p + "attn_v.weight", o.width, kv, 0.2f);
    matrix(p + "attn_output.weight", o.width, o.width, 0.2f);
    gain(p + "ffn_norm.weight");
    matrix(p + "ffn_gate.weight", o.width, o.ff, 0.2f);
    matrix(p + "ffn_up.weight", o.width, o.ff, 0.2f);
    matrix(p + "ffn_down.weight", o.ff, o.width, 0.2f);
  }
  gain("output_norm.weight");
  if (!o.tied) matrix("output.weight", o.width, table_rows, 0.5f);
  return w;
}

// The bytes of one without a chat template, whose pieces are letters, each behind a blank as sentencepiece marks it.
inline std::string llama_of_letters() {
  std::vector<std::string> pieces{"<unk>", "<s>", "</s>"};
  for (char letter = 'a'; letter <= 'z'; ++letter) pieces.push_back(std::string("\xe2\x96\x81") + letter);
  const auto bytes = tiny_llama({.chat_template = "", .pieces = pieces}).finish();
  return {bytes.begin(), bytes.end()};
}

}  // namespace permllm::test
