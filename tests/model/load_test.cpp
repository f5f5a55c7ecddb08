#include "model/load.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/small_model.h"
#include "support/tiny_models.h"

namespace permllm::test {
namespace {

Executor& executor() {
  static Executor shared(2);
  return shared;
}

FloatWeights reals(const SmallModel& model) { return load_float_weights(model.gguf(), executor()); }

std::string error_of(const ModelFile& file, Code code) {
  try {
    load_int_weights(file, executor());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}
std::string error_of(const SmallModel& model, Code code) { return error_of(model.gguf(), code); }

std::vector<float> row_of(const FloatMatrix& m, std::size_t r) {
  const auto begin = m.values.begin() + static_cast<std::ptrdiff_t>(r * m.cols());
  return {begin, begin + static_cast<std::ptrdiff_t>(m.cols())};
}

// ---- Config --------------------------------------------------------------------------------------------------------------

Config tiny_config(const std::string& name) { return read_config(ModelFile::open(tiny_model(name).path)); }

TEST(Config, llama_has_factors_of_frequencies) {
  const Config c = tiny_config("llama");
  EXPECT_EQ(c.architecture, "llama");
  EXPECT_EQ(std::tie(c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.ff, c.vocab, c.context),
            std::make_tuple(3u, 40u, 4u, 2u, 8u, 56u, 260u, 64u));
  EXPECT_EQ(c.norm, NormKind::rms);
  EXPECT_EQ(c.activation, Activation::silu);
  EXPECT_TRUE(c.gated);
  EXPECT_FALSE(c.qkv_bias || c.up_bias || c.head_bias || c.tied_head || c.qk_norm || c.post_norm || c.normed_residual ||
               c.prefix);
  EXPECT_DOUBLE_EQ(c.score_scale, std::sqrt(1.0 / 8));
  ASSERT_EQ(c.rope.size(), 4u);
  EXPECT_DOUBLE_EQ(c.rope[0], 1);
  EXPECT_NEAR(c.rope[3], std::pow(500.0, -6.0 / 8) / 8, 1e-9);  // slow: divided by the factor
}

TEST(Config, linear_scaling_divides_frequencies) {
  const Config c = tiny_config("llama-linear");
  EXPECT_DOUBLE_EQ(c.rope[1], std::pow(10000.0, -2.0 / 8) / 2.5);
  EXPECT_TRUE(c.tied_head);
  SmallModel model = small_gguf("llama");
  model.settings["rope.scaling.type"] = "none";
  model.settings["rope.scaling.factor"] = 2.0;
  EXPECT_DOUBLE_EQ(read_config(model.gguf()).rope[0], 1);
}

TEST(Config, qwen_has_biases_or_norms_of_heads) {
  EXPECT_TRUE(tiny_config("qwen2").qkv_bias);
  EXPECT_FALSE(tiny_config("qwen2").qk_norm);
  EXPECT_FALSE(tiny_config("qwen3").qkv_bias);
  EXPECT_TRUE(tiny_config("qwen3").qk_norm);
}

TEST(Config, gemma_2_has_caps_and_a_window_in_every_other_layer) {
  const Config c = tiny_config("gemma2");
  EXPECT_EQ(c.activation, Activation::gelu);
  EXPECT_TRUE(c.post_norm);
  EXPECT_EQ(c.window, 8u);
  EXPECT_TRUE(c.windowed(0) && !c.windowed(1) && c.windowed(2));
  EXPECT_EQ(c.score_cap, 4);
  EXPECT_EQ(c.logit_cap, 6);
  EXPECT_TRUE(c.rope_local.empty());
  const Config absent = read_config(small_gguf("gemma2").gguf());
  EXPECT_EQ(absent.score_cap, 50);
  EXPECT_EQ(absent.logit_cap, 30);
}

TEST(Config, gemma_3_turns_otherwise_within_windows) {
  const Config c = tiny_config("gemma3");
  EXPECT_TRUE(c.qk_norm && c.post_norm);
  EXPECT_TRUE(c.windowed(4) && !c.windowed(5) && c.windowed(6));
  EXPECT_EQ(c.score_cap + c.logit_cap, 0);
  EXPECT_DOUBLE_EQ(c.rope_of(5)[1], std::pow(1e6, -2.0 / 8) / 8);
  EXPECT_DOUBLE_EQ(c.rope_of(0)[1], std::pow(1e4, -2.0 / 8));
}

TEST(Config, the_scale_of_gemma_27b_is_by_width) {
  SmallModel model = small_gguf("gemma2");
  model.settings["block_count"] = 46;
  model.settings["attention.key_length"] = 2;
  EXPECT_DOUBLE_EQ(read_config(model.gguf()).score_scale, 1 / std::sqrt(4.0));
  model.settings["block_count"] = 42;
  EXPECT_DOUBLE_EQ(read_config(model.gguf()).score_scale, 1 / std::sqrt(2.0));
}

TEST(Config, glm_turns_half_of_each_head) {
  for (const char* name : {"glm4", "chatglm"}) {
    const Config c = tiny_config(name);
    ASSERT_EQ(c.rope.size(), 8u) << name;
    EXPECT_DOUBLE_EQ(c.rope[1], std::pow(name == std::string("glm4") ? 1e4 : 5e3, -2.0 / 8));
    EXPECT_EQ(c.rope[4], 0);
    EXPECT_EQ(c.post_norm, name == std::string("glm4"));
    EXPECT_TRUE(c.qkv_bias);
  }
}

TEST(Config, gpt_2_has_layer_norms_and_learned_positions) {
  const Config c = tiny_config("gpt2");
  EXPECT_EQ(c.norm, NormKind::layer);
  EXPECT_EQ(c.activation, Activation::gelu);
  EXPECT_EQ(c.positions, Positions::learned);
  EXPECT_EQ(c.rope, std::vector<double>(4));
  EXPECT_FALSE(c.gated);
  EXPECT_TRUE(c.qkv_bias && c.up_bias && c.head_bias && c.tied_head);
}

TEST(Config, chatglm_6b_turns_halves_of_heads_by_place_and_block) {
  const Config c = tiny_config("chatglm-6b");
  EXPECT_EQ(std::tie(c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.ff, c.vocab, c.context),
            std::make_tuple(3u, 32u, 2u, 2u, 16u, 96u, 264u, 64u));
  EXPECT_EQ(c.positions, Positions::rotary_2d);
  EXPECT_TRUE(c.prefix && c.normed_residual && c.qkv_bias && c.up_bias && c.head_bias);
  EXPECT_FALSE(c.gated || c.tied_head);
  ASSERT_EQ(c.rope.size(), 8u);
  EXPECT_DOUBLE_EQ(c.rope[1], std::pow(10000.0, -2.0 / 8));
  EXPECT_DOUBLE_EQ(c.rope[5], c.rope[1]);
}

TEST(Config, smollm_3_has_layers_without_positions) {
  const Config c = tiny_config("smollm3");
  EXPECT_EQ(c.turned, (std::vector<bool>{true, true, true, false, true}));
  EXPECT_EQ(c.rope_of(3), std::vector<double>(4));
  EXPECT_EQ(c.rope_of(4), c.rope);
  EXPECT_DOUBLE_EQ(c.rope[1], std::pow(1000.0, -2.0 / 8));
}

TEST(Config, olmo_2_has_norms_behind_its_matrices_alone) {
  const Config c = tiny_config("olmo2");
  EXPECT_TRUE(c.post_norm && c.qk_norm && c.whole_norm && !c.pre_norm && c.windows.empty());
  EXPECT_EQ(c.qk_norm_size(0), 32u);
  EXPECT_EQ(c.qk_norm_size(32), 32u);
  const Config grouped = tiny_config("olmo3");  // as the models of 32B
  EXPECT_EQ(grouped.qk_norm_size(0), 32u);
  EXPECT_EQ(grouped.qk_norm_size(32), 16u);
  // OLMo 3: a window in three layers of four, whose positions were not stretched.
  SmallModel model = small_gguf("olmo2");
  model.settings["attention.sliding_window"] = 3;
  model.settings["attention.sliding_window_pattern"] = {1, 0};
  model.settings["rope.scaling.type"] = "yarn";
  model.settings["rope.scaling.factor"] = 4.0;
  model.settings["rope.scaling.original_context_length"] = 2;
  const Config windowed = read_config(model.gguf());
  EXPECT_TRUE(windowed.windowed(0) && !windowed.windowed(1));
  EXPECT_DOUBLE_EQ(windowed.rope_of(0)[1], 0.01);
  EXPECT_DOUBLE_EQ(windowed.rope_of(1)[1], 0.01 / 4);
  const FloatWeights w = reals(model);
  const double before = model.tensors.at("blk.0.attn_q_norm.weight").values[3],
               factor = 0.1 * std::log(4.0) + 1;  // entry 3 of a head is where it was, its partner is not
  EXPECT_NEAR(w.layers[0].qk_gain.value(3), before, 1e-3);
  EXPECT_NEAR(w.layers[1].qk_gain.value(3), model.tensors.at("blk.1.attn_q_norm.weight").values[3] * factor, 1e-3);
}

TEST(Config, granite_has_a_scale_of_scores_and_may_have_no_positions) {
  const Config c = tiny_config("granite");
  EXPECT_EQ(c.score_scale, 0.25);
  EXPECT_TRUE(c.turned.empty());
  SmallModel model = small_gguf("granite");
  EXPECT_DOUBLE_EQ(read_config(model.gguf()).score_scale, 0.5);
  model.settings["rope.scaling.finetuned"] = false;
  EXPECT_EQ(read_config(model.gguf()).turned, (std::vector<bool>{false, false}));
  EXPECT_TRUE(read_config(small_gguf("llama").gguf()).turned.empty());
}

// 16 entries turn, base 1000, first trained with 16 tokens: the first pair turns 16 / 2 pi > 1 times, the third less than once.
TEST(Config, yarn_divides_slow_frequencies) {
  const Config c = tiny_config("qwen2-yarn");
  EXPECT_DOUBLE_EQ(c.rope[0], 1);
  EXPECT_DOUBLE_EQ(c.rope[1], std::pow(1000.0, -2.0 / 16) * (0.5 / 4 + 0.5));
  for (std::size_t i = 2; i < 8; ++i)
    EXPECT_DOUBLE_EQ(c.rope[i], std::pow(1000.0, -2.0 * static_cast<double>(i) / 16) / 4);
  EXPECT_DOUBLE_EQ(c.score_scale, 0.25);
}

TEST(Config, longrope_chooses_by_how_long_a_conversation_gets) {
  Config c = tiny_config("phi4-mini");
  const double own = std::pow(10000.0, -8.0 / 12);
  EXPECT_DOUBLE_EQ(c.rope[4], own / 12);
  EXPECT_EQ(c.rope[6], 0);
  EXPECT_EQ(c.rope_short_tokens, 32u);
  Config longer = c;
  longer.set_length(33);
  EXPECT_DOUBLE_EQ(longer.rope[4], own / 12);
  c.set_length(32);
  EXPECT_DOUBLE_EQ(c.rope[4], own / 2);
  EXPECT_TRUE(c.rope_short.empty());
  longer.set_length(1);  // chosen once
  EXPECT_DOUBLE_EQ(longer.rope[4], own / 12);
}

TEST(Config, ministral_goes_as_far_as_its_scores_do_not_grow) {
  SmallModel model = small_gguf("mistral3");
  EXPECT_EQ(read_config(model.gguf()).context, 6u);
  model.settings["attention.temperature_scale"] = 0.1;
  EXPECT_EQ(error_of(model, Code::file).rfind("mistral3.rope.scaling.original_context_length: is missing", 0), 0u);
  model.settings["rope.scaling.original_context_length"] = 4;
  EXPECT_EQ(read_config(model.gguf()).context, 4u);
}

TEST(Config, layers_with_a_window_are_counted_or_listed) {
  SmallModel model = small_gguf("gemma3");
  const auto windows = [&] {
    const Config c = read_config(model.gguf());
    return std::pair(c.windowed(0), c.windowed(1));
  };
  EXPECT_EQ(windows(), std::pair(true, true));
  model.settings["attention.sliding_window_pattern"] = 2;
  EXPECT_EQ(windows(), std::pair(true, false));
  model.settings["attention.sliding_window_pattern"] = {0, 1};
  EXPECT_EQ(windows(), std::pair(false, true));
  EXPECT_EQ(error_of(model, Code::file), "no error");
  model.settings["attention.sliding_window_pattern"] = {0, 1, 1};
  EXPECT_EQ(error_of(model, Code::file),
            "gemma3.attention.sliding_window_pattern: 3 entries, expected one for each of 2 layers");
  // Where all layers have it, a pattern would be another model.
  for (const nlohmann::json& pattern : {nlohmann::json{1, 0}, nlohmann::json(2)}) {
    model = small_gguf("llama");
    model.settings["attention.sliding_window"] = 3;
    model.settings["attention.sliding_window_pattern"] = pattern;
    EXPECT_EQ(error_of(model, Code::unsupported).rfind("llama.attention.sliding_window_pattern: ", 0), 0u);
  }
}

TEST(Config, a_window_that_is_never_full_is_none) {
  SmallModel model = small_gguf("phi3");
  for (const auto& [window, want] : {std::pair{0, 0u}, std::pair{5, 5u}, std::pair{6, 0u}}) {
    model.settings["attention.sliding_window"] = window;
    EXPECT_EQ(read_config(model.gguf()).window, want) << window;
  }
}

// ---- What is folded ------------------------------------------------------------------------------------------------------

TEST(Load, every_architecture_loads) {
  for (const char* name : {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "glm4", "chatglm", "smollm3",
                           "granite", "mistral3", "olmo2"}) {
    EXPECT_EQ(load_int_weights(small_gguf(name).gguf(), executor()).layers.size(), Small::layers) << name;
  }
}

TEST(Load, the_gain_of_a_norm_is_in_the_matrix_behind_it) {
  const SmallModel model = small_gguf("llama");
  const FloatWeights w = reals(model);
  const SmallTensor &q = model.tensors.at("blk.1.attn_q.weight"), &k = model.tensors.at("blk.1.attn_k.weight"),
                    &up = model.tensors.at("blk.1.ffn_up.weight");
  for (std::size_t c = 0; c < Small::width; ++c) {
    EXPECT_EQ(row_of(w.layers[1].qkv, 3)[c], q.at(3, c) * model.tensors.at("blk.1.attn_norm.weight").values[c]);
    EXPECT_EQ(row_of(w.layers[1].qkv, 8)[c], k.at(0, c) * model.tensors.at("blk.1.attn_norm.weight").values[c]);
    EXPECT_EQ(row_of(w.layers[1].up, Small::ff + 1)[c],
              up.at(1, c) * model.tensors.at("blk.1.ffn_norm.weight").values[c]);
    EXPECT_EQ(row_of(w.head, 2)[c],
              model.tensors.at("output.weight").at(2, c) * model.tensors.at("output_norm.weight").values[c]);
    EXPECT_EQ(row_of(w.embed, c)[4], model.tensors.at("token_embd.weight").at(4, c));
    EXPECT_EQ(row_of(w.layers[1].o, c)[5], model.tensors.at("blk.1.attn_output.weight").at(c, 5));
  }
}

// Where entry i of a head turns with entry i + 2, they come to stand side by side; v stays.
TEST(Load, halves_of_heads_become_adjacent_pairs) {
  SmallModel model = small_gguf("qwen2");
  FloatWeights w = reals(model);
  const auto &gain = model.tensors.at("blk.0.attn_norm.weight"), &q = model.tensors.at("blk.0.attn_q.weight"),
             &k = model.tensors.at("blk.0.attn_k.weight");
  const std::size_t order[] = {0, 2, 1, 3};
  for (std::size_t e = 0; e < 4; ++e) {
    EXPECT_EQ(row_of(w.layers[0].qkv, 4 + e)[7], q.at(4 + order[e], 7) * gain.values[7]);
    EXPECT_EQ(row_of(w.layers[0].qkv, 8 + e)[7], k.at(order[e], 7) * gain.values[7]);
    EXPECT_EQ(row_of(w.layers[0].qkv, 12 + e)[7], model.tensors.at("blk.0.attn_v.weight").at(e, 7) * gain.values[7]);
    EXPECT_EQ(w.layers[0].qkv_bias[4 + e], model.tensors.at("blk.0.attn_q.bias").values[4 + order[e]]);
    EXPECT_EQ(w.layers[0].qkv_bias[12 + e], model.tensors.at("blk.0.attn_v.bias").values[e]);
  }
  // Only the part that turns.
  model = small_gguf("phi3");
  model.settings["rope.dimension_count"] = 2;
  w = reals(model);
  EXPECT_EQ(row_of(w.layers[0].qkv, 5)[0],
            model.tensors.at("blk.0.attn_qkv.weight").at(5, 0) * model.tensors.at("blk.0.attn_norm.weight").values[0]);
}

TEST(Load, fused_tensors_are_what_their_parts_are) {
  SmallModel fused = small_gguf("chatglm"), parts = fused;
  const auto split = [&](const std::string& from, const std::string& end,
                         const std::vector<std::pair<std::string, std::size_t>>& names) {
    for (std::size_t l = 0; l < Small::layers; ++l) {
      const std::string p = "blk." + std::to_string(l) + ".";
      const SmallTensor whole = parts.tensors.at(p + from + end);
      parts.tensors.erase(p + from + end);
      const std::size_t cols = whole.shape.size() == 2 ? whole.shape[1] : 1;
      auto at = whole.values.begin();
      for (const auto& [name, rows] : names) {
        const auto next = at + static_cast<std::ptrdiff_t>(rows * cols);
        parts.tensors[p + name + end] = {
            whole.shape.size() == 2 ? std::vector<std::uint64_t>{rows, cols} : std::vector<std::uint64_t>{rows},
            {at, next}};
        at = next;
      }
    }
  };
  for (const char* end : {".weight", ".bias"}) split("attn_qkv", end, {{"attn_q", 8}, {"attn_k", 4}, {"attn_v", 4}});
  split("ffn_up", ".weight", {{"ffn_gate", 3}, {"ffn_up", 3}});
  const FloatWeights a = reals(fused), b = reals(parts);
  EXPECT_EQ(a.layers[1].qkv.values, b.layers[1].qkv.values);
  EXPECT_EQ(a.layers[1].qkv_bias, b.layers[1].qkv_bias);
  EXPECT_EQ(a.layers[1].up.values, b.layers[1].up.values);
}

TEST(Load, gains_of_heads_are_repeated_in_their_order) {
  SmallModel model = small_gguf("qwen3");
  model.tensors["blk.0.attn_q_norm.weight"].values = {0.5f, 1.0f, 1.5f, 1.75f};
  model.tensors["blk.0.attn_k_norm.weight"].values = {-0.25f, 0, 1, -1.5f};
  Gain gain = reals(model).layers[0].qk_gain;
  EXPECT_EQ(gain.frac, 14);
  const double want[] = {0.5, 1.5, 1, 1.75, 0.5, 1.5, 1, 1.75, -0.25, 1, 0, -1.5};
  ASSERT_EQ(gain.words.size(), std::size(want));
  for (std::size_t i = 0; i < std::size(want); ++i) EXPECT_EQ(gain.value(i), want[i]) << i;
  // The largest that fits.
  model.tensors["blk.0.attn_q_norm.weight"].values[0] = 2;
  EXPECT_EQ(reals(model).layers[0].qk_gain.frac, 13);
  model.tensors["blk.0.attn_q_norm.weight"].values[0] = -32767;
  EXPECT_EQ(reals(model).layers[0].qk_gain.frac, 0);
  model.tensors["blk.0.attn_q_norm.weight"].values[0] = 32769;
  EXPECT_NE(
      error_of(model, Code::unsupported).find("blk.0.attn_q_norm.weight or attn_k_norm.weight: 32769, gains of up to"),
      std::string::npos);
}

TEST(Load, without_a_norm_before_it_a_matrix_takes_the_residual_times_a_factor) {
  const SmallModel model = small_gguf("olmo2");
  const FloatWeights w = reals(model);
  EXPECT_EQ(row_of(w.layers[1].qkv, 9)[2], model.tensors.at("blk.1.attn_k.weight").at(2, 2) / 8);
  EXPECT_EQ(row_of(w.layers[1].up, 4)[5], model.tensors.at("blk.1.ffn_up.weight").at(1, 5) / 8);
  EXPECT_EQ(w.layers[1].o.values, model.tensors.at("blk.1.attn_output.weight").values);
  const std::size_t order[] = {0, 2, 1, 3};
  const Gain& gain = w.layers[0].qk_gain;
  for (std::size_t j = 0; j < 8; ++j) {
    EXPECT_EQ(gain.value(j), model.tensors.at("blk.0.attn_q_norm.weight").values[j / 4 * 4 + order[j % 4]]);
    EXPECT_EQ(gain.value(8 + j), model.tensors.at("blk.0.attn_k_norm.weight").values[j / 4 * 4 + order[j % 4]]);
  }
}

// The norm of all of k has as many gains as k has rows, those of q likewise.
TEST(Load, norms_of_all_heads_have_the_rows_of_q_and_of_k) {
  SmallModel model = small_gguf("olmo2");
  model.settings["attention.head_count_kv"] = 1;
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    for (const char* matrix : {"attn_k.weight", "attn_v.weight"})
      model.add(layer + matrix, {Small::head_dim, Small::width});
  }
  EXPECT_EQ(error_of(model, Code::file), "tensor blk.0.attn_k_norm.weight: has shape 8, expected 4");
  for (const std::string layer : {"blk.0.", "blk.1."}) model.add(layer + "attn_k_norm.weight", {Small::head_dim});
  const Gain gain = reals(model).layers[1].qk_gain;
  ASSERT_EQ(gain.words.size(), 12u);
  const std::size_t order[] = {0, 2, 1, 3};
  for (std::size_t j = 0; j < 4; ++j) {
    EXPECT_EQ(gain.value(4 + j), model.tensors.at("blk.1.attn_q_norm.weight").values[4 + order[j]]);
    EXPECT_EQ(gain.value(8 + j), model.tensors.at("blk.1.attn_k_norm.weight").values[order[j]]);
  }
}

TEST(Load, gemma_embeddings_are_scaled_and_the_head_is_not) {
  const SmallModel model = small_gguf("gemma2");
  const FloatWeights w = reals(model);
  const SmallTensor& table = model.tensors.at("token_embd.weight");
  EXPECT_EQ(row_of(w.embed, 3)[2], table.at(2, 3) * std::sqrt(8.0f));
  EXPECT_EQ(row_of(w.head, 2)[3], table.at(2, 3) * model.tensors.at("output_norm.weight").values[3]);
  const std::vector<float>& gain = model.tensors.at("blk.1.post_ffw_norm.weight").values;
  const Gain& mlp = w.layers[1].mlp_gain;
  EXPECT_EQ(mlp.value(6), gain[6]);
}

TEST(Load, granite_s_factors_are_in_the_matrices) {
  SmallModel model = small_gguf("granite");
  for (const char* layer : {"blk.0.", "blk.1."}) model.add(std::string(layer) + "attn_output.bias", {Small::width});
  model.add("output.bias", {Small::vocab});
  const FloatWeights plain = reals(model);
  model.settings["embedding_scale"] = 12.0;
  model.settings["residual_scale"] = 0.25;
  model.settings["logit_scale"] = 8.0;
  const FloatWeights w = reals(model);
  const auto times = [](const std::vector<float>& got, const std::vector<float>& want, float factor) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], want[i] * factor) << i;
  };
  times(w.embed.values, plain.embed.values, 12);
  times(w.head.values, plain.head.values, 0.125);
  times(w.head_bias, plain.head_bias, 0.125);
  times(w.layers[1].o.values, plain.layers[1].o.values, 0.25);
  times(w.layers[1].o_bias, plain.layers[1].o_bias, 0.25);
  times(w.layers[1].down.values, plain.layers[1].down.values, 0.25);
  times(w.layers[1].qkv.values, plain.layers[1].qkv.values, 1);
  times(w.layers[1].up.values, plain.layers[1].up.values, 1);
}

