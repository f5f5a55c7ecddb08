#include "model/architectures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
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
  std::size_t global_every = 0;   // such layers, counted from 1, have no window where the file has no other pattern
  std::size_t unturned_every = 0;  // such layers do not turn their heads
  bool multiplied = false;        // factors of embeddings, scores, logits, and of what attention and MLP put out
  bool behind = false;    // norms stand behind matrices alone; those of q and k are over all heads
  bool tempered = false;          // scores grow with the position, from the length on that the model was trained with first
  bool gpt2 = false;   // LayerNorm, gelu without a gate, learned positions
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
  bool flag(const std::string& name, bool absent) const { return has(name) ? file_.boolean(key(name)) : absent; }
  // Whether each of `size` layers is meant: a list, or a number of which every multiple, counted from 1, is not.
  std::vector<bool> pattern(const std::string& name, std::size_t size, std::size_t absent) const {
    const auto found = file_.metadata().find(key(name));
    std::vector<bool> flags;
    const auto from = [&](const auto& list) {
      for (const auto entry : list) flags.push_back(entry != 0);
    };
    if (found != file_.metadata().end()) std::visit([&](const auto& value) {
      using Value = std::decay_t<decltype(value)>;
      if constexpr (std::is_same_v<Value, std::vector<bool>> || std::is_same_v<Value, std::vector<std::int64_t>> ||
                    std::is_same_v<Value, std::vector<std::uint64_t>>)
        from(value);
    }, found->second);
    if (flags.empty()) {
      const std::size_t every = count(name, 1, 1000, absent);
      for (std::size_t l = 0; l < size; ++l) flags.push_back((l + 1) % every != 0);
    }
    if (flags.size() != size)
      throw Error(Code::file, key(name), fmt::format("{} entries, expected one for each of {} layers", flags.size(), size));
    return flags;
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

  // Each key below `group` that is not among `known` might change what the model says.
  void refuse_others(const std::string& group, std::initializer_list<std::string_view> known) const {
    const std::string begin = key(group);
    for (auto entry = file_.metadata().lower_bound(begin); entry != file_.metadata().end() && entry->first.starts_with(begin); ++entry) {
      if (std::find(known.begin(), known.end(), std::string_view(entry->first).substr(begin.size())) == known.end())
        throw Error(Code::unsupported, entry->first, fmt::format("is not known in a model of architecture {:.40}", file_.string("general.architecture")));
    }
  }

 private:
  const Gguf& file_;
  std::string prefix_;
};

