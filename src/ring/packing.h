// How the integers of a matrix lie in memory (ring/int_kernels.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace permllm {

constexpr int k_weight_bits = 12;  // |integer| < 2^(k_weight_bits - 1)
constexpr int k_coded_bits = 13;   // likewise, where it is made of a code

// Codes of a model file, of so many bits; so many columns of a row share a scale and, with zeros, a point where weights are 0 (else the middle of
// the codes).
struct CodeForm {
  int bits = 4;           // 4, 5, 6 or 8
  std::size_t span = 32;  // 16 or 32
  bool zeros = false;
  friend constexpr bool operator==(const CodeForm&, const CodeForm&) = default;
};

// Integers of 12 or 8 bits; or codes, from which integers of k_coded_bits are made as they are multiplied.
struct Packing {
  int bits = k_weight_bits;  // of an integer
  std::optional<CodeForm> codes = {};

  constexpr Packing() = default;
  constexpr Packing(int of_bits) : bits(of_bits) {}                      // NOLINT(google-explicit-constructor)
  constexpr Packing(CodeForm form) : bits(k_coded_bits), codes(form) {}  // NOLINT(google-explicit-constructor)
  friend constexpr bool operator==(const Packing&, const Packing&) = default;

  // What another party is told: 12 or 8, or of codes 128, 64 with zeros, 32 with spans of 32 columns, and their bits, all added up.
  constexpr std::uint8_t byte() const {
    return static_cast<std::uint8_t>(
        codes ? 128 + (codes->zeros ? 64 : 0) + static_cast<int>(codes->span & 32) + codes->bits : bits);
  }
  // None where there is no such packing: spans of 16 columns would leave half a plane of fifth bits.
  static constexpr std::optional<Packing> of(std::uint8_t byte) {
    if (byte == 8 || byte == 12) return Packing(byte);
    const CodeForm form{byte & 31, (byte & 32) != 0 ? 32u : 16u, (byte & 64) != 0};
    const bool known = form.bits == 4 || (form.bits == 5 && form.span == 32) || form.bits == 6 || form.bits == 8;
    if (byte < 128 || !known) return std::nullopt;
    return Packing(form);
  }
};

}  // namespace permllm