// cos and sin times a factor are q and k times it, where they turn.
TEST(Load, what_turns_grows_with_the_factor_of_attention) {
  SmallModel model = small_gguf("qwen2");
  model.settings["rope.dimension_count"] = 2;
  const FloatWeights plain = reals(model);
  model.settings["rope.scaling.type"] = "yarn";
  model.settings["rope.scaling.factor"] = 4.0;
  model.settings["rope.scaling.original_context_length"] = 2;
  const auto check = [&](double factor) {
    const FloatWeights w = reals(model);
    for (std::size_t r = 0; r < 16; ++r) {
      const double want = r < 12 && r % 4 < 2 ? factor : 1;
      EXPECT_NEAR(row_of(w.layers[1].qkv, r)[3], row_of(plain.layers[1].qkv, r)[3] * want, 1e-6) << r;
      EXPECT_NEAR(w.layers[1].qkv_bias[r], plain.layers[1].qkv_bias[r] * want, 1e-6) << r;
    }
  };
  const double usual = 0.1 * std::log(4.0) + 1;
  check(usual);
  model.settings["rope.scaling.attn_factor"] = 1.5;
  check(1.5 * usual);
  model.settings["rope.scaling.yarn_log_multiplier"] = 1.0;
  check(1.5);
  model.settings["rope.scaling.yarn_attn_factor"] = 2.0;
  check(3);
  // Where heads are normed their gains have it.
  model = small_gguf("qwen3");
  const Gain before = reals(model).layers[0].qk_gain;
  model.settings["rope.scaling.attn_factor"] = 1.5;
  const Gain after = reals(model).layers[0].qk_gain;
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(after.value(i), 1.5 * before.value(i)) << i;
}

