#include "user/named_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_set>

namespace permllm {
namespace {

// The first n of the order by logit, the best first.
std::vector<std::uint32_t> best_first(std::span<const std::int64_t> logits, std::size_t n) {
  std::vector<std::uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(std::min(n, order.size())), order.end(),
                    [&](std::uint32_t a, std::uint32_t b) { return logits[a] > logits[b]; });
  return order;
}

}  // namespace

void Client::check(const Model& model, const AnswerOptions& o) {
  const auto in_range = [](const char* option, double value, double least, double most) {
    if (!(value >= least && value <= most))
      throw Error(Code::usage, option, fmt::format("{}, expected a number from {} to {}", value, least, most));
  };
  in_range("presence_penalty", o.presence_penalty, -100, 100);
  in_range("frequency_penalty", o.frequency_penalty, -100, 100);
  in_range("repetition_penalty", o.repetition_penalty, 0.01, 100);
  for (const auto& [id, bias] : o.logit_bias) in_range("logit_bias", bias, -1000, 1000);
  const auto named = [&](const char* option, bool asked) {
    if (!asked || model.named_logits) return;
    throw Error(Code::unsupported, option,
                fmt::format("needs to know which token each logit is of; in profile {} they come in an order that does "
                            "not say, only profile open names them",
                            model.profile));
  };
  named("top_logprobs", o.top_logprobs > 0);
  named("logit_bias", !o.logit_bias.empty());
  named("presence_penalty", o.presence_penalty != 0);
  named("frequency_penalty", o.frequency_penalty != 0);
  named("repetition_penalty", o.repetition_penalty != 1);
  if (o.hidden_state && model.profile != "open") {
    throw Error(Code::unsupported, "hidden_state",
                fmt::format("in profile {} the user does not see what goes into the model's head, only in profile open",
                            model.profile));
  }
}

NamedChoice::NamedChoice(const AnswerOptions& how, const Tokenizer& tokenizer, Sampler& sampler)
    : how_(how), tokenizer_(tokenizer), sampler_(sampler) {}

bool NamedChoice::moves() const {
  return !how_.logit_bias.empty() || how_.presence_penalty != 0 || how_.frequency_penalty != 0 ||
         how_.repetition_penalty != 1;
}
bool NamedChoice::wanted() const { return moves() || how_.form; }

std::size_t NamedChoice::choose(std::span<const std::int64_t> logits, int frac, std::span<const TokenId> prompt,
                                std::span<const TokenId> answer) {
  std::vector<std::int64_t> moved;
  if (moves()) {
    moved.assign(logits.begin(), logits.end());
    move(moved, frac, prompt, answer);
    logits = moved;
  }
  return how_.form ? choose_of_form(logits, frac) : sampler_.choose(logits, frac);
}

void NamedChoice::move(std::span<std::int64_t> logits, int frac, std::span<const TokenId> prompt,
                       std::span<const TokenId> answer) const {
  const double unit = std::ldexp(1.0, frac);
  if (how_.repetition_penalty != 1) {
    std::unordered_set<TokenId> seen(prompt.begin(), prompt.end());
    seen.insert(answer.begin(), answer.end());
    for (const TokenId id : seen) {
      if (id >= logits.size()) continue;
      const auto logit = static_cast<double>(logits[id]);
      logits[id] = std::llrint(logit > 0 ? logit / how_.repetition_penalty : logit * how_.repetition_penalty);
    }
  }
  if (how_.presence_penalty != 0 || how_.frequency_penalty != 0) {
    std::unordered_map<TokenId, double> times;
    for (const TokenId id : answer) ++times[id];
    for (const auto& [id, count] : times) {
      if (id < logits.size())
        logits[id] -= std::llrint((how_.presence_penalty + how_.frequency_penalty * count) * unit);
    }
  }
  for (const auto& [id, bias] : how_.logit_bias) {
    if (id < logits.size()) logits[id] += std::llrint(bias * unit);
  }
}

std::vector<Answer::Chance> NamedChoice::likeliest(std::span<const std::int64_t> logits, int frac) const {
  if (how_.top_logprobs == 0) return {};
  std::vector<Answer::Chance> all;
  const std::vector<std::uint32_t> order = best_first(logits, how_.top_logprobs);
  for (std::size_t i = 0; i < std::min(how_.top_logprobs, order.size()); ++i)
    all.push_back({std::string(tokenizer_.bytes(order[i])), Sampler::log_probability(logits, frac, order[i]), {}});
  return all;
}

bool NamedChoice::may_follow(std::size_t id) const {
  const auto token = static_cast<TokenId>(id);
  if (tokenizer_.is_end(token)) return how_.form->may_end();
  const std::string bytes(tokenizer_.bytes(token));
  return !bytes.empty() && how_.form->may_follow(bytes);
}

// Of the likeliest tokens that may follow, or of all that may where none of these does.
std::size_t NamedChoice::choose_of_form(std::span<const std::int64_t> logits, int frac) {
  constexpr std::size_t k_likeliest = 512;
  constexpr std::int64_t k_never = std::numeric_limits<std::int64_t>::min() / 4;
  const std::vector<std::uint32_t> order = best_first(logits, k_likeliest);
  std::vector<std::int64_t> allowed(logits.size(), k_never);
  bool some = false;
  for (std::size_t i = 0; i < order.size() && (i < k_likeliest || !some); ++i) {
    if (!may_follow(order[i])) continue;
    allowed[order[i]] = logits[order[i]];
    some = true;
  }
  return sampler_.choose(some ? std::span<const std::int64_t>(allowed) : logits, frac);
}

}  // namespace permllm
