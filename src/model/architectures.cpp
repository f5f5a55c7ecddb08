#include "model/architectures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <type_traits>

#include "model/positions.h"
#include "model/settings.h"
#include "permllm/error.h"

namespace permllm {
namespace {

// What tells a GGUF architecture from llama.
struct Architecture {
  const char* name;
  bool halves = false;  // of the entries of a head that turn, those of the first half turn with those of the second
  bool qk_norm = false, post_norm = false;
  bool gemma = false;              // gelu; embeddings times sqrt(width); a window in some layers
  std::size_t global_every = 0;    // such layers, counted from 1, have no window where the file has no other pattern
  std::size_t unturned_every = 0;  // such layers do not turn their heads
  bool multiplied = false;         // factors of embeddings, scores, logits, and of what attention and MLP put out
  bool behind = false;             // norms stand behind matrices alone; those of q and k are over all heads
  bool tempered = false;  // scores grow with the position, from the length on that the model was trained with first
  bool gpt2 = false;      // LayerNorm, gelu without a gate, learned positions
};
constexpr Architecture k_architectures[] = {
    {.name = "llama"},
    {.name = "qwen2", .halves = true},
    {.name = "qwen3", .halves = true, .qk_norm = true},
    {.name = "gemma2", .halves = true, .post_norm = true, .gemma = true, .global_every = 2},
    {.name = "gemma3", .halves = true, .qk_norm = true, .post_norm = true, .gemma = true, .global_every = 6},
    {.name = "phi3", .halves = true},
    {.name = "gpt2", .gpt2 = true},
    {.name = "glm4", .post_norm = true},
    {.name = "chatglm"},
    {.name = "smollm3", .unturned_every = 4},
    {.name = "granite", .multiplied = true},
    {.name = "mistral3", .tempered = true},
    {.name = "olmo2", .halves = true, .qk_norm = true, .post_norm = true, .global_every = 4, .behind = true},
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

void set_positions(Config& c, const Architecture& a, const ModelFile& file, const Settings& s) {
  set_rotary(c, file, s);
  const std::size_t dims = 2 * turned_pairs(c);
  const double base = s.real("rope.freq_base", 1, 1e12, 10000);
  // Those of windows are as they were before positions were stretched.
  const auto local = [&](double absent) {
    c.rope_local = rope_frequencies(s.real("rope.freq_base_swa", 1, 1e12, absent), dims, c.head_dim);
  };
  if (a.behind && s.count("attention.sliding_window", 0, 1 << 24, 0) != 0) {
    local(base);
  } else if (c.architecture == "gemma3") {
    local(10000);
    if (turned_magnitude(c, file, s) != 1)
      throw Error(Code::unsupported, s.key("rope.scaling.type"),
                  "beside positions of windows none grows, expected none or linear");
  } else {
    s.refuse_unless("rope.freq_base_swa", base);
  }
  for (std::size_t l = 0; a.unturned_every != 0 && l < c.layers; ++l)
    c.turned.push_back((l + 1) % a.unturned_every != 0);
  // Granite alone takes the key so.
  if (a.multiplied && !s.flag("rope.scaling.finetuned", true)) c.turned.assign(c.layers, false);
}

void set_window(Config& c, const Architecture& a, const Settings& s) {
  constexpr std::size_t k_most = 1 << 24;
  const bool optional =
      a.behind && s.count("attention.sliding_window", 0, k_most, 0) == 0;  // OLMo 2 has none, OLMo 3 has
  if (a.global_every != 0 && !optional) {
    c.window = c.architecture == "gemma2" ? s.count("attention.sliding_window", 1, k_most, 4096)
                                          : s.count("attention.sliding_window", 1, k_most);
    c.windows = s.pattern("attention.sliding_window_pattern", c.layers, a.global_every);
    return;
  }
  // A window that is never full is none.
  c.window = s.count("attention.sliding_window", 0, k_most, 0);
  if (c.window >= c.context) c.window = 0;
  if (c.window != 0 && s.has("attention.sliding_window_pattern"))
    throw Error(Code::unsupported, s.key("attention.sliding_window_pattern"),
                fmt::format("is not known in a model of architecture {}: all layers have its window", c.architecture));
}

// Keys that change what attention does have to be known ones. Where scores grow with the position, up to the position from which they do.
void set_attention(Config& c, const Architecture& a, const Settings& s) {
  s.refuse_others("attention.",
                  {"head_count", "head_count_kv", "key_length", "value_length", "key_length_swa", "value_length_swa",
                   "layer_norm_epsilon", "layer_norm_rms_epsilon", "sliding_window", "sliding_window_pattern", "causal",
                   "clamp_kqv", "max_alibi_bias", "scale", "temperature_scale"});
  s.refuse_others("rope.", {"dimension_count", "dimension_count_swa", "freq_base", "freq_base_swa", "scale_linear",
                            "scaling.type", "scaling.factor", "scaling.original_context_length", "scaling.finetuned",
                            "scaling.attn_factor", "scaling.yarn_log_multiplier", "scaling.yarn_ext_factor",
                            "scaling.yarn_attn_factor", "scaling.yarn_beta_fast", "scaling.yarn_beta_slow"});
  for (const char* name : {"attention.key_length_swa", "attention.value_length_swa"})
    s.refuse_unless(name, static_cast<double>(c.head_dim));
  const double scale = s.real("attention.scale", 0, 999, 0);  // 0: as without the key
  if (scale != 0 && a.multiplied) {
    c.score_scale = checked(s.key("attention.scale"), scale, 1e-6, 999);
  } else if (scale != 0 && std::fabs(scale / c.score_scale - 1) > 1e-6) {
    throw Error(
        Code::unsupported, s.key("attention.scale"),
        fmt::format("{}, but scores of architecture {} have the factor {}", scale, c.architecture, c.score_scale));
  }
  if (a.tempered && s.real("attention.temperature_scale", 0, 1e3, 0) != 0) {
    c.context = std::min(c.context, s.count("rope.scaling.original_context_length", 1, 1 << 24));
  } else {
    s.refuse_unless("attention.temperature_scale", 0);
  }
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
  c.pre_norm = !a.behind;
  c.whole_norm = a.behind;
  if (a.gpt2) {
    c.positions = Positions::learned;
    c.rope.resize(c.head_dim / 2);
  } else {
    set_positions(c, a, file, s);
  }
  set_window(c, a, s);
  // Gemma's scale is query_pre_attn_scalar^-1/2, which no key holds: it is head_dim but for the models of 27B.
  const bool large = (c.architecture == "gemma2" && c.layers == 46) || (c.architecture == "gemma3" && c.layers == 62);
  c.score_scale = 1 / std::sqrt(static_cast<double>(large ? c.width / c.heads : c.head_dim));
  set_attention(c, a, s);
  if (c.architecture == "gemma2") c.score_cap = s.real("attn_logit_softcapping", 0, 1e6, 50);
  if (a.gemma) c.logit_cap = s.real("final_logit_softcapping", 0, 1e6, c.architecture == "gemma2" ? 30 : 0);
  s.refuse_unless("attn_logit_softcapping", c.score_cap);
  s.refuse_unless("final_logit_softcapping", c.logit_cap);
  for (const char* name : {"expert_count", "attention.clamp_kqv", "attention.max_alibi_bias", "use_parallel_residual"})
    s.refuse_unless(name, 0);
  s.refuse_unless("attention.causal", 1);
  if (a.gpt2) s.refuse_unless("rope.scaling.attn_factor", 1);
  for (const char* name : {"logit_scale", "residual_scale", "embedding_scale"}) {
    if (!a.multiplied) s.refuse_unless(name, 1);
  }

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
// What the file multiplies by, folded into the matrices.
struct Multipliers {
  double embedding = 1, residual = 1, logits = 1;
  double turned = 1;  // the entries of q and k that turn
};
Multipliers multipliers_of(const ModelFile& file, const Config& c, const Architecture& a) {
  const Settings s(*file.gguf(), a.name);
  Multipliers m;
  if (a.gemma) m.embedding = std::sqrt(static_cast<double>(c.width));
  const auto of = [&](const char* name) {
    const double value = s.real(name, 0, 1e6, 1);
    return value == 0 ? 1 : checked(s.key(name), value, 1e-6, 1e6);  // 0: none
  };
  if (a.multiplied) {
    m.embedding = of("embedding_scale");
    m.residual = of("residual_scale");
    m.logits = 1 / of("logit_scale");
  }
  if (!a.gpt2) m.turned = turned_magnitude(c, file, s);
  return m;
}
// For `rows` rows, where it is one.
void multiply_rows(double factor, std::size_t rows, MatrixSource& matrix, std::vector<float>* bias = nullptr) {
  if (factor != 1) scale_rows(std::vector<float>(rows, static_cast<float>(factor)), matrix, bias);
}

LayerWeights<MatrixSource> gguf_layer(const ModelFile& file, Tensors& tensors, const Config& c, const Architecture& a,
                                      const Multipliers& multipliers, std::size_t l) {
  const auto has = [&](const std::string& name) { return file.find(name) != nullptr; };
  const std::vector<std::uint32_t> pairs = adjacent_pairs(c.head_dim, a.halves ? 2 * turned_pairs(c) : 0, 1);
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
  if (c.pre_norm)
    fold_norm(tensors, c, p + "attn_norm", layer.qkv);
  else
    multiply_rows(1 / k_plain_scale, c.qkv_rows(), layer.qkv);
  const std::vector<double> rope = c.rope_of(l);
  const bool local = c.windowed(l) && !c.rope_local.empty();
  const auto magnitude = [&](std::size_t e) {
    return local || rope[e / 2] == 0 ? 1.0f : static_cast<float>(multipliers.turned);
  };
  if (multipliers.turned != 1 && !c.qk_norm) {
    std::vector<float> factors(c.qkv_rows(), 1);
    for (std::size_t r = 0; r < c.qk_rows(); ++r) factors[r] = magnitude(r % c.head_dim);
    scale_rows(factors, layer.qkv, &layer.qkv_bias);
  }
  if (c.qk_norm) {
    const std::vector<float> q = tensors.vector(p + "attn_q_norm.weight", c.qk_norm_size(0)),
                             k = tensors.vector(p + "attn_k_norm.weight", c.qk_norm_size(c.q_rows()));
    std::vector<float> gain;
    for (std::size_t head = 0; head < c.heads + c.kv_heads; ++head) {
      const std::vector<float>& own = head < c.heads ? q : k;
      const std::size_t begin = c.whole_norm ? head % c.heads * c.head_dim : 0;
      for (std::size_t e = 0; e < c.head_dim; ++e) gain.push_back(own[begin + pairs[e]] * magnitude(e));
    }
    layer.qk_gain = to_gain(gain, p + "attn_q_norm.weight or attn_k_norm.weight");
  }
  layer.o = tensors.matrix({{p + "attn_output", c.width}}, c.q_rows(), o_bias ? &layer.o_bias : nullptr);
  multiply_rows(multipliers.residual, c.width, layer.o, &layer.o_bias);
  const Names up = c.gated && has(p + "ffn_gate.weight") ? Names{{p + "ffn_gate", c.ff}, {p + "ffn_up", c.ff}}
                                                         : Names{{p + "ffn_up", c.up_rows()}};
  layer.up = tensors.matrix(up, c.width, c.up_bias ? &layer.up_bias : nullptr);
  if (c.pre_norm)
    fold_norm(tensors, c, p + "ffn_norm", layer.up);
  else
    multiply_rows(1 / k_plain_scale, c.up_rows(), layer.up);
  layer.down = tensors.matrix({{p + "ffn_down", c.width}}, c.ff, down_bias ? &layer.down_bias : nullptr);
  multiply_rows(multipliers.residual, c.width, layer.down, &layer.down_bias);
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
  if (c.architecture == "llama" && has("rope_freqs.weight")) tensors.vector("rope_freqs.weight", turned_pairs(c));
  if (!a.gpt2 && is_longrope(file, Settings(*file.gguf(), a.name))) {
    for (const char* name : k_long_factors) tensors.vector(name, turned_pairs(c));
  }
  w.embed = tensors.matrix({{"token_embd", c.vocab}}, c.width);
  const Multipliers multipliers = multipliers_of(file, c, a);
  multiply_rows(multipliers.embedding, c.vocab, w.embed);
  w.head = tensors.matrix({{c.tied_head ? "token_embd" : "output", c.vocab}}, c.width,
                          has("output.bias") ? &w.head_bias : nullptr);
  multiply_rows(multipliers.logits, c.vocab, w.head, &w.head_bias);
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
    w.layers.push_back(gguf_layer(file, tensors, c, a, multipliers, l));
  }
  tensors.refuse_others(c.architecture);
  return w;
}

}  // namespace permllm
