#include "audit/shown.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "permllm/error.h"

namespace permllm {
namespace {

// The logits behind a prompt, by token, in units of what is shown; less the median, since their level is hidden.
std::vector<double> logits_of(const AuditSubject& s, std::span<const TokenId> prompt, std::uint8_t seed) {
  std::vector<double> logits(s.plan.config.vocab);
  walk(
      s, prompt, 1, s.plan.config.layers, seed,
      [&](Witness& w) {
        w.shown = [&](const Showing& showing) {
          if (showing.seen.site != Site::logits) return;
          const Ring ring = s.plan.logit_reveal().sent();
          for (std::size_t j = 0; j < logits.size(); ++j)
            logits[showing.order.pi[j]] = static_cast<double>(
                centre(static_cast<Word>(showing.seen.values[j]) - static_cast<Word>(showing.seen.values[0]), ring));
        };
      },
      nullptr, [&](const Witness& w, const Masked& residual) { run_witness_pass(w, s.plan, s.weights, residual); });
  std::vector<double> sorted = logits;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
  for (double& v : logits) v -= sorted[sorted.size() / 2];
  return logits;
}

std::vector<std::size_t> order_of(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order;
}

Followed follow(const std::vector<double>& a, const std::vector<double>& b, double unit) {
  constexpr std::size_t k_top = 10;
  const std::vector<std::size_t> from = order_of(a), to = order_of(b);
  Followed f;
  double squares = 0;
  for (std::size_t rank = 0, at = 0; rank < from.size(); ++rank) {
    const std::size_t token = from[rank];
    const auto distance = [&](std::size_t i) { return std::abs(b[to[i]] - a[token]); };
    while (at + 1 < to.size() && distance(at + 1) <= distance(at)) ++at;
    const double right = to[at] == token ? 1 : 0;
    f.all += right / static_cast<double>(from.size());
    if (rank + k_top >= from.size()) f.top += right / static_cast<double>(std::min(k_top, from.size()));
    squares += (a[token] - b[token]) * (a[token] - b[token]);
  }
  f.moves = std::sqrt(squares / static_cast<double>(from.size())) * unit;
  return f;
}

}  // namespace

Logits follow_logits(const AuditSubject& s, std::size_t tokens, const AuditProgress& progress) {
  std::vector<TokenId> prompt(s.prompt.begin(),
                              s.prompt.begin() + static_cast<std::ptrdiff_t>(std::min(tokens, s.prompt.size())));
  const auto told = [&](double share) {
    if (progress) progress(share);
  };
  const std::vector<double> first = logits_of(s, prompt, 41);
  told(0.33);
  const std::vector<double> again = logits_of(s, prompt, 43);
  told(0.66);
  TokenId& early = prompt[std::min<std::size_t>(2, prompt.size() - 1)];
  early = static_cast<TokenId>((early + 1) % s.plan.config.vocab);
  const double unit = power_of_two(-s.plan.shown_logit_frac());
  return {follow(first, again, unit), follow(first, logits_of(s, prompt, 45), unit)};
}

Embeddings name_embeddings(const AuditSubject& s) {
  constexpr std::size_t k_tokens = 4000;
  const IntMatrix& embed = s.weights.embed;
  const std::size_t step = std::max<std::size_t>(1, embed.cols() / k_tokens), count = embed.cols() / step;
  std::vector<std::vector<std::int32_t>> rows(count, std::vector<std::int32_t>(embed.rows()));
  std::vector<std::int32_t> entries(embed.cols());
  for (std::size_t d = 0; d < embed.rows(); ++d) {
    embed.row(d, entries);
    for (std::size_t i = 0; i < count; ++i) rows[i][d] = entries[i * step];
  }
  std::map<std::vector<std::int32_t>, std::size_t> seen;
  for (std::vector<std::int32_t>& row : rows) {
    std::sort(row.begin(), row.end());
    ++seen[row];
  }
  std::size_t alone = 0;
  for (const auto& [row, times] : seen) alone += times == 1 ? 1 : 0;
  return {count, static_cast<double>(alone) / static_cast<double>(count)};
}

}  // namespace permllm