TEST(Load, longrope_grows_with_the_context_and_needs_its_factors) {
  SmallModel model = small_gguf("phi3");
  const FloatWeights plain = reals(model);
  model.settings["rope.scaling.type"] = "longrope";
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    EXPECT_EQ(error_of(model, Code::file),
              std::string("tensor ") + name + ": is missing, and positions scaled by longrope need it");
    model.tensors[name] = {{2}, {1, 4}};
  }
  model.settings["rope.scaling.original_context_length"] = 3;
  const auto grown = [&] { return row_of(reals(model).layers[0].qkv, 0)[0] / row_of(plain.layers[0].qkv, 0)[0]; };
  EXPECT_NEAR(grown(), std::sqrt(1 + std::log(2.0) / std::log(3.0)), 1e-6);
  model.settings["rope.scaling.attn_factor"] = 1.25;
  EXPECT_NEAR(grown(), 1.25, 1e-6);
  for (const char* other : {"none", "yarn"}) {
    model.settings["rope.scaling.type"] = other;
    EXPECT_EQ(error_of(model, Code::unsupported).rfind("phi3.rope.scaling.type: ", 0), 0u) << other;
  }
  model.settings.erase("rope.scaling.type");  // as the converter of Phi 3 has it
  EXPECT_NEAR(grown(), 1.25, 1e-6);
  EXPECT_DOUBLE_EQ(read_config(model.gguf()).rope[1], 0.01 / 4);
  model.tensors["rope_factors_short.weight"].values[1] = 0;
  EXPECT_EQ(error_of(model, Code::file).rfind("tensor rope_factors_short.weight: 0", 0), 0u);
  model.tensors["rope_factors_short.weight"] = {{3}, {1, 1, 1}};
  EXPECT_EQ(error_of(model, Code::file), "tensor rope_factors_short.weight: has shape 3, expected 2");
}

