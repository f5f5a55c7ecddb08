// Options that several commands have.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "model/gguf.h"
#include "net/shaped.h"
#include "permllm/client.h"
#include "service/log.h"
#include "service/server.h"

namespace permllm {

// --network; ahead of --rtt and --bandwidth, which go before it where both are given
void add_network(CLI::App& command, LinkShape& shape);
// --rtt, --bandwidth
void add_link_shape(CLI::App& command, LinkShape& shape);
// --state of a user
void add_user_state(CLI::App& command, std::string& state);
// Drafts, as they are asked for.
struct DraftOptions {
  std::string model, length;  // length empty: chosen where there is a model, else none
  // k_draft_chosen: it is chosen. Errors: usage.
  std::size_t tokens() const;
  // The length of a MeasuredConversation's.
  std::optional<std::size_t> fixed() const;
  // That the model is read from; none without one. Errors: those of Gguf::files.
  std::vector<std::filesystem::path> files() const;
};
// How a user's program waits for its peers, in seconds.
struct PatienceOptions {
  double patience = 120, grace = 60;
  // With the folder of --state, and what goes with drafts that are asked for.
  ClientOptions client(const std::string& state, const DraftOptions& draft = {}) const;
};
// --patience alone, which all programs have that wait for a peer
void add_patience(CLI::App& command, double& seconds);
// --patience, --grace
void add_patience(CLI::App& command, PatienceOptions& options);
// --draft, --draft-model
void add_draft(CLI::App& command, DraftOptions& draft);
// --max-connections, --max-handshakes, --max-per-user, --max-memory, --drain
void add_limits(CLI::App& command, Limits& limits);
// --log, --log-level
void add_log_options(CLI::App& command, LogOptions& options);

}  // namespace permllm
