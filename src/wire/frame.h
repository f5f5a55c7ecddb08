// The header of a frame (docs/wire.md 1), little-endian:
//   magic u32 "PLLM", version u16, tag u16, session u64, step u32, length u32
#pragma once

#include <cstdint>
#include <span>

#include "wire/link.h"

namespace permllm {

inline constexpr std::uint32_t k_frame_magic = 0x4d4c4c50;  // "PLLM"
inline constexpr std::uint16_t k_wire_version = 9;
inline constexpr std::size_t k_frame_header_bytes = 24;
// The greatest legal message: one piece of offline material of the largest model (PackMaterial::k_limit), with its fields.
inline constexpr std::uint32_t k_max_payload = (std::uint32_t{1} << 28) + 1024;
// May come whatever is awaited: a Refusal, and frames of the link's own.
inline constexpr std::size_t k_least_payload = 1024;

struct FrameHeader {
  std::uint16_t tag;
  std::uint64_t session;
  std::uint32_t step, length;
};

void encode_header(const Frame& frame, std::span<std::uint8_t, k_frame_header_bytes> out);
// Errors: malformed (magic), mismatch (another wire version; names both).
FrameHeader decode_header(std::span<const std::uint8_t, k_frame_header_bytes> in);
// Before memory is taken for a payload. Errors: malformed, naming message, length and limit, where it is longer than `most` and k_least_payload.
void check_length(std::uint16_t tag, std::size_t length, std::size_t most, const char* awaited);

}  // namespace permllm
