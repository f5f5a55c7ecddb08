#include "model/architectures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>

#include "permllm/error.h"

namespace permllm {
namespace {

// What tells a GGUF architecture from llama.
struct Architecture {
  const char* name;
  bool halves = false;  // of the entries of a head that turn, those of the first half turn with those of the second
  bool qk_norm = false, post_norm = false;
  bool gemma = false;  // gelu; embeddings times sqrt(width); a window in some layers
  bool gpt2 = false;   // LayerNorm, gelu without a gate, learned positions
};
constexpr Architecture k_architectures[] = {
    {.name = "llama"},
    {.name = "qwen2", .halves = true},
    {.name = "qwen3", .halves = true, .qk_norm = true},
    {.name = "gemma2", .halves = true, .post_norm = true, .gemma = true},
    {.name = "gemma3", .halves = true, .qk_norm = true, .post_norm = true, .gemma = true},
    {.name = "phi3", .halves = true},
    {.name = "gpt2", .gpt2 = true},
    {.name = "glm4", .post_norm = true},
    {.name = "chatglm"},
};

const Architecture& architecture_of(const Gguf& file) {
  const std::string name = file.string("general.architecture");
  std::string known;
  for (const Architecture& architecture : k_architectures) {
    if (name == architecture.name) return architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.name);
  }
  throw Error(Code::unsupported, "general.architecture",
              fmt::format("\"{:.40}\" is not supported; {} are", name, known));
}

double checked(const std::string& key, double value, double least, double most) {
  if (!(value >= least && value <= most))
    throw Error(Code::file, key, fmt::format("{}, expected {} to {}", value, least, most));
  return value;
}

// A file's settings, whose keys begin with the architecture.
class Settings {
 public:
  Settings(const Gguf& file, std::string architecture) : file_(file), prefix_(std::move(architecture) + ".") {}
  std::string key(const std::string& name) const { return prefix_ + name; }
  bool has(const std::string& name) const { return file_.has(key(name)); }
  std::size_t count(const std::string& name, std::uint64_t least, std::uint64_t most) const {
    const std::uint64_t value = file_.number(key(name));
    if (value < least || value > most)
      throw Error(Code::file, key(name), fmt::format("{}, expected {} to {}", value, least, most));
    return value;
  }
  std::size_t count(const std::string& name, std::uint64_t least, std::uint64_t most, std::size_t absent) const {
    return has(name) ? count(name, least, most) : absent;
  }
  double real(const std::string& name, double least, double most) const {
    return checked(key(name), file_.real(key(name)), least, most);
  }
  double real(const std::string& name, double least, double most, double absent) const {
    return has(name) ? real(name, least, most) : absent;
  }
  std::string text(const std::string& name, const std::string& absent) const {
    return has(name) ? file_.string(key(name)) : absent;
  }

  // A setting that changes what the model says has to be what it is without the key.
  void refuse_unless(const std::string& name, double neutral) const {
    const auto found = file_.metadata().find(key(name));
    if (found == file_.metadata().end()) return;
    const bool same = std::visit(
        [&](const auto& value) {
          if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>)
            return static_cast<double>(value) == neutral;
          return false;
        },
        found->second);
    if (!same) throw Error(Code::unsupported, key(name), fmt::format("is supported as {} only", neutral));
  }

 private:
  const Gguf& file_;
  std::string prefix_;
};

void set_positions(Config& c, const ModelFile& file, const Settings& s) {
  const std::size_t dims = s.count("rope.dimension_count", 2, c.head_dim, c.head_dim);
  if (dims % 2 != 0) throw Error(Code::file, s.key("rope.dimension_count"), fmt::format("{} is odd", dims));
  c.rope = rope_frequencies(s.real("rope.freq_base", 1, 1e12, 10000), dims, c.head_dim);
  const std::string scaling = s.text("rope.scaling.type", "linear");
  if (scaling == "linear") {
    const double factor = s.real("rope.scaling.factor", 1e-3, 1e6, s.real("rope.scale_linear", 1e-3, 1e6, 1));
    for (double& frequency : c.rope) frequency /= factor;
  } else if (scaling != "none") {
    throw Error(Code::unsupported, s.key("rope.scaling.type"),
                fmt::format("\"{:.40}\" is not supported; none and linear are", scaling));
  }
  if (c.architecture == "llama" && file.find("rope_freqs.weight") != nullptr) {
    const std::vector<float> factors = Tensors(file).vector("rope_freqs.weight", dims / 2);
    for (std::size_t i = 0; i < factors.size(); ++i)
      c.rope[i] /= checked("tensor rope_freqs.weight", double{factors[i]}, 1e-6, 1e6);
  }
  if (c.architecture == "gemma3")
    c.rope_local = rope_frequencies(s.real("rope.freq_base_swa", 1, 1e12, 10000), dims, c.head_dim);
}

