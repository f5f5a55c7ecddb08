#include "cli/shared_options.h"

#include <fmt/format.h>

#include <charconv>
#include <map>

namespace permllm {

void add_network(CLI::App& command, LinkShape& shape) {
  static const std::map<std::string, LinkShape> networks{
      {"lan", {"500us", "1gbit"}}, {"wan", {"10ms", "1gbit"}}, {"home", {"52ms", "100mbit/40mbit"}}};
  command
      .add_option_function<std::string>(
          "--network", [&shape](const std::string& name) { shape = networks.at(name); },
          "lan (500us, 1gbit), wan (10ms, 1gbit) or home (52ms, 100mbit to the user, 40mbit from it), in place of "
          "--rtt "
          "and --bandwidth")
      ->check(CLI::IsMember({"lan", "wan", "home"}));
}

void add_link_shape(CLI::App& command, LinkShape& shape) {
  command.add_option("--rtt", shape.rtt, "simulated round-trip time of every link of a session (10ms, 250us)")
      ->capture_default_str();
  command
      .add_option("--bandwidth", shape.bandwidth,
                  "simulated bandwidth of every link of a session (1gbit, 100mbit; to the user and from it: "
                  "100mbit/40mbit; 0: no limit)")
      ->capture_default_str();
}

void add_user_state(CLI::App& command, std::string& state) {
  command.add_option(
      "--state", state,
      "folder of what is kept between conversations: which offline material is there and which is used (holds secrets; "
      "by default permllm in the user's folder for state)");
}

ClientOptions PatienceOptions::client(const std::string& state, const DraftOptions& draft) const {
  const auto milliseconds = [](double seconds) {
    return std::chrono::milliseconds(static_cast<std::int64_t>(1000 * seconds));
  };
  ClientOptions options;
  options.state = state;
  options.draft_model = draft.model;
  options.drafts = draft.tokens() != 0;
  options.patience = milliseconds(patience);
  options.grace = milliseconds(grace);
  return options;
}

void add_patience(CLI::App& command, double& seconds) {
  command.add_option("--patience", seconds, "seconds to wait for a peer before giving up")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
}

void add_patience(CLI::App& command, PatienceOptions& options) {
  add_patience(command, options.patience);
  command
      .add_option("--grace", options.grace,
                  "seconds to try again when the connection to the provider was lost in an answer; 0: it ends")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
}

std::size_t DraftOptions::tokens() const {
  if (length.empty()) return model.empty() ? 0 : k_draft_chosen;
  if (length == "auto") return k_draft_chosen;
  std::size_t n = 0;
  const auto [end, error] = std::from_chars(length.data(), length.data() + length.size(), n);
  if (error != std::errc() || end != length.data() + length.size() || n > k_most_draft)
    throw Error(Code::usage, "--draft", fmt::format("\"{:.20}\", expected 0 to {}, or auto", length, k_most_draft));
  return n;
}

std::optional<std::size_t> DraftOptions::fixed() const {
  return tokens() == k_draft_chosen ? std::nullopt : std::optional(tokens());
}

std::vector<std::filesystem::path> DraftOptions::files() const {
  return model.empty() ? std::vector<std::filesystem::path>{} : Gguf::files(model);
}

void add_draft(CLI::App& command, DraftOptions& draft) {
  command
      .add_option("--draft", draft.length,
                  "tokens to guess and verify in one pass; in paper and fast the provider then learns no positions, "
                  "for a round trip a layer more, and offline material is of its own kind; 0: none; auto: 0, 2 or 4, "
                  "chosen once a conversation by what its first passes took")
      ->default_str("0; auto with --draft-model");
  command.add_option(
      "--draft-model", draft.model,
      "GGUF file of a small model with the same vocabulary, which guesses on this machine, in the clear; "
      "without it guesses come from the text so far");
}

void add_limits(CLI::App& command, Limits& limits) {
  command
      .add_option("--max-connections", limits.connections,
                  "connections at once; read again on SIGHUP, like the other limits")
      ->capture_default_str()
      ->check(CLI::Range(4, 1000000));
  command
      .add_option("--max-handshakes", limits.handshakes,
                  "handshakes under way from one address; the oldest gives way to a newcomer")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  command.add_option("--max-per-user", limits.per_user, "connections of one user at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  command
      .add_option("--max-memory", limits.memory,
                  "refuse new sessions when the process has more memory of its own (8GB; mapped files do not count); "
                  "0: no limit")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(false));
  command
      .add_option("--drain", limits.drain_seconds,
                  "seconds that sessions under way have to end, after SIGTERM or SIGINT")
      ->capture_default_str();
}

void add_log_options(CLI::App& command, LogOptions& options) {
  command.add_option("--log", options.format, "text, or json: an object a line")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json"}));
  command.add_option("--log-level", options.level, "debug, info, warn, error or off; read again on SIGHUP")
      ->capture_default_str()
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}));
}

}  // namespace permllm
