#include "cli/inspect.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/text.h"
#include "cli/memory.h"
#include "cli/offer_options.h"
#include "cli/progress.h"
#include "model/chat_format.h"
#include "model/reference.h"
#include "model/synthetic.h"
#include "page/declared.h"
#include "page/pack.h"
#include "permllm/error.h"
#include "plan/leak.h"
#include "service/print_event.h"
#include "session/model_order.h"

namespace permllm {
namespace {

struct Options {
  std::string path;
  OfferOptions serve;
  bool json = false, loss = false;
};

nlohmann::json cost_json(const Cost& c) {
  return {{"round_trips", c.rounds},
          {"provider_to_user_bytes", c.online.provider_to_user},
          {"user_to_provider_bytes", c.online.user_to_provider},
          {"offline_user_to_provider_bytes", c.offline.user_to_provider},
          {"offline_helper_to_provider_bytes", c.offline.helper_to_provider}};
}

// What the provider's integers lose against float32, over the calibration text.
struct Loss {
  std::size_t positions = 0, other_choice = 0;
  double divergence = 0;  // mean Kullback-Leibler divergence of the next token, nats
};
Loss loss_of(const ModelFile& file, const OfferedModel& model, Executor& executor) {
  FloatWeights real = load_float_weights(file, executor);
  real.config.set_length(model.plan.slots);
  Loss loss;
  const auto compare = [&](TokenId id, ReferenceCache& real_cache, ReferenceCache& cache) {
    const auto want = reference_forward(real, {&id, 1}, real_cache, executor),
               got = reference_forward(model.weights, {&id, 1}, cache, executor);
    const auto best = [](const std::vector<float>& logits) {
      return std::max_element(logits.begin(), logits.end()) - logits.begin();
    };
    const auto log_sum = [&](const std::vector<float>& logits) {
      double sum = 0;
      const double most = logits[static_cast<std::size_t>(best(logits))];
      for (const float v : logits) sum += std::exp(double{v} - most);
      return most + std::log(sum);
    };
    const double want_sum = log_sum(want), got_sum = log_sum(got);
    for (std::size_t k = 0; k < want.size(); ++k) {
      const double p = double{want[k]} - want_sum;
      loss.divergence += std::exp(p) * (p - (double{got[k]} - got_sum));
    }
    loss.other_choice += best(want) != best(got) ? 1 : 0;
    ++loss.positions;
  };
  for (const auto& text : calibration_texts(model.vocabulary, model.weights.config)) {
    ReferenceCache real_cache, cache;
    for (const TokenId id : text) compare(id, real_cache, cache);
  }
  loss.divergence /= static_cast<double>(loss.positions);
  return loss;
}

// What sets the architecture apart, in words.
std::string parts_of(const Config& c) {
  std::vector<std::string> parts{c.norm == NormKind::rms ? "RMSNorm" : "LayerNorm",
                                 c.positions == Positions::learned     ? "learned positions"
                                 : c.positions == Positions::rotary_2d ? "rotary positions in prompt and answer"
                                                                       : "rotary positions"};
  parts.push_back(fmt::format("an MLP {} with {}", c.gated ? "gated" : "without a gate",
                              c.activation == Activation::silu ? "SiLU" : "GELU"));
  const auto add = [&](bool has, const std::string& part) {
    if (has) parts.push_back(part);
  };
  add(c.qk_norm, c.whole_norm ? "q and k normed as a whole" : "q and k normed by head");
  add(!c.pre_norm, "no norms before attention and MLP");
  add(c.post_norm, "norms behind attention and MLP");
  add(c.normed_residual, "the residual a norm's output");
  const auto layers = [](const std::vector<bool>& flags, bool which) {
    return std::count(flags.begin(), flags.end(), which);
  };
  add(c.window != 0,
      fmt::format("a window of {} keys{}", c.window,
                  c.windows.empty() ? "" : fmt::format(" in {} of {} layers", layers(c.windows, true), c.layers)));
  add(!c.turned.empty(), fmt::format("no positions in {} of {} layers", layers(c.turned, false), c.layers));
  add(c.prefix, "a prompt that attends both ways");
  add(c.score_cap != 0, fmt::format("scores capped at {:g}", c.score_cap));
  add(c.logit_cap != 0, fmt::format("logits capped at {:g}", c.logit_cap));
  add(c.qkv_bias || c.up_bias, "biases");
  add(c.tied_head, "the head tied to the embedding table");
  return fmt::format("{}", fmt::join(parts, ", "));
}

// Its name, or why the file's template cannot be run: the rest of what is told does not depend on it.
std::string chat_format_of(const Vocabulary& vocabulary) {
  try {
    return ChatFormat::from_template(vocabulary.chat_template).name();
  } catch (const Error& error) {
    return fmt::format("not known ({})", for_terminal(error.message()));
  }
}

std::size_t rounds_of_a_layer(const Plan& plan) { return piece_cost(plan, Part::Kind::slot, 0, 0).rounds; }

// What is told of a model.
struct Facts {
  std::map<std::string, std::size_t> types;  // of tensors, with their number
  std::uint64_t parameters = 0;
  std::string chat_format;
  Memory memory;
  Loss loss;
  std::size_t prompt = 0;            // tokens of the one whose cost is told
  std::vector<std::size_t> lengths;  // tokens before the one whose cost is told
};

Facts facts_of(const std::optional<ModelFile>& file, const OfferedModel& model, const Options& options,
               Executor& executor) {
  Facts f;
  for (const GgufTensor& tensor : file ? file->tensors() : std::vector<GgufTensor>{}) {
    const char* name = ggml_type_name(tensor.type);
    ++f.types[name != nullptr ? name : fmt::format("type {}", tensor.type)];
    f.parameters += tensor.elements();
  }
  for_each_matrix(model.weights, model.plan, [&](std::uint32_t id, const LinearShape& s, const IntMatrix&) {
    if (options.serve.synthetic) f.parameters += s.rows * s.cols * (id < 4 ? model.plan.config.layers : 1);
  });
  f.chat_format = chat_format_of(model.vocabulary);
  f.memory = memory_of(model.weights, model.plan);
  if (options.loss) f.loss = loss_of(*file, model, executor);
  f.prompt = std::min<std::size_t>(40, options.serve.context);
  for (const std::size_t before : {std::size_t{16}, std::size_t{64}, std::size_t{256}, options.serve.context - 1}) {
    if (before < options.serve.context && (f.lengths.empty() || before > f.lengths.back())) f.lengths.push_back(before);
  }
  return f;
}

void print_json(const OfferedModel& model, const Options& options, const Facts& f) {
  const Plan& plan = model.plan;
  const Config& c = plan.config;
  const Vocabulary& vocabulary = model.vocabulary;
  nlohmann::json decode = nlohmann::json::array();
  for (const std::size_t before : f.lengths) {
    auto entry = cost_json(pass_cost(plan, before, 1, false));
    entry["context"] = before + 1;
    decode.push_back(entry);
  }
  nlohmann::json event = {
      {"event", "model"},
      {"name", c.name},
      {"architecture", c.architecture},
      {"made_of", parts_of(c)},
      {"parameters", f.parameters},
      {"layers", c.layers},
      {"width", c.width},
      {"heads", c.heads},
      {"kv_heads", c.kv_heads},
      {"head_dim", c.head_dim},
      {"ff", c.ff},
      {"vocab", c.vocab},
      {"context", c.context},
      {"tensor_types", f.types},
      {"tokenizer", vocabulary.pre.empty() ? vocabulary.model : vocabulary.pre},
      {"chat_format", f.chat_format},
      {"profile", name_of(plan.profile)},
      {"fused", plan.fused},
      {"hidden_positions", name_of(model.hidden_positions)},
      {"checked", plan.checked},
      {"retrieval", name_of(plan.retrieval)},
      {"round_trips_a_layer", rounds_of_a_layer(plan)},
      {"plan_hash", plan.hash()},
      {"sees",
       {{"provider", seen_by(Role::provider, plan)},
        {"helper", seen_by(Role::helper, plan)},
        {"user", seen_by(Role::user, plan)}}},
      {"given_up", model.given_up},
      {"lift_slack_bits", plan.open() ? nlohmann::json() : nlohmann::json(plan.lift_slack_bits())},
      {"decode", decode},
      {"prefill", {{"tokens", f.prompt}, {"cost", cost_json(pass_cost(plan, 0, f.prompt, true))}}},
      {"memory_bytes", {{"provider", f.memory.provider}, {"helper", f.memory.helper}, {"user", f.memory.user}}}};
  if (options.loss) {
    event["loss"] = {{"weight_bits", options.serve.weight_bits},
                     {"positions", f.loss.positions},
                     {"other_choice", f.loss.other_choice},
                     {"divergence", f.loss.divergence}};
  }
  print_event(event);
}

void print_model(const OfferedModel& model, const Options& options, const Facts& f) {
  const Config& c = model.plan.config;
  const Vocabulary& vocabulary = model.vocabulary;
  fmt::print("{}\n", for_terminal(c.name));
  fmt::print(
      "  architecture  {}, {} layers, width {}, {} heads ({} for keys and values) of {}, {} neurons, vocabulary {}\n",
      c.architecture, c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.ff, c.vocab);
  fmt::print("  made of       {}\n", parts_of(c));
  fmt::print("  parameters    {:.1f} million;", static_cast<double>(f.parameters) / 1e6);
  for (const auto& [name, count] : f.types) fmt::print(" {} {}", count, name);
  if (options.serve.synthetic) {
    fmt::print(" random\n\nLargest values: those of SmolLM2-135M (kept with a margin of {} times)\n", k_range_margin);
  } else {
    fmt::print("\n  tokenizer     {}{}, chat format {}, own context limit {}\n\n", vocabulary.model,
               vocabulary.pre.empty() ? "" : " (" + vocabulary.pre + ")", f.chat_format, c.context);
    fmt::print("Largest values on the calibration text (kept with a margin of {} times)\n", k_range_margin);
  }
}

void print_numbers(const Plan& plan, const std::vector<std::string>& given_up) {
  const Config& c = plan.config;
  const auto largest = [&](double LayerRanges::*range) {
    double most = 0;
    for (const LayerRanges& layer : plan.ranges.layers) most = std::max(most, layer.*range);
    return most;
  };
  fmt::print(
      "  residual {:.0f}, q and k {:.0f}, v {:.1f}, scores {:.0f}, gate and up {:.1f}, activation {:.0f}, logits "
      "{:.0f}\n",
      plan.ranges.residual, largest(&LayerRanges::qk), largest(&LayerRanges::v), largest(&LayerRanges::score),
      largest(&LayerRanges::gate_up), largest(&LayerRanges::activation), plan.ranges.logit);
  int qkv_bits = 0, up_bits = 0, score_bits = 0, rotated = frac::qk, least_shown = frac::raw, most_shown = -k_most_frac;
  for (std::size_t l = 0; l < c.layers; ++l) {
    qkv_bits = std::max(qkv_bits, plan.qkv(l).bits);
    up_bits = std::max(up_bits, plan.up(l).bits);
    score_bits = std::max(score_bits, plan.qk(l).bits);
    rotated = std::min(rotated, plan.layers[l].rotated);
    const int shown = plan.up_frac(l) - plan.gate_up_reveal(l).drop;
    least_shown = std::min(least_shown, shown), most_shown = std::max(most_shown, shown);
  }
  fmt::print("  rings: residual {} ({} fraction bits), qkv {}, gate and up {}, head {} bits", plan.residual.bits,
             plan.residual_frac, qkv_bits, up_bits, plan.head.bits);
  if (!plan.open()) {
    fmt::print(
        "; scores {} (q and k with {} fraction bits or more), p.v {} bits; v is lifted with {:.0f} bits of slack",
        score_bits, rotated, plan.mixed(0).bits, plan.lift_slack_bits());
  }
  fmt::print(
      "; gate and up are shown{} with {} fraction bits", plan.raw_up() ? ", times the rms of their row," : "",
      least_shown == most_shown ? fmt::format("{}", least_shown) : fmt::format("{} to {}", least_shown, most_shown));
  if (!given_up.empty()) {
    fmt::print("\n  bits of the weights that were given up, where rings have no room for all or are a byte smaller: {}",
               fmt::join(given_up, "; "));
  }
}

void print_session(const Plan& plan, const Options& options, const Facts& f) {
  const auto mb = [](std::size_t bytes) { return static_cast<double>(bytes) / 1e6; };
  fmt::print("\n\nA session, profile {}{}, retrieval {}, {} round trips a layer (MB of payload)\n",
             name_of(plan.profile), plan.choices(), name_of(plan.retrieval), rounds_of_a_layer(plan));
  fmt::print("  {:<26}{:>8}{:>14}{:>14}{:>14}{:>16}\n", "", "rounds", "provider>user", "user>provider", "offline user>",
             "offline helper>");
  const auto line = [&](const std::string& what, const Cost& cost) {
    fmt::print("  {:<26}{:>8}{:>14.3f}{:>14.3f}{:>14.3f}{:>16.3f}\n", what, cost.rounds,
               mb(cost.online.provider_to_user), mb(cost.online.user_to_provider), mb(cost.offline.user_to_provider),
               mb(cost.offline.helper_to_provider));
  };
  line(fmt::format("prompt of {} tokens", f.prompt), pass_cost(plan, 0, f.prompt, true));
  for (const std::size_t before : f.lengths)
    line(fmt::format("a token at context {}", before + 1), pass_cost(plan, before, 1, false));
  fmt::print("\nWhat each party sees, beside what is its own\n");
  for (const Role role : {Role::provider, Role::helper, Role::user}) {
    const char* who = name_of(role);
    for (const std::string& what : seen_by(role, plan)) fmt::print("  {:<10}{}\n", std::exchange(who, ""), what);
  }
  if (options.loss) {
    fmt::print(
        "\nIntegers{} against float32, on {} positions of the calibration text: another first choice at {}, "
        "divergence {:.4f} nats\n",
        options.serve.weight_bits == 8 ? " of 8 bits" : "", f.loss.positions, f.loss.other_choice, f.loss.divergence);
  }
  fmt::print(
      "\nMemory beside the stock: provider {:.0f} MB of weights, helper {:.0f} MB, user {:.0f} MB; and for each token "
      "of a conversation\n"
      "provider {:.2f} MB, user {:.2f} MB. The stock holds a token's offline bytes until it is "
      "used.\n",
      mb(f.memory.provider), mb(f.memory.helper), mb(f.memory.user), mb(f.memory.provider_slot),
      mb(f.memory.user_slot));
}

void run(Options options) {
  Executor executor;
  options.serve.synthetic = is_synthetic(options.path);
  options.serve.distinct_layers = options.serve.synthetic ? 1 : 0;  // only its shapes are of interest
  if (options.serve.synthetic && options.loss)
    throw Error(Code::usage, "--loss", "needs a file: a shape's weights are random");
  std::optional<ModelFile> file;
  if (!options.serve.synthetic) file = ModelFile::open(options.path);
  const OfferedModel model =
      offer_model(options.path, options.serve, executor, late_bar("Loading the model", options.json));
  const Facts facts = facts_of(file, model, options, executor);
  if (options.json) return print_json(model, options, facts);
  print_model(model, options, facts);
  print_numbers(model.plan, model.given_up);
  print_session(model.plan, options, facts);
}

}  // namespace

void add_inspect(CLI::App& parent) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      parent.add_subcommand("inspect", "what a model file holds, what a session with it costs, and who sees what");
  command
      ->add_option("model", options->path,
                   "GGUF file or ChatGLM-6B's folder, or a shape: chatglm-6b, llama-7b, llama-70b, smollm2-135m")
      ->required();
  add_offer_options(*command, options->serve);
  command->add_flag("--loss", options->loss,
                    "also measure what the provider's integers lose against float32 (needs memory for both)");
  command->add_flag("--json", options->json, "one JSON object, for programs");
  command->callback([options] { run(*options); });
}

}  // namespace permllm
