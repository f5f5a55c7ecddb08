#include "provider/offer.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <cmath>
#include <filesystem>
#include <future>

#include "model/chat_format.h"
#include "model/key_level.h"
#include "model/synthetic.h"
#include "page/pack.h"
#include "permllm/version.h"
#include "plan/calibrate.h"
#include "plan/calibration_text.h"
#include "plan/fit.h"
#include "session/fields.h"
#include "session/masked_model.h"

namespace permllm {
namespace {

// Largest magnitudes of SmolLM2-135M, attention sinks included: random weights alone would need narrower rings than a real
// model does. Scores grow with the root of the heads' size.
Ranges synthetic_ranges(const Config& c) {
  LayerRanges layer{.qk = 21, .v = 13.3, .score = 379 * std::sqrt(static_cast<double>(c.head_dim) / 64)};
  Ranges ranges{.residual = 22778, .logit = 25, .logit_raw = 4096, .layers = {}};
  layer.gate_up = 75.5;
  layer.least_rms = 4;  // of most of its layers; the first has 0.1
  // A residual that is a norm's output, scaled, knows no sinks: no entry of a normed row is larger than the root of their number.
  if (c.normed_residual) {
    ranges.residual = std::sqrt(2.0 * static_cast<double>(c.layers) * static_cast<double>(c.width)) * 2;
    ranges.logit_raw = 25 * ranges.residual;
    layer.activation = 75.5;
    layer.gate_up_raw = 75.5 * ranges.residual;
    layer.qkv_raw = 21 * ranges.residual;
  } else {
    layer.activation = 2843;
    layer.gate_up_raw = 20000;
    layer.qkv_raw = 4096;
  }
  ranges.layers.assign(c.layers, layer);
  return ranges;
}

void set_plan(OfferedModel& model, const Ranges& ranges, const OfferOptions& options, Executor& executor) {
  Fitted fitted = fit(model.weights, ranges,
                      {.slots = options.context,
                       .profile = options.profile,
                       .fused = options.fused,
                       .prompt_slots = options.prompt_slots,
                       .checked = options.checked},
                      executor);
  model.plan = std::move(fitted.plan);
  model.given_up = std::move(fitted.given_up);
  model.plan.retrieval = options.retrieval;
  const bool may_hide = model.plan.why_not_hidden().empty() || options.hidden_positions == HiddenPositions::always;
  model.hidden_positions = may_hide ? options.hidden_positions : HiddenPositions::off;
  for (const Plan& plan : plans_of_sessions(model)) {
    plan.check();
    check_as_peers_do(plan);
    for (const Part::Kind kind : {Part::Kind::slot, Part::Kind::entry, Part::Kind::pass}) {
      if (!plan.open() || kind != Part::Kind::entry) deal_batch(plan, kind);  // refused here, not in a session
    }
  }
  model.mask_seed = random_seed();
}

void set_id(OfferedModel& model, const std::string& hash) {
  const Seed salt = random_seed();
  Bytes committed(salt.bytes().begin(), salt.bytes().end());
  committed.insert(committed.end(), hash.begin(), hash.end());
  model.model_id = hash_hex(domain::model_commitment, committed);
}

// What no weights could change, before they are loaded.
void check_options(const OfferOptions& options, const Config& config) {
  if (options.context < 1 || options.context > config.context) {
    throw Error(Code::usage, "context", fmt::format("{}, the model takes 1 to {}", options.context, config.context));
  }
  if (options.profile == Profile::open && options.fused.value_or(false)) {
    throw Error(Code::usage, "fused", "on, but profile open applies every norm after its matrix: leave it out");
  }
  if (options.profile != Profile::open && options.checked) {
    throw Error(Code::usage, "checked",
                "is for profile open: the user of others is not shown products whole, in their order; leave it out");
  }
  if (options.profile == Profile::open && options.retrieval == Retrieval::bfv) {
    throw Error(Code::usage, "retrieval",
                "bfv, but in profile open there is nothing to retrieve: a token's position is its id; leave it out");
  }
}

// ---- Several machines --------------------------------------------------------------------------------------------------

// What all of them must have in common: the same tensors, read in the same way. Of each tensor's numbers a few KiB are enough to tell a fine-tune or another
// export from it, and are read from the disk at once.
std::string common_text(const ModelFile* file, const std::string& path, const OfferOptions& options) {
  std::string text = fmt::format("{} {} {} {} {} {}\n", version(), options.synthetic ? path : "", options.weight_bits,
                                 options.layers, options.width, options.distinct_layers);
  if (file == nullptr) return text;
  for (const GgufTensor& tensor : file->tensors()) {
    text += fmt::format("{} {}", tensor.name, static_cast<int>(tensor.type));
    for (const std::uint64_t size : tensor.shape) text += fmt::format(" {}", size);
    constexpr std::size_t k_piece = 1024;
    XXH64_hash_t numbers = tensor.data.size();
    for (const std::size_t quarter : {0u, 1u, 2u, 3u}) {
      const std::size_t from = tensor.data.size() / 4 * quarter;
      numbers = XXH64(&tensor.data[from], std::min(k_piece, tensor.data.size() - from), numbers);
    }
    text += fmt::format(" {:016x}\n", numbers);
  }
  return text;
}

// All but the embedding table, by the numbers that machines give them.
std::vector<IntMatrix*> number_matrices(IntWeights& weights) {
  std::vector<IntMatrix*> matrices;
  for (LayerWeights<IntMatrix>& layer : weights.layers)
    matrices.insert(matrices.end(), {&layer.qkv, &layer.o, &layer.up, &layer.down});
  matrices.push_back(&weights.head);
  for (std::size_t i = 0; i < matrices.size(); ++i) matrices[i]->set_number(static_cast<std::uint32_t>(i));
  return matrices;
}

Config synthetic_config_of(const std::string& name, const OfferOptions& options) {
  Config config = synthetic_config(name, options.layers, options.width);
  if (options.distinct_layers > config.layers) {
    throw Error(Code::usage, "distinct_layers",
                fmt::format("{}, {} has {} layers", options.distinct_layers, name, config.layers));
  }
  config.distinct_layers = options.distinct_layers;
  return config;
}

void lead(Machines* machines, IntWeights& weights) {
  if (machines == nullptr) return;
  number_matrices(weights);
  machines->lead();
}

OfferedModel offer_synthetic(const std::string& name, const OfferOptions& options, Executor& executor,
                             Machines* machines) {
  const Config config = synthetic_config_of(name, options);
  check_options(options, config);
  if (machines != nullptr) machines->agree(common_text(nullptr, name, options));
  OfferedModel model;
  model.weights = synthetic_weights(config, options.weight_bits, executor, machines);
  lead(machines, model.weights);
  set_plan(model, synthetic_ranges(config), options, executor);
  set_id(model, name);
  return model;
}

// As the file has it; its size is not looked at.
Vocabulary vocabulary_of(const ModelFile& file, bool ids_only, const std::string& pre_tokenizer) {
  if (file.gguf() != nullptr) return Vocabulary::read(*file.gguf(), pre_tokenizer);
  if (!pre_tokenizer.empty())
    throw Error(Code::usage, "pre_tokenizer",
                "is for byte-level vocabularies, and ChatGLM-6B's is sentencepiece's: leave it out");
  const auto id = [&](const char* key, std::size_t least, std::size_t most) -> std::size_t {
    const nlohmann::json value = file.folder()->config().value(key, nlohmann::json());
    if (value.is_number_unsigned() && value >= least && value <= most) return value.get<std::size_t>();
    throw Error(Code::file, std::string("config.json: ") + key,
                fmt::format("is missing or no number from {} to {}", least, most));
  };
  const std::filesystem::path path = file.folder()->path() / "ice_text.model";
  if (is_there(path)) {
    const MappedFile text(path);
    const Vocabulary vocabulary = Vocabulary::read_sentencepiece(text.bytes());
    if (vocabulary.pre != "chatglm-6b")
      throw Error(Code::unsupported, "ice_text.model", "is not ChatGLM-6B's: it lacks <sop>, <eop> or [gMASK]");
    // The first release has ids of images before those of texts.
    const std::size_t bos = id("bos_token_id", *vocabulary.bos, 1 << 20);
    return bos == *vocabulary.bos ? vocabulary : Vocabulary::read_sentencepiece(text.bytes(), bos - *vocabulary.bos);
  }
  if (!ids_only)
    throw Error(
        Code::file, "ice_text.model",
        "is missing from the folder: a text has no tokens without it (generate --prompt-ids and bench do without)");
  const Config config = read_config(file);
  Vocabulary numbers;
  numbers.model = "gpt2";
  numbers.pre = "gpt-2";
  for (std::size_t i = 0; i < config.vocab; ++i) numbers.tokens.push_back(fmt::format("<{}>", i));
  numbers.types.assign(config.vocab, k_normal);
  numbers.eos = static_cast<TokenId>(id("eos_token_id", 0, config.vocab - 1));
  return numbers;
}

}  // namespace

Vocabulary read_vocabulary(const ModelFile& file, bool ids_only, const std::string& pre_tokenizer) {
  Vocabulary vocabulary = vocabulary_of(file, ids_only, pre_tokenizer);
  const std::size_t rows = read_config(file).vocab;  // more of them than tokens are common: tables are padded
  if (vocabulary.tokens.size() > rows) {
    throw Error(Code::file, file.gguf() != nullptr ? "tokenizer.ggml.tokens" : "ice_text.model",
                fmt::format("{} tokens, the embedding table has {} rows: each token needs one",
                            vocabulary.tokens.size(), rows));
  }
  return vocabulary;
}

namespace {

// By the model's own template, the middle left out where it is long. Empty where there is none, or none that takes a dialogue.
std::vector<TokenId> calibration_chat(const Tokenizer& tokenizer) {
  std::vector<TokenId> ids;
  try {
    const ChatFormat format = ChatFormat::chosen("", tokenizer.vocabulary());
    if (format.raw()) return {};
    ChatExtras extras;
    extras.date = calibration_date();
    ids = format.encode(tokenizer,
                        {{"user", std::string(k_calibration_question)},
                         {"assistant", std::string(k_calibration_answer)},
                         {"user", std::string(k_calibration_further)}},
                        false, extras);
  } catch (const Error&) {  // users will be told: `--chat-format` is theirs
    return {};
  }
  if (ids.size() > k_calibration_chat) {
    const auto half = static_cast<std::ptrdiff_t>(k_calibration_chat / 2);
    ids.erase(ids.begin() + half, ids.end() - half);
  }
  return ids;
}

}  // namespace

std::vector<std::vector<TokenId>> calibration_texts(const Vocabulary& vocabulary, const Config& config) {
  const Tokenizer tokenizer(vocabulary);
  std::vector<TokenId> text;
  if (vocabulary.add_bos && vocabulary.bos) text.push_back(*vocabulary.bos);
  for (const std::string_view piece : k_calibration_pieces) {
    const std::vector<TokenId> ids = tokenizer.encode(piece, false);
    text.insert(text.end(), ids.begin(),
                ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), k_calibration_piece)));
  }
  if (text.size() < 2) {  // a vocabulary without texts: any of its tokens
    for (std::size_t i = 0; i < 128; ++i) text.push_back(static_cast<TokenId>(i * config.vocab / 128));
  }
  if (vocabulary.bos) text.push_back(*vocabulary.bos);
  text.push_back(vocabulary.eos);
  std::vector<TokenId> chat = calibration_chat(tokenizer);
  std::vector<std::vector<TokenId>> texts{std::move(text)};
  if (!chat.empty()) texts.push_back(std::move(chat));
  for (std::vector<TokenId>& ids : texts) ids.resize(std::min(ids.size(), config.context));
  return texts;
}

