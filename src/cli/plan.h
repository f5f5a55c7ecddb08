// The command `permllm plan`: what serving a model will take, before anything is spent.
#pragma once

#include <CLI/CLI.hpp>

#include "protocol/spec.h"

namespace permllm {

// What the network alone takes for messages of this cost: a round trip's seconds, and bits a second to the user and to the provider (0: no limit).
struct NetworkSeconds {
  double latency = 0, transfer = 0;
};
NetworkSeconds network_seconds(const Cost& cost, double round_trip, double to_user, double to_provider);

void add_plan(CLI::App& parent);

}  // namespace permllm
