#include "model/positions.h"

#include <cmath>
#include <numbers>

#include "model/matrix_source.h"

namespace permllm {
namespace {

// How positions were stretched, arXiv 2309.00071: frequencies that turn fewer than beta_slow times within the first length are divided by the
// factor, those that turn more than beta_fast times stay, those between in between.
void set_yarn(Config& c, const Settings& s, double base, std::size_t dims, std::size_t original) {
  if (!s.has("rope.scaling.original_context_length"))
    throw Error(Code::file, s.key("rope.scaling.original_context_length"),
                "is missing, and rope.scaling.type \"yarn\" needs it");
  s.refuse_unless("rope.scaling.yarn_ext_factor", 1);
  const double factor = s.real("rope.scaling.factor", 1, 1e6),
               fast = s.real("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32),
               slow = s.real("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1);
  const auto pair_of = [&](double turns) {  // the pair that turns so many times within the first length
    return static_cast<double>(dims) * std::log(static_cast<double>(original) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(base));
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
  const double factor = s.real("rope.scaling.factor", 1, 1e6),
               all = s.real("rope.scaling.yarn_log_multiplier", 0, 1e3, 0);
  const auto magnitude = [&](double of) { return 0.1 * of * std::log(factor) + 1; };
  return s.real("rope.scaling.yarn_attn_factor", 1e-3, 1e3, magnitude(1) / magnitude(all));
}

// arXiv 2402.13753: each frequency is divided by a factor of its own, other ones where the context is longer than it was first.
void set_longrope(Config& c, const ModelFile& file, const Settings& s, std::size_t dims, std::size_t original) {
  for (const char* name : k_long_factors) {
    if (file.find(name) == nullptr)
      throw Error(Code::file, fmt::format("tensor {}", name), "is missing, and positions scaled by longrope need it");
  }
  s.refuse_unless("rope.scaling.factor", 1);
  c.rope_short = c.rope;
  c.rope_short_tokens = original;
  for (const auto& [name, frequencies] :
       {std::pair(k_long_factors[0], &c.rope), std::pair(k_long_factors[1], &c.rope_short)}) {
    const std::vector<float> factors = Tensors(file).vector(name, dims / 2);
    for (std::size_t i = 0; i < factors.size(); ++i)
      (*frequencies)[i] /= checked(fmt::format("tensor {}", name), double{factors[i]}, 1e-6, 1e6);
  }
}

}  // namespace

bool is_longrope(const ModelFile& file, const Settings& s) {
  return s.text("rope.scaling.type", "") == "longrope" || file.find("rope_factors_long.weight") != nullptr;
}

double turned_magnitude(const Config& c, const ModelFile& file, const Settings& s) {
  const auto original = static_cast<double>(s.count("rope.scaling.original_context_length", 2, 1 << 24, c.context));
  const double grown = static_cast<double>(c.context) / original;
  const double longrope = grown > 1 ? std::sqrt(1 + std::log(grown) / std::log(original)) : 1;
  if (is_longrope(file, s)) return s.real("rope.scaling.attn_factor", 1e-3, 1e3, longrope);
  return s.real("rope.scaling.attn_factor", 1e-3, 1e3, 1) *
         (s.text("rope.scaling.type", "") == "yarn" ? yarn_magnitude(s) : 1);
}

std::size_t turned_pairs(const Config& c) {
  return static_cast<std::size_t>(
      std::count_if(c.rope.begin(), c.rope.end(), [](double frequency) { return frequency != 0; }));
}

void set_rotary(Config& c, const ModelFile& file, const Settings& s) {
  const std::size_t dims = s.count("rope.dimension_count", 2, c.head_dim, c.head_dim);
  if (dims % 2 != 0) throw Error(Code::file, s.key("rope.dimension_count"), fmt::format("{} is odd", dims));
  s.refuse_unless("rope.dimension_count_swa", static_cast<double>(dims));
  const double base = s.real("rope.freq_base", 1, 1e12, 10000);
  c.rope = rope_frequencies(base, dims, c.head_dim);
  const std::size_t original = s.count("rope.scaling.original_context_length", 2, 1 << 24, c.context);
  const std::string scaling = s.text("rope.scaling.type", "linear");
  if (is_longrope(file, s)) {
    if (scaling != "linear" && scaling != "longrope")
      throw Error(Code::unsupported, s.key("rope.scaling.type"),
                  fmt::format("\"{:.40}\" beside factors of longrope is not supported", scaling));
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
}

}  // namespace permllm
