#include "cli/offer_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace permllm {

void add_offer_options(CLI::App& command, OfferOptions& options) {
  command.add_option("--context", options.context, "longest conversation, in tokens")->capture_default_str();
  command
      .add_option("--prompt-slots", options.prompt_slots,
                  "of models whose prompt attends both ways (ChatGLM-6B): the longest prompt, less one token; "
                  "each prompt costs as much; 0: a quarter of the context")
      ->capture_default_str();
  command
      .add_option_function<std::string>(
          "--profile", [&options](const std::string& name) { options.profile = profile_of(name); },
          "paper: the user sees inner values in a fresh order; fast: attention scores in order, "
          "fewer round trips; open: for public weights, nothing is permuted")
      ->default_str("paper");
  command
      .add_option_function<std::string>(
          "--fused",
          [&options](const std::string& text) {
            if (text != "on" && text != "off")
              throw Error(Code::usage, "--fused", fmt::format("\"{:.20}\", expected on or off", text));
            options.fused = text == "on";
          },
          "on or off: apply the MLP's norm after its matrix, which saves a round trip a layer")
      ->default_str("on where the model's ranges allow it");
  command
      .add_option_function<std::string>(
          "--hidden-positions",
          [&options](const std::string& name) {
            try {
              options.hidden_positions = hidden_positions_of(name);
            } catch (const Error& error) {
              throw Error(Code::usage, "--hidden-positions", error.message());
            }
          },
          "paper and fast, in which sessions the provider learns no positions, so that users may draft (--draft), "
          "several tokens a pass, for a round trip a layer more. auto: of users who draft; off: in none, and nobody "
          "drafts; always: of all")
      ->default_str("auto");
  command.add_flag(
      "--checked", options.checked,
      "open: let the user check every product against the model that the helper holds, by a secret that the "
      "provider does not know; the provider sends more");
  command
      .add_option_function<std::string>(
          "--retrieval", [&options](const std::string& name) { options.retrieval = retrieval_of(name); },
          "how the user learns which token it sampled. linear: two words, exact; bfv: by homomorphic encryption, as "
          "the paper does it")
      ->default_str("linear");
  command
      .add_option(
          "--weight-bits", options.weight_bits,
          "12: as the file has them, or 12 bits; 8: of a file in F16 or wider a token reads a third less memory, "
          "at a loss that inspect --loss measures")
      ->capture_default_str()
      ->check(CLI::IsMember({8, 12}));
  add_pre_tokenizer(command, options.pre_tokenizer);
}

void add_pre_tokenizer(CLI::App& command, std::string& name) {
  command
      .add_option("--pre-tokenizer", name,
                  fmt::format("how a byte-level vocabulary splits text, where the file does not say or is wrong: {}",
                              fmt::join(pre_tokenizers(), ", ")))
      ->default_str("as the file says")
      ->check(CLI::IsMember(pre_tokenizers()))
      ->type_name("NAME");
}

void add_synthetic_options(CLI::App& command, OfferOptions& options) {
  command.add_flag("--synthetic", options.synthetic, "the model is the name of a published shape, with random weights");
  command.add_option("--layers", options.layers, "of a shape: another number of layers; 0: its own")
      ->capture_default_str();
  command
      .add_option("--width", options.width,
                  "of a shape: another width, with as many more heads and neurons; 0: its own")
      ->capture_default_str();
  command.add_flag("--ids-only", options.ids_only, "of a folder without its tokenizer: converse in token ids");
  command
      .add_option("--distinct-layers", options.distinct_layers,
                  "of a shape: layers of weights to hold, used in turn; 0: all")
      ->capture_default_str();
}

std::vector<std::string> arguments_of(const OfferOptions& options) {
  std::vector<std::string> arguments{"--context",      fmt::format("{}", options.context),
                                     "--prompt-slots", fmt::format("{}", options.prompt_slots),
                                     "--profile",      name_of(options.profile),
                                     "--retrieval",    name_of(options.retrieval),
                                     "--weight-bits",  fmt::format("{}", options.weight_bits)};
  if (options.synthetic)
    arguments.insert(arguments.end(), {"--synthetic", "--layers", fmt::format("{}", options.layers), "--width",
                                       fmt::format("{}", options.width), "--distinct-layers",
                                       fmt::format("{}", options.distinct_layers)});
  arguments.insert(arguments.end(), {"--hidden-positions", name_of(options.hidden_positions)});
  if (options.checked) arguments.push_back("--checked");
  if (options.ids_only) arguments.push_back("--ids-only");
  if (!options.pre_tokenizer.empty()) arguments.insert(arguments.end(), {"--pre-tokenizer", options.pre_tokenizer});
  if (options.fused) arguments.insert(arguments.end(), {"--fused", *options.fused ? "on" : "off"});
  return arguments;
}

}  // namespace permllm
