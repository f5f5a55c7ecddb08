#include "audit/subject.h"

#include <algorithm>
#include <array>

namespace permllm {

AuditProgress stretch(const AuditProgress& progress, double from, double to) {
  if (!progress) return nullptr;
  return [progress, from, to](double share) { progress(from + share * (to - from)); };
}

Seed coin_seed(std::uint8_t number) {
  std::array<std::uint8_t, Seed::k_bytes> bytes{};
  bytes[0] = number;
  return Seed{bytes};
}

void walk(const AuditSubject& s, std::span<const TokenId> prompt, std::size_t repeats, std::size_t layers,
          std::uint8_t seed, const std::function<void(Witness&)>& set, const AuditProgress& progress,
          const std::function<void(const Witness&, const Masked& residual)>& behind) {
  constexpr std::size_t k_tokens = 250;  // at a time
  const std::size_t block = std::max<std::size_t>(1, k_tokens / prompt.size());
  const AesCoins user(coin_seed(seed)), provider(coin_seed(static_cast<std::uint8_t>(seed + 1)));
  for (std::size_t begin = 0; begin < repeats; begin += block) {
    Witness w{user, provider, s.executor, prompt.size(), std::min(block, repeats - begin)};
    w.first = static_cast<std::uint32_t>(begin * prompt.size());
    w.coined = s.coined;
    set(w);
    const Masked residual = run_witness(w, s.plan, s.weights, prompt, layers);
    if (behind) behind(w, residual);
    if (progress) progress(static_cast<double>(begin) / static_cast<double>(repeats));
  }
}

}  // namespace permllm