// g (x - mean) / deviation + b before W is W', with rows that sum to zero, behind (x - mean) / deviation, and W b beside it.
TEST(Load, a_layer_norm_is_a_centred_matrix_and_a_bias) {
  const SmallModel model = small_gguf("gpt2");
  const auto t = [&](const std::string& name) { return model.tensors.at(name); };
  const auto check = [&](const FloatMatrix& got, const std::vector<float>& bias, const SmallTensor& weight,
                         const std::string& norm, const std::vector<float>& own,
                         const std::vector<std::size_t>& order) {
    const SmallTensor g = t(norm + ".weight"), b = t(norm + ".bias");
    for (std::size_t r = 0; r < got.rows(); ++r) {
      double mean = 0, added = own.empty() ? 0 : own[order[r]];
      for (std::size_t c = 0; c < Small::width; ++c) {
        mean += weight.at(order[r], c) * g.values[c] / Small::width;
        added += weight.at(order[r], c) * b.values[c];
      }
      for (std::size_t c = 0; c < Small::width; ++c)
        EXPECT_NEAR(row_of(got, r)[c], weight.at(order[r], c) * g.values[c] - mean, 1e-6) << norm;
      EXPECT_NEAR(bias[r], added, 1e-6) << norm;
    }
  };
  const auto as_it_is = [](std::size_t n) {
    std::vector<std::size_t> order(n);
    for (std::size_t i = 0; i < n; ++i) order[i] = i;
    return order;
  };
  const FloatWeights w = reals(model);
  check(w.layers[1].qkv, w.layers[1].qkv_bias, t("blk.1.attn_qkv.weight"), "blk.1.attn_norm",
        t("blk.1.attn_qkv.bias").values, as_it_is(24));
  check(w.layers[1].up, w.layers[1].up_bias, t("blk.1.ffn_up.weight"), "blk.1.ffn_norm", t("blk.1.ffn_up.bias").values,
        as_it_is(3));
  check(w.head, w.head_bias, t("token_embd.weight"), "output_norm", {}, as_it_is(5));
  EXPECT_EQ(w.layers[1].o_bias, t("blk.1.attn_output.bias").values);
  EXPECT_EQ(w.layers[1].down_bias, t("blk.1.ffn_down.bias").values);
  EXPECT_EQ(w.positions, t("position_embd.weight").values);
}