// How positions were stretched, arXiv 2309.00071: frequencies that turn fewer than beta_slow times within the first length are divided by the
// factor, those that turn more than beta_fast times stay, those between in between.
void set_yarn(Config& c, const Settings& s, double base, std::size_t dims, std::size_t original) {
  if (!s.has("rope.scaling.original_context_length"))
    throw Error(Code::file, s.key("rope.scaling.original_context_length"), "is missing, and rope.scaling.type \"yarn\" needs it");
  s.refuse_unless("rope.scaling.yarn_ext_factor", 1);
  const double factor = s.real("rope.scaling.factor", 1, 1e6), fast = s.real("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32),
               slow = s.real("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1);
  const auto pair_of = [&](double turns) {  // the pair that turns so many times within the first length
    return static_cast<double>(dims) * std::log(static_cast<double>(original) / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double low = std::max(0.0, std::floor(pair_of(fast))),
               high = std::min(static_cast<double>(dims) - 1, std::ceil(pair_of(slow)));
  for (std::size_t i = 0; i < dims / 2; ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / std::max(1e-3, high - low), 0.0, 1.0);
    c.rope[i] *= stretched / factor + (1 - stretched);
  }
}
// Of the turned entries of q and k: what their scores grow by, so that they stay as sharp over longer contexts.
double yarn_magnitude(const Settings& s) {
  const double factor = s.real("rope.scaling.factor", 1, 1e6), all = s.real("rope.scaling.yarn_log_multiplier", 0, 1e3, 0);
  const auto magnitude = [&](double of) { return 0.1 * of * std::log(factor) + 1; };
  return s.real("rope.scaling.yarn_attn_factor", 1e-3, 1e3, magnitude(1) / magnitude(all));
}

bool is_longrope(const ModelFile& file, const Settings& s) {
  return s.text("rope.scaling.type", "") == "longrope" || file.find("rope_factors_long.weight") != nullptr;
}
constexpr const char* k_long_factors[] = {"rope_factors_long.weight", "rope_factors_short.weight"};

// arXiv 2402.13753: each frequency is divided by a factor of its own, other ones where the context is longer than it was first.
void set_longrope(Config& c, const ModelFile& file, const Settings& s, std::size_t dims, std::size_t original) {
  for (const char* name : k_long_factors) {
    if (file.find(name) == nullptr)
      throw Error(Code::file, fmt::format("tensor {}", name), "is missing, and positions scaled by longrope need it");
  }
  s.refuse_unless("rope.scaling.factor", 1);
  c.rope_short = c.rope;
  c.rope_short_tokens = original;
  for (const auto& [name, frequencies] : {std::pair(k_long_factors[0], &c.rope), std::pair(k_long_factors[1], &c.rope_short)}) {
    const std::vector<float> factors = Tensors(file).vector(name, dims / 2);
    for (std::size_t i = 0; i < factors.size(); ++i)
      (*frequencies)[i] /= checked(fmt::format("tensor {}", name), double{factors[i]}, 1e-6, 1e6);
  }
}

// What the turned entries of q and of k are multiplied by.
double turned_magnitude(const ModelFile& file, const Settings& s, const Config& c) {
  const auto original = static_cast<double>(s.count("rope.scaling.original_context_length", 2, 1 << 24, c.context));
  const double grown = static_cast<double>(c.context) / original;
  const double longrope = grown > 1 ? std::sqrt(1 + std::log(grown) / std::log(original)) : 1;
  if (is_longrope(file, s)) return s.real("rope.scaling.attn_factor", 1e-3, 1e3, longrope);
  return s.real("rope.scaling.attn_factor", 1e-3, 1e3, 1) * (s.text("rope.scaling.type", "") == "yarn" ? yarn_magnitude(s) : 1);
}

void set_positions(Config& c, const Architecture& a, const ModelFile& file, const Settings& s) {
  const std::size_t dims = s.count("rope.dimension_count", 2, c.head_dim, c.head_dim);
  if (dims % 2 != 0) throw Error(Code::file, s.key("rope.dimension_count"), fmt::format("{} is odd", dims));
  s.refuse_unless("rope.dimension_count_swa", static_cast<double>(dims));
  const double base = s.real("rope.freq_base", 1, 1e12, 10000);
  c.rope = rope_frequencies(base, dims, c.head_dim);
  const std::size_t original = s.count("rope.scaling.original_context_length", 2, 1 << 24, c.context);
  const std::string scaling = s.text("rope.scaling.type", "linear");
  if (is_longrope(file, s) && (scaling == "linear" || scaling == "longrope")) {
    set_longrope(c, file, s, dims, original);
  } else if (scaling == "yarn") {
    set_yarn(c, s, base, dims, original);
  } else if (scaling == "linear") {
    const double factor = s.real("rope.scaling.factor", 1e-3, 1e6, s.real("rope.scale_linear", 1e-3, 1e6, 1));
    for (double& frequency : c.rope) frequency /= factor;
  } else if (scaling != "none") {
    throw Error(Code::unsupported, s.key("rope.scaling.type"),
                fmt::format("\"{:.40}\" is not supported; none, linear, yarn and longrope are", scaling));
  }
  if (c.architecture == "llama" && file.find("rope_freqs.weight") != nullptr) {
    const std::vector<float> factors = Tensors(file).vector("rope_freqs.weight", dims / 2);
    for (std::size_t i = 0; i < factors.size(); ++i)
      c.rope[i] /= checked("tensor rope_freqs.weight", double{factors[i]}, 1e-6, 1e6);
  }
  // Those of windows are as they were before positions were stretched.
  if (a.behind && s.count("attention.sliding_window", 0, 1 << 24, 0) != 0)
    c.rope_local = rope_frequencies(s.real("rope.freq_base_swa", 1, 1e12, base), dims, c.head_dim);
  if (c.architecture == "gemma3") {
    c.rope_local = rope_frequencies(s.real("rope.freq_base_swa", 1, 1e12, 10000), dims, c.head_dim);
    if (turned_magnitude(file, s, c) != 1)
      throw Error(Code::unsupported, s.key("rope.scaling.type"), fmt::format("\"{:.40}\" beside positions of windows is not supported", scaling));
  }
  for (std::size_t l = 0; a.unturned_every != 0 && l < c.layers; ++l)
    c.turned.push_back((l + 1) % a.unturned_every != 0);
  // Granite alone takes the key so.
  if (a.multiplied && !s.flag("rope.scaling.finetuned", true)) c.turned.assign(c.layers, false);
}

void set_window(Config& c, const Architecture& a, const Settings& s) {
  constexpr std::size_t k_most = 1 << 24;
  const bool optional = a.behind && s.count("attention.sliding_window", 0, k_most, 0) == 0;  // OLMo 2 has none, OLMo 3 has
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
  s.refuse_others("attention.", {"head_count", "head_count_kv", "key_length", "value_length", "key_length_swa", "value_length_swa",
                                 "layer_norm_epsilon", "layer_norm_rms_epsilon", "sliding_window", "sliding_window_pattern", "causal",
                                 "clamp_kqv", "max_alibi_bias", "scale", "temperature_scale"});
  s.refuse_others("rope.", {"dimension_count", "dimension_count_swa", "freq_base", "freq_base_swa", "scale_linear", "scaling.type",
                            "scaling.factor", "scaling.original_context_length", "scaling.finetuned", "scaling.attn_factor",
                            "scaling.yarn_log_multiplier", "scaling.yarn_ext_factor", "scaling.yarn_attn_factor",
                            "scaling.yarn_beta_fast", "scaling.yarn_beta_slow"});
  for (const char* name : {"attention.key_length_swa", "attention.value_length_swa"})
    s.refuse_unless(name, static_cast<double>(c.head_dim));
  const double scale = s.real("attention.scale", 0, 999, 0);  // 0: as without the key
  if (scale != 0 && a.multiplied) {
    c.score_scale = checked(s.key("attention.scale"), scale, 1e-6, 999);
  } else if (scale != 0 && std::fabs(scale / c.score_scale - 1) > 1e-6) {
    throw Error(Code::unsupported, s.key("attention.scale"),
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
  if (c.whole_norm && c.heads != c.kv_heads) {
    throw Error(Code::unsupported, s.key("attention.head_count_kv"),
                fmt::format("{} of {} heads: norms of all of q and of all of k are supported where both have as many", c.kv_heads, c.heads));
  }
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
std::size_t turned_dims(const Config& c) {
  return 2 * static_cast<std::size_t>(
                 std::count_if(c.rope.begin(), c.rope.end(), [](double frequency) { return frequency != 0; }));
}

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
  if (!a.gpt2) m.turned = turned_magnitude(file, s, c);
  return m;
}
// For `rows` rows, where it is one.
void multiply_rows(double factor, std::size_t rows, MatrixSource& matrix, std::vector<float>* bias = nullptr) {
  if (factor != 1) scale_rows(std::vector<float>(rows, static_cast<float>(factor)), matrix, bias);
}

LayerWeights<MatrixSource> gguf_layer(const ModelFile& file, Tensors& tensors, const Config& c, const Architecture& a,
                                      const Multipliers& multipliers, std::size_t l) {
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
  if (c.pre_norm)
    fold_norm(tensors, c, p + "attn_norm", layer.qkv);
  else
    multiply_rows(1 / k_plain_scale, c.qkv_rows(), layer.qkv);
  const std::vector<double> rope = c.rope_of(l);
  const bool local = c.windowed(l) && !c.rope_local.empty();
  const auto magnitude = [&](std::size_t e) { return local || rope[e / 2] == 0 ? 1.0f : static_cast<float>(multipliers.turned); };
  if (multipliers.turned != 1 && !c.qk_norm) {
    std::vector<float> factors(c.qkv_rows(), 1);
    for (std::size_t r = 0; r < c.qk_rows(); ++r) factors[r] = magnitude(r % c.head_dim);
    scale_rows(factors, layer.qkv, &layer.qkv_bias);
  }
  if (c.qk_norm) {
    const std::vector<float> q = tensors.vector(p + "attn_q_norm.weight", c.qk_norm_size()),
                             k = tensors.vector(p + "attn_k_norm.weight", c.qk_norm_size());
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
  if (c.architecture == "llama" && has("rope_freqs.weight")) tensors.vector("rope_freqs.weight", turned_dims(c) / 2);
  if (is_longrope(file, Settings(*file.gguf(), a.name))) {
    for (const char* name : k_long_factors) tensors.vector(name, turned_dims(c) / 2);
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