void set_window(Config& c, const Settings& s) {
  constexpr std::size_t k_most = 1 << 24;
  if (c.architecture == "gemma2" || c.architecture == "gemma3") {
    c.window = c.architecture == "gemma2" ? s.count("attention.sliding_window", 1, k_most, 4096)
                                          : s.count("attention.sliding_window", 1, k_most);
    c.global_every = s.count("attention.sliding_window_pattern", 1, 1000, c.architecture == "gemma2" ? 2 : 6);
    return;
  }
  // A window that is never full is none.
  c.window = s.count("attention.sliding_window", 0, k_most, 0);
  if (c.window >= c.context) c.window = 0;
}

void set_heads(Config& c, const Settings& s) {
  c.heads = s.count("attention.head_count", 1, 1 << 10);
  c.kv_heads = s.count("attention.head_count_kv", 1, 1 << 10, c.heads);
  if (c.heads % c.kv_heads != 0)
    throw Error(Code::file, s.key("attention.head_count_kv"),
                fmt::format("{} does not divide {} heads", c.kv_heads, c.heads));
  if (!s.has("attention.key_length") && c.width % c.heads != 0) {
    throw Error(Code::file, s.key("embedding_length"), fmt::format("{} is no multiple of {} heads", c.width, c.heads));
  }
  c.head_dim = s.count("attention.key_length", 2, 1 << 12, c.width / c.heads);
  if (c.head_dim % 2 != 0) throw Error(Code::file, s.key("attention.key_length"), fmt::format("{} is odd", c.head_dim));
  if (c.q_rows() > k_most_head_rows) {
    throw Error(Code::unsupported, s.key("attention.head_count"),
                fmt::format("{} heads of {}, at most {} in all are supported", c.heads, c.head_dim, k_most_head_rows));
  }
  s.refuse_unless("attention.value_length", static_cast<double>(c.head_dim));
}

}  // namespace

Config gguf_config(const ModelFile& file) {
  const Gguf& gguf = *file.gguf();
  const Architecture& a = architecture_of(gguf);
  const Settings s(gguf, a.name);
  Config c;
  c.architecture = a.name;
  c.name = gguf.has("general.name") ? gguf.string("general.name").substr(0, 256) : "unnamed model";
  c.layers = s.count("block_count", 1, 1000);
  c.width = s.count("embedding_length", 2, 1 << 17);
  set_heads(c, s);
  c.ff = s.count("feed_forward_length", 1, 1 << 19);
  c.context = s.count("context_length", 1, 1 << 24);
  c.norm = a.gpt2 ? NormKind::layer : NormKind::rms;
  c.norm_eps = s.real(a.gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 0, 1);
  c.activation = a.gpt2 || a.gemma ? Activation::gelu : Activation::silu;
  c.gated = !a.gpt2;
  c.qk_norm = a.qk_norm;
  c.post_norm = a.post_norm;
  if (a.gpt2) {
    c.positions = Positions::learned;
    c.rope.resize(c.head_dim / 2);
  } else {
    set_positions(c, file, s);
  }
  set_window(c, s);
  // Gemma's scale is query_pre_attn_scalar^-1/2, which no key holds: it is head_dim but for the models of 27B.
  const bool large = (c.architecture == "gemma2" && c.layers == 46) || (c.architecture == "gemma3" && c.layers == 62);
  c.score_scale = 1 / std::sqrt(static_cast<double>(large ? c.width / c.heads : c.head_dim));
  if (c.architecture == "gemma2") c.score_cap = s.real("attn_logit_softcapping", 0, 1e6, 50);
  if (a.gemma) c.logit_cap = s.real("final_logit_softcapping", 0, 1e6, c.architecture == "gemma2" ? 30 : 0);
  s.refuse_unless("attn_logit_softcapping", c.score_cap);
  s.refuse_unless("final_logit_softcapping", c.logit_cap);
  for (const char* name : {"expert_count", "attention.clamp_kqv", "attention.max_alibi_bias", "use_parallel_residual"})
    s.refuse_unless(name, 0);
  for (const char* name :
       {"attention.causal", "rope.scaling.attn_factor", "logit_scale", "residual_scale", "embedding_scale"})
    s.refuse_unless(name, 1);

  const GgufTensor* table = file.find("token_embd.weight");
  if (table == nullptr || table->shape.size() != 2)
    throw Error(Code::file, "tensor token_embd.weight", "is missing or no matrix");
  if (table->shape[1] > (1 << 20))
    throw Error(Code::unsupported, "tensor token_embd.weight", "more than 2^20 tokens are not supported");
  c.vocab = table->shape[1];
  c.tied_head = file.find("output.weight") == nullptr;
  const auto has = [&](const char* name) { return file.find(name) != nullptr; };
  c.qkv_bias = a.gpt2 || c.architecture == "qwen2" || has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias");
  c.up_bias = a.gpt2 || has("blk.0.ffn_up.bias");
  c.head_bias = a.gpt2 || has("output.bias");
  return c;
}

