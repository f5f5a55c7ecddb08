#include "audit/pairs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace permllm {

Pairs by_gate(std::span<const double> gate, std::span<const double> up, std::span<const std::uint32_t> neuron) {
  std::vector<std::uint32_t> order(gate.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return gate[a] < gate[b]; });
  Pairs pairs;
  for (const std::uint32_t j : order) {
    pairs.gate.push_back(static_cast<float>(gate[j]));
    pairs.up.push_back(up.empty() ? 0 : static_cast<float>(std::abs(up[j])));
    pairs.neuron.push_back(neuron[j]);
  }
  return pairs;
}

Nearest nearest(const Pairs& pairs, double gate, double up) {
  Nearest n;
  const auto offer = [&](std::size_t k) {
    const double d = std::hypot(double{pairs.gate[k]} - gate, double{pairs.up[k]} - up);
    if (d < n.distance)
      n.second = n.distance, n.distance = d, n.at = k;
    else
      n.second = std::min(n.second, d);
  };
  auto above = static_cast<std::size_t>(
      std::lower_bound(pairs.gate.begin(), pairs.gate.end(), static_cast<float>(gate)) - pairs.gate.begin());
  auto below = above;
  for (bool more = true; more;) {
    more = false;
    if (above < pairs.gate.size() && double{pairs.gate[above]} - gate < n.second) offer(above++), more = true;
    if (below > 0 && gate - double{pairs.gate[below - 1]} < n.second) offer(--below), more = true;
  }
  return n;
}

}  // namespace permllm
