// AES-128 rounds on long vectors, where the processor has them: several blocks an instruction, of which OpenSSL 3.0 makes
// one in counter mode.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace permllm {

using CounterBlock = std::array<std::uint8_t, 16>;

namespace aes {

struct RoundKeys {
  alignas(16) std::array<std::uint8_t, 11 * 16> bytes;
};

// Whether this processor has them; the functions below may only be called then.
bool available();
RoundKeys expand(std::span<const std::uint8_t, 16> key);
// The key stream from `counter` on, whose last 8 bytes are a big-endian number that must not wrap around.
void counter_mode(const RoundKeys& keys, const CounterBlock& counter, std::span<std::uint8_t> out);

}  // namespace aes
}  // namespace permllm