// [head][q, k, v][entry] in the file; in each half of q and k entry i turns with entry i + 1.
TEST(Load, chatglm_6b_is_taken_apart) {
  SmallModel model = small_chatglm_6b();
  model.settings["hidden_size"] = 16;  // heads of 8
  for (auto& [name, tensor] : model.tensors) {
    std::vector<std::uint64_t> shape = tensor.shape;
    for (std::uint64_t& extent : shape) extent *= extent % 8 == 0 ? 2 : 1;
    tensor = small_tensor(name, shape);
  }
  const TemporaryFolder folder;
  folder.write(model);
  const FloatWeights w = load_float_weights(ModelFile::open(folder.path()), executor());
  const std::string p = "transformer.layers.1.";
  const SmallTensor &qkv = model.tensors.at(p + "attention.query_key_value.weight"),
                    &gain = model.tensors.at(p + "input_layernorm.weight"),
                    &shift = model.tensors.at(p + "input_layernorm.bias"),
                    &own = model.tensors.at(p + "attention.query_key_value.bias");
  const std::size_t pairs[] = {0, 2, 1, 3, 4, 6, 5, 7};
  for (std::size_t kind = 0; kind < 3; ++kind) {
    for (std::size_t head = 0; head < 2; ++head) {
      for (std::size_t e = 0; e < 8; ++e) {
        const std::size_t r = kind * 16 + head * 8 + e, from = head * 24 + kind * 8 + (kind == 2 ? e : pairs[e]);
        double mean = 0, added = own.values[from];
        for (std::size_t c = 0; c < 16; ++c)
          mean += qkv.at(from, c) * gain.values[c] / 16, added += qkv.at(from, c) * shift.values[c];
        EXPECT_NEAR(row_of(w.layers[1].qkv, r)[9], qkv.at(from, 9) * gain.values[9] - mean, 1e-6) << r;
        EXPECT_NEAR(w.layers[1].qkv_bias[r], added, 1e-5) << r;
      }
    }
  }
  for (std::size_t c = 0; c < 16; ++c) {
    const Gain& kept = w.layers[1].attention_gain;
    EXPECT_NEAR(kept.value(c), 2.0 * gain.values[c], std::ldexp(1, -kept.frac));  // sqrt(2 x 2)
    EXPECT_EQ(w.layers[1].attention_shift[c], 2 * shift.values[c]);
  }
  EXPECT_EQ(w.layers[1].o_bias, model.tensors.at(p + "attention.dense.bias").values);
}

