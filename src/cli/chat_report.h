// What an answer cost, for a program and for a person.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "permllm/client.h"

namespace permllm {

// The event "done" of --json.
nlohmann::json report_of(const Answer& answer, const Client& client);
// Of /cost.
std::string cost_of(const Answer& answer, const Client& client);

}  // namespace permllm
