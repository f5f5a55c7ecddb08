#include "app/load.h"

#include <fmt/format.h>

#include "model/chat_format.h"
#include "model/gguf.h"
#include "offline/calibrate.h"
#include "offline/calibration_text.h"

namespace permllm {

void add_serve_options(CLI::App& command, ServeOptions& options) {
  command.add_option("--context", options.context, "longest conversation, in tokens")->capture_default_str();
  command.add_option_function<std::string>("--profile", [&options](const std::string& name) { options.profile = profile_of(name); },
                                           "paper: the user sees inner values in a fresh order; fast: attention scores in order, "
                                           "fewer round trips; open: for public weights, nothing is permuted")
      ->default_str("paper");
  command.add_option_function<std::string>(
             "--fused",
             [&options](const std::string& text) {
               if (text != "on" && text != "off") throw Error(Code::usage, "--fused", fmt::format("\"{:.20}\", expected on or off", text));
               options.fused = text == "on";
             },
             "on or off: apply the MLP's norm after its matrix, which saves a round trip a layer")
      ->default_str("on where the model's ranges allow it");
}

std::vector<std::string> arguments_of(const ServeOptions& options) {
  std::vector<std::string> arguments{"--context", fmt::format("{}", options.context), "--profile", name_of(options.profile)};
  if (options.fused) arguments.insert(arguments.end(), {"--fused", *options.fused ? "on" : "off"});
  return arguments;
}

OfferedModel offer_model(const std::string& path, const ServeOptions& options, Executor& executor) {
  const std::size_t context = options.context;
  const Gguf file = Gguf::open(path);
  const Config config = read_config(file);
  if (context < 1 || context > config.context) {
    throw Error(Code::usage, "--context", fmt::format("{}, the model takes 1 to {}", context, config.context));
  }
  OfferedModel model;
  model.vocabulary = Vocabulary::read(file);
  ChatFormat::from_template(model.vocabulary.chat_template);  // refused before the long work
  const Tokenizer tokenizer(model.vocabulary);
  model.weights = load_int_weights(file, executor);
  const Ranges ranges = calibrate(model.weights, tokenizer.encode(k_calibration_text, false), executor);
  model.plan = options.fused ? Plan::make(model.weights, ranges, context, options.profile, *options.fused)
                             : Plan::make_fused_if_possible(model.weights, ranges, context, options.profile);
  model.mask_seed = random_seed();
  const Seed salt = random_seed();
  Bytes committed(salt.bytes().begin(), salt.bytes().end());
  const std::string hash = file.sha256();
  committed.insert(committed.end(), hash.begin(), hash.end());
  model.model_id = hash_hex(domain::model_commitment, committed);
  return model;
}

}  // namespace permllm
