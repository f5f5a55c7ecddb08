// Events for the program that started this one.
#pragma once

#include <nlohmann/json.hpp>

namespace permllm {

// One JSON object, on a line of standard output. Thread-safe.
void print_event(const nlohmann::json& event);

}  // namespace permllm
