// AES-128 in counter mode under one key: a stream that can be read from any block, in several threads at once.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "rand/seed.h"

namespace permllm {

using CounterBlock = std::array<std::uint8_t, 16>;

class CounterMode {
 public:
  // The key is the seed's first 16 bytes.
  explicit CounterMode(const Seed& seed);
  ~CounterMode();
  CounterMode(CounterMode&&) noexcept;
  // The key stream from `counter` on, whose last 8 bytes are a big-endian number that must not wrap around.
  void read(const CounterBlock& counter, std::span<std::uint8_t> out) const;

 private:
  struct Key;
  std::unique_ptr<Key> key_;
};

// The counter block that comes `blocks` blocks after this one.
CounterBlock block_after(CounterBlock counter, std::uint64_t blocks);

}  // namespace permllm
