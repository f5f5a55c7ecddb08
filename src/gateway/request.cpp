#include "gateway/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <chrono>

#include "rand/seed.h"

namespace permllm::gateway {

std::vector<std::string> Request::tool_names() const {
  std::vector<std::string> names;
  for (const Json& one : tools) names.push_back(one["function"]["name"]);
  return names;
}

std::vector<Piece> joined(const std::vector<Piece>& pieces) {
  std::vector<Piece> out;
  for (const Piece& piece : pieces) {
    const bool goes_on = !out.empty() && piece.kind != Piece::Kind::call && out.back().kind == piece.kind &&
                         out.back().choice == piece.choice;
    goes_on ? static_cast<void>(out.back().text += piece.text) : out.push_back(piece);
  }
  return out;
}

Head Head::of(std::string model, std::string fingerprint) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {fmt::format("{:016x}{:016x}", random_number(), random_number()), std::move(model), std::move(fingerprint),
          std::chrono::duration_cast<std::chrono::seconds>(now).count()};
}

std::string slug(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const auto u = static_cast<unsigned char>(c);
    const bool kept = std::isalnum(u) != 0 && u < 128;
    if (kept || c == '.' || c == '_') {
      out += static_cast<char>(std::tolower(u));
    } else if (!out.empty() && out.back() != '-') {
      out += '-';
    }
  }
  while (out.ends_with('-')) out.pop_back();
  return out.empty() ? "permllm" : out;
}

Json tokens_left(std::uint64_t tokens) { return tokens > INT64_MAX / 2 ? Json(nullptr) : Json(tokens); }

std::size_t cached_tokens(const Answer::Cost& cost) {
  return cost.prompt_tokens - std::min(cost.prompt_tokens, cost.fed_tokens);
}

Json costs_of(const Costs& costs) {
  const Answer::Cost& c = costs.cost;
  const auto bytes = [](const Answer::Bytes& of) { return Json{{"sent", of.sent}, {"received", of.received}}; };
  return {{"profile", costs.profile},
          {"online_bytes", bytes(c.online)},
          {"offline_bytes",
           {{"to_provider", c.offline_provider.sent},
            {"from_provider", c.offline_provider.received},
            {"to_helper", c.offline_helper.sent},
            {"from_helper", c.offline_helper.received}}},
          {"set_up_bytes", bytes(c.set_up)},
          {"round_trips", c.round_trips},
          {"drafts",
           {{"passes", c.passes},
            {"tokens", c.drafted_tokens},
            {"rejected", c.rejected_tokens},
            {"rejected_offline_bytes", c.rejected_bytes}}},
          {"seconds",
           {{"offline", c.offline_seconds},
            {"first_token", c.first_token_seconds},
            {"per_token", c.token_seconds},
            {"total", c.seconds}}},
          {"out_of_range", costs.out_of_range},
          {"trusted_tokens", costs.trusted_tokens},
          {"stock_tokens", costs.stock_tokens},
          {"tokens_left", tokens_left(c.tokens_left)}};
}

std::string random_id(std::size_t size) {
  constexpr std::string_view k_letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  std::string id;
  while (id.size() < size) {
    std::uint64_t number = random_number();
    for (int i = 0; i < 9 && id.size() < size; ++i, number /= k_letters.size())
      id += k_letters[number % k_letters.size()];
  }
  return id;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace permllm::gateway