OfferedModel offer_model(const std::string& path, const OfferOptions& options, Executor& executor,
                         const LoadProgress& progress, Machines* machines) {
  if (options.synthetic) return offer_synthetic(path, options, executor, machines);
  const ModelFile file = ModelFile::open(path);
  const Config config = read_config(file);
  check_options(options, config);
  OfferedModel model;
  model.vocabulary = read_vocabulary(file, options.ids_only, options.pre_tokenizer);
  std::vector<std::vector<TokenId>> calibration =
      calibration_texts(model.vocabulary, config);  // refused before the long work
  std::future<std::string> hash = std::async(std::launch::async, [&] { return file.sha256(); });  // beside the loading
  if (machines != nullptr) machines->agree(common_text(&file, path, options));
  model.weights = load_int_weights(file, executor, options.weight_bits, progress, machines);
  lead(machines, model.weights);
  model.weights.config.set_length(options.context);
  level_keys(model.weights, options.context);
  // The greatest tokens, in the first text but not at its end: what is said behind them is of no interest.
  constexpr std::size_t k_greatest_rows = 4;
  const std::vector<TokenId> greatest = greatest_rows(model.weights.embed, k_greatest_rows, executor);
  std::vector<TokenId>& text = calibration.front();
  text.insert(text.end() - 1, greatest.begin(), greatest.end());
  if (text.size() > config.context)
    text.erase(text.begin() + 1, text.end() - static_cast<std::ptrdiff_t>(config.context) + 1);
  set_plan(model, calibrate(model.weights, calibration, executor), options, executor);
  set_id(model, hash.get());
  return model;
}

