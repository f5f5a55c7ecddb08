#include "cli/chat_report.h"

#include <fmt/format.h>

namespace permllm {

nlohmann::json report_of(const Answer& answer, const Client& client) {
  const Answer::Cost& cost = answer.cost;
  const auto bytes = [](const Answer::Bytes& b) { return nlohmann::json{{"sent", b.sent}, {"received", b.received}}; };
  constexpr const char* ends[] = {"model", "length", "stock", "stop", "cancelled"};
  return {{"event", "done"},
          {"text", answer.text},
          {"output_ids", answer.tokens},
          {"out_of_range", answer.out_of_range},
          {"trusted_tokens", answer.trusted_tokens},
          {"end", ends[static_cast<int>(answer.end)]},
          {"profile", client.model().profile},
          {"prompt_tokens", cost.prompt_tokens},
          {"prompt_tokens_fed", cost.fed_tokens},
          {"seconds",
           {{"offline", cost.offline_seconds},
            {"prefill", cost.first_token_seconds},
            {"decode_per_token", cost.token_seconds},
            {"all", cost.seconds}}},
          {"bytes",
           {{"set_up", bytes(cost.set_up)},
            {"online", bytes(cost.online)},
            {"offline_provider", bytes(cost.offline_provider)},
            {"offline_helper", bytes(cost.offline_helper)}}},
          {"round_trips", cost.round_trips},
          {"drafts",
           {{"passes", cost.passes},
            {"tokens", cost.drafted_tokens},
            {"rejected", cost.rejected_tokens},
            {"rejected_offline_bytes", cost.rejected_bytes}}},
          {"tokens_left", cost.tokens_left},
          {"tokens_ready", client.ready_tokens()}};
}

std::string cost_of(const Answer& answer, const Client& client) {
  const Answer::Cost& cost = answer.cost;
  const auto row = [](const char* what, const Answer::Bytes& b) {
    return fmt::format("{:<28}{:>9.3f} MB sent, {:>9.3f} MB received\n", what, 1e-6 * static_cast<double>(b.sent),
                       1e-6 * static_cast<double>(b.received));
  };
  return fmt::format("tokens: prompt {}, of which {} were fed now; answer {}; left of the invite {}\n",
                     cost.prompt_tokens, cost.fed_tokens, cost.answer_tokens, cost.tokens_left) +
         fmt::format("offline material {:.2f} s, first token {:.2f} s, a token {:.3f} s; profile {}, {} round trips\n",
                     cost.offline_seconds, cost.first_token_seconds, cost.token_seconds, client.model().profile,
                     cost.round_trips) +
         (cost.drafted_tokens == 0
              ? ""
              : fmt::format("drafts: {} tokens in {} passes, {} rejected, which took {:.3f} MB of the material\n",
                            cost.drafted_tokens, cost.passes, cost.rejected_tokens,
                            1e-6 * static_cast<double>(cost.rejected_bytes))) +
         row("set-up", cost.set_up) + row("online, with the provider", cost.online) +
         row("offline, with the provider", cost.offline_provider) +
         row("offline, with the helper", cost.offline_helper);
}

}  // namespace permllm