TEST(Load, integers_are_the_real_weights_rounded) {
  for (const char* name : {"qwen3", "gemma3", "gpt2"}) {
    const SmallModel model = small_gguf(name);
    const FloatWeights real = reals(model);
    const IntWeights integers = load_int_weights(model.gguf(), executor(), 8);
    const auto compare = [&](const FloatMatrix& want, const IntMatrix& got, int bits) {
      ASSERT_EQ(std::make_pair(got.rows(), got.cols()), std::make_pair(want.rows(), want.cols()));
      EXPECT_EQ(got.bits(), bits);
      int largest = 0;
      for (std::size_t r = 0; r < got.rows(); ++r) {
        for (std::size_t c = 0; c < got.cols(); ++c) {
          const int shift = got.shift(c) + got.row_shift(r), mantissa = got.at(r, c) >> shift;
          largest = std::max(largest, std::abs(mantissa));
          EXPECT_LE(std::fabs(std::ldexp(row_of(want, r)[c], got.frac() - shift) - static_cast<float>(mantissa)), 0.5f)
              << name;
        }
      }
      EXPECT_GE(largest, 1 << (bits - 2));
    };
    compare(real.embed, integers.embed, 12);
    compare(real.head, integers.head, 8);
    compare(real.layers[1].qkv, integers.layers[1].qkv, 8);
    compare(real.layers[1].down, integers.layers[1].down, 8);
    // Steps of 8 bits are 16 times those of 12.
    EXPECT_LE(integers.layers[1].qkv.noise()[0], 1.25 * 256 * k_most_noise);
    EXPECT_EQ(real.layers[1].qkv_bias, integers.layers[1].qkv_bias);
  }
}

TEST(Load, progress_grows_to_one) {
  std::vector<double> seen;
  load_int_weights(small_gguf("llama").gguf(), executor(), 12, [&](double fraction) { seen.push_back(fraction); });
  EXPECT_EQ(seen.size(), 2 + 4 * Small::layers);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_DOUBLE_EQ(seen.back(), 1);
}

// ---- What is refused -----------------------------------------------------------------------------------------------------

// A tensor that is not read would change what the model says.
TEST(Load, unknown_tensors_are_refused_by_name) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"llama", "blk.1.ffn_gate_inp.weight"}, {"llama", "blk.0.attn_norm.bias"},
      {"llama", "blk.1.attn_q.bias"},         {"llama", "blk.2.attn_q.weight"},
      {"llama", "blk.0.attn_sinks"},          {"phi3", "rope_freqs.weight"},
      {"qwen2", "blk.0.attn_q_norm.weight"},  {"qwen3", "blk.0.post_attention_norm.weight"},
      {"gpt2", "blk.0.ffn_gate_exps.weight"}, {"glm4", "blk.0.nextn.eh_proj.weight"}};
  for (const auto& [architecture, name] : cases) {
    SmallModel model = small_gguf(architecture);
    model.add(name, {8});
    EXPECT_EQ(error_of(model, Code::unsupported),
              "tensor " + name + ": is not known in a model of architecture " + architecture);
  }
}

TEST(Load, biases_are_read_where_all_layers_have_them) {
  SmallModel model = small_gguf("llama");
  for (const char* layer : {"blk.0.", "blk.1."}) {
    for (const auto& [name, rows] : {std::pair{"attn_q", 8},
                                     {"attn_k", 4},
                                     {"attn_v", 4},
                                     {"attn_output", 8},
                                     {"ffn_gate", 3},
                                     {"ffn_up", 3},
                                     {"ffn_down", 8}}) {
      model.add(std::string(layer) + name + ".bias", {static_cast<std::uint64_t>(rows)});
    }
  }
  model.add("output.bias", {Small::vocab});
  const FloatWeights w = reals(model);
  EXPECT_TRUE(w.config.qkv_bias && w.config.up_bias && w.config.head_bias);
  EXPECT_EQ(w.layers[1].qkv_bias[9], model.tensors.at("blk.1.attn_k.bias").values[1]);
  EXPECT_EQ(w.layers[1].up_bias[4], model.tensors.at("blk.1.ffn_up.bias").values[1]);
  EXPECT_EQ(w.layers[1].down_bias, model.tensors.at("blk.1.ffn_down.bias").values);
  EXPECT_EQ(w.head_bias, model.tensors.at("output.bias").values);
  model.tensors.erase("blk.1.attn_v.bias");
  EXPECT_EQ(error_of(model, Code::file), "tensor blk.1.attn_v.bias: is missing from the file");
}

// One by one: every tensor missing, of another shape, with a number that is none.
TEST(Load, every_tensor_is_needed_of_its_shape_and_finite) {
  for (const char* name :
       {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "glm4", "chatglm", "granite", "olmo2"}) {
    const SmallModel whole = small_gguf(name);
    for (const auto& [tensor, content] : whole.tensors) {
      const std::string place = "tensor " + tensor;
      SmallModel model = whole;
      model.tensors.erase(tensor);
      // Without its first half the second one is looked for as if it were whole; a head may be tied, biases absent.
      const bool optional = tensor == "output.weight" ||
                            (std::string(name) != "qwen2" && std::string(name) != "gpt2" && tensor.ends_with(".bias"));
      if (!optional) {
        const std::string error = error_of(model, Code::file);
        EXPECT_NE(error.find(tensor.ends_with("ffn_gate.weight")   ? "ffn_up.weight: has shape"
                             : tensor.ends_with("attn_qkv.weight") ? "attn_q.weight: is missing"
                                                                   : place),
                  std::string::npos)
            << name << " without " << tensor << ": " << error;
      }
      if (tensor != "token_embd.weight") {  // which says how many tokens there are
        model = whole;
        ++model.tensors[tensor].shape[0];
        model.tensors[tensor].values.resize(content.values.size() * 2);
        EXPECT_NE(error_of(model, Code::file).find(place + ": has shape"), std::string::npos) << name << ", " << tensor;
      }
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        model = whole;
        model.tensors[tensor].values.back() = bad;
        EXPECT_NE(error_of(model, Code::file).find(place + ": holds a"), std::string::npos) << name << ", " << tensor;
      }
    }
  }
}

TEST(Load, a_head_of_other_tokens_than_the_table_is_refused) {
  SmallModel model = small_gguf("llama");
  model.add("output.weight", {Small::vocab + 1, Small::width});
  EXPECT_EQ(error_of(model, Code::file), "tensor output.weight: has shape 8 x 6, expected 8 x 5");
}

TEST(Load, a_gain_that_overflows_a_weight_is_refused) {
  SmallModel model = small_gguf("llama");
  for (const char* name : {"blk.0.attn_norm.weight", "blk.0.attn_k.weight"})
    std::fill(model.tensors[name].values.begin(), model.tensors[name].values.end(), 1e38f);
  EXPECT_EQ(error_of(model, Code::file), "tensor blk.0.attn_k.weight: holds a weight that is not a finite number");
}

