// The neurons of one use as a user sees them: pairs of gate and up, up without its sign, in an order that says nothing; here by their gate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace permllm {

struct Pairs {
  std::vector<float> gate, up;        // gates rising; up 0 where there is none
  std::vector<std::uint32_t> neuron;  // which is which: what the user does not know
};
// up: empty where neurons have no gate.
Pairs by_gate(std::span<const double> gate, std::span<const double> up, std::span<const std::uint32_t> neuron);

struct Nearest {
  std::size_t at = 0;
  double distance = 1e300, second = 1e300;  // of it, and of the next
};
Nearest nearest(const Pairs& pairs, double gate, double up);

}  // namespace permllm
