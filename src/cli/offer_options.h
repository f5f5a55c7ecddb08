// Options of the commands that read a model as a provider does.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "provider/offer.h"

namespace permllm {

// --context, --prompt-slots, --profile, --fused, --hidden-positions, --checked, --retrieval, --weight-bits, --pre-tokenizer
void add_offer_options(CLI::App& command, OfferOptions& options);
// --pre-tokenizer
void add_pre_tokenizer(CLI::App& command, std::string& name);
// --synthetic, --layers, --width, --distinct-layers
void add_synthetic_options(CLI::App& command, OfferOptions& options);
std::vector<std::string> arguments_of(const OfferOptions& options);

}  // namespace permllm
