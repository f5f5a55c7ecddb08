// Options that several commands have.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "service/log.h"
#include "service/server.h"
#include "user/links.h"

namespace permllm {

// --rtt, --bandwidth
void add_link_shape(CLI::App& command, LinkShape& shape);
// --state of a user
void add_user_state(CLI::App& command, std::string& state);
// --max-connections, --max-handshakes, --max-per-user, --max-memory, --drain
void add_limits(CLI::App& command, Limits& limits);
// --log, --log-level
void add_log_options(CLI::App& command, LogOptions& options);

}  // namespace permllm
