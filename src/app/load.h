// From a model file to what a provider offers.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <optional>
#include <string>

#include "engine/provider_service.h"
#include "model/load.h"

namespace permllm {

// How a provider serves its model.
struct ServeOptions {
  std::size_t context = 1024;  // slots of a chain; at most the model's own limit (usage Error with both numbers)
  std::size_t prompt_slots = 0;  // of these, of models whose prompt attends both ways: room for a prompt; 0: a quarter
  Profile profile = Profile::paper;
  std::optional<bool> fused;  // unset: where the ranges allow it
  Retrieval retrieval = Retrieval::linear;
  int weight_bits = 12;       // 8: less memory to read a token, at a loss that `inspect --loss` measures
  bool synthetic = false;     // the model is the name of a published shape, with random weights
  bool ids_only = false;      // a folder's tokenizer may be missing
  std::size_t layers = 0, width = 0;  // of a synthetic model, where not the shape's own
  std::size_t distinct_layers = 0;  // of a synthetic model: layers of weights to hold, used in turn; 0: all
};
// --context, --prompt-slots, --profile, --fused, --retrieval, --weight-bits
void add_serve_options(CLI::App& command, ServeOptions& options);
// --synthetic, --layers, --width, --distinct-layers
void add_synthetic_options(CLI::App& command, ServeOptions& options);
std::vector<std::string> arguments_of(const ServeOptions& options);

// Of a GGUF file, or of ChatGLM-6B's folder: its ice_text.model. With ids_only, a folder without one has a text like <7> for
// each token. Errors: file, naming what is missing; unsupported; those of either kind of tokenizer.
Vocabulary read_vocabulary(const ModelFile& file, bool ids_only = false);

// The text that ships with the project, as a prompt begins: with bos where the file says so, with ChatGLM-6B's marks at the end.
std::vector<TokenId> calibration_tokens(const Vocabulary& vocabulary, const Config& config);

// Reads the file (or makes synthetic weights, with the ranges of SmolLM2-135M), makes the integer weights, calibrates the ranges on the text that ships with the project, and draws a
// fresh seed for U and a fresh salt.
OfferedModel offer_model(const std::string& path, const ServeOptions& options, Executor& executor, const LoadProgress& progress = nullptr);

}  // namespace permllm
