// From a GGUF file to what a provider offers.
#pragma once

#include <cstddef>
#include <string>

#include "engine/provider_service.h"

namespace permllm {

// Reads the file, makes the integer weights, calibrates the ranges on the text that ships with the project, and draws a
// fresh seed for U and a fresh salt. context: slots of a chain; at most the model's own limit (usage Error with both
// numbers).
OfferedModel offer_model(const std::string& path, std::size_t context, Executor& executor);

}  // namespace permllm