void serve_rows(const std::string& path, const OfferOptions& options, Executor& executor, Machines& machines) {
  std::optional<ModelFile> file;
  IntWeights weights;
  if (options.synthetic) {
    const Config config = synthetic_config_of(path, options);
    machines.agree(common_text(nullptr, path, options));
    weights = synthetic_weights(config, options.weight_bits, executor, &machines);
  } else {
    file = ModelFile::open(path);
    machines.agree(common_text(&*file, path, options));
    weights = load_int_weights(*file, executor, options.weight_bits, nullptr, &machines);
  }
  machines.serve(number_matrices(weights), executor);
}

std::vector<Plan> plans_of_sessions(const OfferedModel& model) {
  std::vector<Plan> plans;
  if (model.hidden_positions != HiddenPositions::always) plans.push_back(model.plan);
  if (model.hidden_positions != HiddenPositions::off) plans.push_back(model.plan.with_positions(true));
  return plans;
}

ModelOffer model_offer(const OfferedModel& model) {
  Packings packings = packings_of(model.weights, model.plan);
  const std::uint64_t bytes = masked_model_bytes(model.plan, packings);
  return {model.model_id, model.plan, bytes, model.chunk, std::move(packings)};
}

void keep_record(OfferedModel& model, const std::filesystem::path& state, Executor& executor) {
  Writer bound;  // chunks of another size have other hashes
  Digest weights = weights_digest(model.weights, model.plan, executor);
  visit(bound, weights);
  bound.number("chunk", model.chunk);
  model.record = std::make_unique<ModelRecord>(state, hash(domain::model_record, bound.take()),
                                               model_offer(model).chunks(), model.model_id, model.mask_seed);
  model.model_id = model.record->model_id();
  model.mask_seed = model.record->mask_seed();
}

}  // namespace permllm
