#include "cli/generate.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/offer_options.h"
#include "cli/progress.h"
#include "cli/prompt_options.h"
#include "model/reference.h"
#include "permllm/error.h"
#include "service/print_event.h"

namespace permllm {
namespace {

void run(const std::string& path, const std::string& pre_tokenizer, PromptOptions options) {
  check_prompt_options(options);
  const Clock::time_point load_begin = Clock::now();
  Executor executor;
  const ModelFile file = ModelFile::open(path);
  const Config config = read_config(file);
  const Tokenizer tokenizer(read_vocabulary(file, !options.ids.empty(), pre_tokenizer));
  const auto ids = prompt_tokens(options, tokenizer, config.context);
  FloatWeights weights = load_float_weights(file, executor, late_bar("Loading the model", options.json));
  weights.config.set_length(ids.size() + options.max_tokens);
  const double load_seconds = seconds_since(load_begin);

  Sampler sampler(options.sampling);
  TokenPrinter printer(tokenizer, options);
  ReferenceCache cache;
  const Clock::time_point begin = Clock::now();
  auto logits = reference_forward(weights, ids, cache, executor);
  const double prefill_seconds = seconds_since(begin);
  const Clock::time_point decode_begin = Clock::now();
  for (;;) {
    const auto id = static_cast<TokenId>(sampler.choose(logits));
    printer.token(id);
    if (tokenizer.is_end(id) || printer.ids().size() == options.max_tokens) break;
    logits = reference_forward(weights, {&id, 1}, cache, executor);
  }
  const double decode_seconds = seconds_since(decode_begin);
  printer.finish();
  if (options.json) {
    const std::size_t steps = printer.ids().size() - 1;
    print_event({{"event", "done"},
                 {"output_ids", printer.ids()},
                 {"text", printer.text()},
                 {"prompt_tokens", ids.size()},
                 {"layers", config.layers},
                 {"seconds",
                  {{"load", load_seconds},
                   {"prefill", prefill_seconds},
                   {"decode_per_token", steps == 0 ? 0.0 : decode_seconds / static_cast<double>(steps)}}}});
  }
}

}  // namespace

void add_generate(CLI::App& parent) {
  const auto path = std::make_shared<std::string>(), pre_tokenizer = std::make_shared<std::string>();
  const auto options = std::make_shared<PromptOptions>();
  CLI::App* command = parent.add_subcommand("generate", "the clear-text reference engine, without any privacy");
  command->add_option("model", *path, "GGUF file, or ChatGLM-6B's folder")->required();
  add_prompt_options(*command, *options);
  add_pre_tokenizer(*command, *pre_tokenizer);
  command->callback([path, pre_tokenizer, options] { run(*path, *pre_tokenizer, *options); });
}

}  // namespace permllm