// Integers have no fewer fraction bits than none: a matrix and a table, one entry more than they hold, and the largest that they do.
TEST(Load, weights_beyond_the_integers_are_refused_by_their_tensor) {
  for (const auto& [tensor, gain] : {std::pair("blk.1.ffn_down.weight", ""), std::pair("token_embd.weight", ""),
                                     std::pair("blk.0.attn_v.weight", ", its norm's gain folded in")}) {
    SmallModel model = small_gguf("llama");
    for (auto& [name, values] : model.tensors) {
      if (name.ends_with("norm.weight")) std::fill(values.values.begin(), values.values.end(), 1.0f);
    }
    model.tensors[tensor].values.back() = -2047;
    load_int_weights(model.gguf(), executor());
    model.tensors[tensor].values.back() = -2048;
    EXPECT_EQ(error_of(model, Code::unsupported),
              fmt::format("tensor {}: holds a weight of 2048{}, at most 2047 are supported", tensor, gain));
    EXPECT_NO_THROW(reals(model));
  }
  SmallModel model = small_gguf("llama");
  model.tensors["blk.1.ffn_down.weight"].values.back() = 128;
  EXPECT_NO_THROW(load_int_weights(model.gguf(), executor(), 12));
  try {
    load_int_weights(model.gguf(), executor(), 8);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "tensor blk.1.ffn_down.weight: holds a weight of 128, at most 127 are supported");
  }
}

TEST(Load, weights_near_zero_and_all_zero_are_taken) {
  SmallModel model = small_gguf("llama");
  std::fill(model.tensors["blk.0.ffn_down.weight"].values.begin(), model.tensors["blk.0.ffn_down.weight"].values.end(),
            1e-44f);
  std::fill(model.tensors["blk.1.ffn_down.weight"].values.begin(), model.tensors["blk.1.ffn_down.weight"].values.end(),
            0.0f);
  const IntWeights w = load_int_weights(model.gguf(), executor());
  EXPECT_EQ(w.layers[0].down.at(0, 0), 0);
  EXPECT_EQ(w.layers[1].down.at(0, 0), 0);
}

// Each setting by itself: missing, of another type, too small, too large.
TEST(Load, settings_are_checked_and_named) {
  struct Case {
    const char *architecture, *name;
    nlohmann::json value;  // null: missing
    Code code;
  };
  const nlohmann::json none, nan = std::numeric_limits<double>::quiet_NaN();
  const auto bad = Code::file, other = Code::unsupported;
  const std::vector<Case> cases{{"llama", "block_count", none, bad},
                                {"llama", "block_count", 0, bad},
                                {"llama", "block_count", 1001, bad},
                                {"llama", "block_count", "two", bad},
                                {"llama", "context_length", none, bad},
                                {"llama", "context_length", 0, bad},
                                {"llama", "embedding_length", 1, bad},
                                {"llama", "embedding_length", 9, bad},
                                {"llama", "embedding_length", 1u << 18, bad},
                                {"llama", "feed_forward_length", 0, bad},
                                {"llama", "feed_forward_length", none, bad},
                                {"llama", "attention.head_count", 0, bad},
                                {"llama", "attention.head_count", 1.5, bad},
                                {"qwen2", "attention.head_count", none, bad},
                                {"llama", "attention.head_count_kv", 0, bad},
                                {"llama", "attention.head_count_kv", 3, bad},
                                {"llama", "attention.key_length", 3, bad},
                                {"llama", "attention.key_length", 8192, bad},
                                {"llama", "attention.value_length", 2, other},
                                {"llama", "attention.layer_norm_rms_epsilon", none, bad},
                                {"llama", "attention.layer_norm_rms_epsilon", -1.0, bad},
                                {"llama", "attention.layer_norm_rms_epsilon", nan, bad},
                                {"gpt2", "attention.layer_norm_epsilon", none, bad},
                                {"llama", "rope.freq_base", 0.5, bad},
                                {"llama", "rope.freq_base", nan, bad},
                                {"llama", "rope.freq_base", 1e30, bad},
                                {"glm4", "rope.dimension_count", 3, bad},
                                {"glm4", "rope.dimension_count", 6, bad},
                                {"llama", "rope.scaling.type", "dynamic", other},
                                {"qwen2", "rope.scaling.original_context_length", 1, bad},
                                {"llama", "rope.scaling.factor", 0.0, bad},
                                {"llama", "rope.scaling.factor", nan, bad},
                                {"phi3", "rope.scaling.attn_factor", 0.0, bad},
                                {"gpt2", "rope.scaling.attn_factor", 1.2, other},
                                {"llama", "rope.dimension_sections", 8, other},
                                {"qwen2", "rope.freq_base_swa", 5000.0, other},
                                {"llama", "attention.scale", 0.3, other},
                                {"llama", "attention.temperature_scale", 0.1, other},
                                {"llama", "attention.shared_kv_layers", 2, other},
                                {"gemma2", "attention.key_length_swa", 2, other},
                                {"granite", "attention.scale", -0.5, bad},
                                {"granite", "attention.scale", 1e-9, bad},
                                {"granite", "embedding_scale", -1.0, bad},
                                {"granite", "residual_scale", nan, bad},
                                {"granite", "logit_scale", 1e-9, bad},
                                {"mistral3", "attention.temperature_scale", -1.0, bad},
                                {"gemma3", "attention.sliding_window", none, bad},
                                {"gemma2", "attention.sliding_window", 0, bad},
                                {"gemma3", "attention.sliding_window_pattern", 0, bad},
                                {"gemma2", "attn_logit_softcapping", -1.0, bad},
                                {"gemma3", "attn_logit_softcapping", 50.0, other},
                                {"llama", "final_logit_softcapping", 30.0, other},
                                {"gemma2", "final_logit_softcapping", nan, bad},
                                {"gemma3", "rope.freq_base_swa", 0.0, bad},
                                {"llama", "expert_count", 8, other},
                                {"llama", "logit_scale", 0.5, other},
                                {"llama", "attention.causal", false, other},
                                {"llama", "attention.clamp_kqv", 8.0, other},
                                {"llama", "attention.max_alibi_bias", 8.0, other}};
  for (const Case& c : cases) {
    SmallModel model = small_gguf(c.architecture);
    if (c.value.is_null())
      model.settings.erase(c.name);
    else
      model.settings[c.name] = c.value;
    EXPECT_EQ(error_of(model, c.code).rfind(std::string(c.architecture) + "." + c.name + ": ", 0), 0u)
        << c.name << " " << c.value << ": " << error_of(model, c.code);
  }
  SmallModel model = small_gguf("llama");
  model.settings["expert_count"] = 0;
  model.settings["attention.causal"] = true;
  model.settings["rope.scaling.type"] = "none";
  EXPECT_EQ(error_of(model, bad), "no error");
}