namespace {

// Entries of a head that turn with their position.
std::size_t turned_dims(const Config& c) {
  return 2 * static_cast<std::size_t>(
                 std::count_if(c.rope.begin(), c.rope.end(), [](double frequency) { return frequency != 0; }));
}

LayerWeights<MatrixSource> gguf_layer(const ModelFile& file, Tensors& tensors, const Config& c, const Architecture& a,
                                      std::size_t l) {
  const auto has = [&](const std::string& name) { return file.find(name) != nullptr; };
  const std::vector<std::uint32_t> pairs = adjacent_pairs(c.head_dim, a.halves ? turned_dims(c) : 0, 1);
  const bool o_bias = a.gpt2 || has("blk.0.attn_output.bias"), down_bias = a.gpt2 || has("blk.0.ffn_down.bias");
  const std::string p = fmt::format("blk.{}.", l);
  LayerWeights<MatrixSource> layer;
  using Names = std::vector<std::pair<std::string, std::size_t>>;
  const Names qkv = has(p + "attn_qkv.weight")
                        ? Names{{p + "attn_qkv", c.qkv_rows()}}
                        : Names{{p + "attn_q", c.q_rows()}, {p + "attn_k", c.kv_rows()}, {p + "attn_v", c.kv_rows()}};
  layer.qkv = tensors.matrix(qkv, c.width, c.qkv_bias ? &layer.qkv_bias : nullptr);
  if (a.halves) {
    const std::size_t first[] = {0, c.q_rows(), c.qk_rows()};
    order_qkv(
        c, [&](std::size_t kind, std::size_t head) { return first[kind] + head * c.head_dim; }, pairs, layer.qkv,
        layer.qkv_bias);
  }
  fold_norm(tensors, c, p + "attn_norm", layer.qkv);
  if (c.qk_norm) {
    const std::vector<float> q = tensors.vector(p + "attn_q_norm.weight", c.head_dim),
                             k = tensors.vector(p + "attn_k_norm.weight", c.head_dim);
    std::vector<float> gain;
    for (std::size_t head = 0; head < c.heads + c.kv_heads; ++head) {
      for (std::size_t e = 0; e < c.head_dim; ++e) gain.push_back((head < c.heads ? q : k)[pairs[e]]);
    }
    layer.qk_gain = to_gain(gain, p + "attn_q_norm.weight or attn_k_norm.weight");
  }
  layer.o = tensors.matrix({{p + "attn_output", c.width}}, c.q_rows(), o_bias ? &layer.o_bias : nullptr);
  const Names up = c.gated && has(p + "ffn_gate.weight") ? Names{{p + "ffn_gate", c.ff}, {p + "ffn_up", c.ff}}
                                                         : Names{{p + "ffn_up", c.up_rows()}};
  layer.up = tensors.matrix(up, c.width, c.up_bias ? &layer.up_bias : nullptr);
  fold_norm(tensors, c, p + "ffn_norm", layer.up);
  layer.down = tensors.matrix({{p + "ffn_down", c.width}}, c.ff, down_bias ? &layer.down_bias : nullptr);
  if (c.post_norm) {
    const auto gain = [&](const std::string& name) { return to_gain(tensors.vector(name, c.width), name); };
    layer.attention_gain = gain(p + "post_attention_norm.weight");
    layer.mlp_gain = gain(p + "post_ffw_norm.weight");
  }
  return layer;
}

}  // namespace

ModelSource gguf_source(const ModelFile& file) {
  ModelSource w;
  w.config = gguf_config(file);
  const Config& c = w.config;
  const Architecture& a = architecture_of(*file.gguf());
  Tensors tensors(file);
  const auto has = [&](const std::string& name) { return file.find(name) != nullptr; };
  if (c.architecture == "llama" && has("rope_freqs.weight")) tensors.vector("rope_freqs.weight", turned_dims(c) / 2);
  w.embed = tensors.matrix({{"token_embd", c.vocab}}, c.width);
  if (a.gemma) w.embed.gain.assign(c.width, std::sqrt(static_cast<float>(c.width)));
  w.head = tensors.matrix({{c.tied_head ? "token_embd" : "output", c.vocab}}, c.width,
                          has("output.bias") ? &w.head_bias : nullptr);
  fold_norm(tensors, c, "output_norm", w.head);
  if (c.positions == Positions::learned) {
    const MatrixSource table = tensors.matrix({{"position_embd", c.context}}, c.width);
    w.positions.resize(c.context * c.width);
    for (std::size_t r = 0; r < c.context; ++r) table.row(r, std::span(w.positions).subspan(r * c.width, c.width));
    for (const float v : w.positions) {
      if (!std::isfinite(v))
        throw Error(Code::file, "tensor position_embd.weight", "holds a number that is not finite");
    }
  }
  for (std::size_t l = 0; l < c.layers; ++l) {
    w.layers.push_back(gguf_layer(file, tensors, c, a, l));
  }
  tensors.refuse_others(c.architecture);
  return w;
}

}  // namespace permllm