TEST(Load, settings_of_yarn_are_checked_and_named) {
  SmallModel model = small_gguf("llama");
  model.settings["rope.scaling.type"] = "yarn";
  EXPECT_EQ(error_of(model, Code::file),
            "llama.rope.scaling.original_context_length: is missing, and rope.scaling.type \"yarn\" needs it");
  model.settings["rope.scaling.original_context_length"] = 2;
  EXPECT_EQ(error_of(model, Code::file), "llama.rope.scaling.factor: is missing from the file's metadata");
  model.settings["rope.scaling.factor"] = 4.0;
  EXPECT_EQ(error_of(model, Code::file), "no error");
  for (const auto& [name, value, code] :
       {std::tuple("factor", 0.5, Code::file), std::tuple("yarn_beta_fast", 0.0, Code::file),
        std::tuple("yarn_beta_slow", -1.0, Code::file), std::tuple("yarn_log_multiplier", -1.0, Code::file),
        std::tuple("yarn_ext_factor", 0.5, Code::unsupported)}) {
    SmallModel bad = model;
    bad.settings[std::string("rope.scaling.") + name] = value;
    EXPECT_EQ(error_of(bad, code).rfind(std::string("llama.rope.scaling.") + name + ": ", 0), 0u) << name;
  }
  // Gemma 3 has two tables of frequencies, and would need a factor for each.
  model = small_gguf("gemma3");
  model.settings["rope.scaling.attn_factor"] = 1.5;
  EXPECT_EQ(error_of(model, Code::unsupported).rfind("gemma3.rope.scaling.type: ", 0), 0u);
}

TEST(Load, factors_of_frequencies_are_checked) {
  SmallModel model = small_gguf("llama");
  model.tensors["rope_freqs.weight"] = {{2}, {1, 4}};
  EXPECT_DOUBLE_EQ(read_config(model.gguf()).rope[1], 0.01 / 4);
  EXPECT_EQ(error_of(model, Code::file), "no error");
  for (const float bad :
       {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    model.tensors["rope_freqs.weight"].values[1] = bad;
    EXPECT_EQ(error_of(model, Code::file).rfind("tensor rope_freqs.weight: ", 0), 0u) << bad;
  }
  model.tensors["rope_freqs.weight"] = {{3}, {1, 1, 1}};
  EXPECT_EQ(error_of(model, Code::file), "tensor rope_freqs.weight: has shape 3, expected 2");
}

TEST(Load, an_unknown_architecture_is_told_of_the_known_ones) {
  EXPECT_EQ(error_of(small_gguf("mamba"), Code::unsupported),
            "general.architecture: \"mamba\" is not supported; llama, qwen2, qwen3, gemma2, gemma3, phi3, gpt2, glm4, "
            "chatglm, smollm3, granite, mistral3, olmo2 are");
}

// config.json of a folder, field by field.
TEST(Load, settings_of_a_folder_are_checked_and_named) {
  const auto bad = Code::file, other = Code::unsupported;
  const nlohmann::json none;
  const std::vector<std::tuple<const char*, nlohmann::json, Code>> cases{
      {"model_type", none, bad},
      {"model_type", "llama", other},
      {"model_type", 1, other},
      {"num_layers", none, bad},
      {"num_layers", 0, bad},
      {"num_layers", -1, bad},
      {"num_layers", 2.0, bad},
      {"num_layers", "2", bad},
      {"num_layers", 1001, bad},
      {"hidden_size", none, bad},
      {"hidden_size", 12, bad},
      {"hidden_size", 1u << 18, bad},
      {"num_attention_heads", 0, bad},
      {"num_attention_heads", none, bad},
      {"num_attention_heads", 5000, bad},
      {"inner_hidden_size", none, bad},
      {"inner_hidden_size", 0, bad},
      {"inner_hidden_size", nlohmann::json::array(), bad},
      {"vocab_size", none, bad},
      {"vocab_size", 1u << 21, bad},
      {"max_sequence_length", none, bad},
      {"max_sequence_length", true, bad},
      {"layernorm_epsilon", none, bad},
      {"layernorm_epsilon", "1e-5", bad},
      {"layernorm_epsilon", -1, bad},
      {"position_encoding_2d", false, other},
      {"quantization_bit", 4, other},
      {"pre_seq_len", 128, other}};
  for (const auto& [name, value, code] : cases) {
    SmallModel model = small_chatglm_6b();
    if (value.is_null())
      model.settings.erase(name);
    else
      model.settings[name] = value;
    const TemporaryFolder folder;
    folder.write(model);
    EXPECT_EQ(error_of(ModelFile::open(folder.path()), code).rfind(std::string("config.json: ") + name + ": ", 0), 0u)
        << name << " " << value << ": " << error_of(ModelFile::open(folder.path()), code);
  }
  // ChatGLM2 and 3 have the same model_type.
  SmallModel model = small_chatglm_6b();
  model.settings.erase("position_encoding_2d");
  const TemporaryFolder folder;
  folder.write(model);
  EXPECT_NE(error_of(ModelFile::open(folder.path()), other).find("convert others to GGUF"), std::string::npos);
}

TEST(Load, tensors_of_a_folder_are_checked_and_named) {
  const SmallModel whole = small_chatglm_6b();
  for (const auto& [tensor, content] : whole.tensors) {
    const TemporaryFolder folder;
    const std::string place = "tensor " + tensor;
    const auto error = [&](const SmallModel& model) {
      folder.write(model);
      return error_of(ModelFile::open(folder.path()), Code::file);
    };
    SmallModel model = whole;
    model.tensors.erase(tensor);
    if (tensor.ends_with("inv_freq")) {
      EXPECT_EQ(error(model), "no error");
      continue;
    }
    EXPECT_EQ(error(model), place + ": is missing from the file");
    model = whole;
    ++model.tensors[tensor].shape[0];
    model.tensors[tensor].values.resize(content.values.size() + (content.shape.size() == 2 ? content.shape[1] : 1));
    EXPECT_EQ(error(model).rfind(place + ": has shape", 0), 0u) << tensor;
    model = whole;
    model.tensors[tensor].values[0] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(error(model).rfind(place + ": holds a", 0), 0u) << tensor;
  }
}

}  // namespace
}  // namespace permllm::test
