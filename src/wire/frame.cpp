#include "wire/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "permllm/error.h"
#include "wire/tags.h"

namespace permllm {

void encode_header(const Frame& frame, std::span<std::uint8_t, k_frame_header_bytes> out) {
  if (frame.payload.size() > k_max_payload) {
    throw Error(Code::resource, "frame.length",
                fmt::format("a message of {} bytes is over the limit of {}; use a shorter context",
                            frame.payload.size(), k_max_payload));
  }
  const auto length = static_cast<std::uint32_t>(frame.payload.size());
  std::memcpy(&out[0], &k_frame_magic, 4);
  std::memcpy(&out[4], &k_wire_version, 2);
  std::memcpy(&out[6], &frame.tag, 2);
  std::memcpy(&out[8], &frame.session, 8);
  std::memcpy(&out[16], &frame.step, 4);
  std::memcpy(&out[20], &length, 4);
}

FrameHeader decode_header(std::span<const std::uint8_t, k_frame_header_bytes> in) {
  std::uint32_t magic = 0;
  std::uint16_t version = 0;
  FrameHeader header{};
  std::memcpy(&magic, &in[0], 4);
  std::memcpy(&version, &in[4], 2);
  std::memcpy(&header.tag, &in[6], 2);
  std::memcpy(&header.session, &in[8], 8);
  std::memcpy(&header.step, &in[16], 4);
  std::memcpy(&header.length, &in[20], 4);
  if (magic != k_frame_magic) throw Error(Code::malformed, "frame.magic", "the peer does not speak this protocol");
  if (version != k_wire_version) {
    throw Error(Code::mismatch, Reason::version, "frame.version",
                fmt::format("the peer has wire version {}, this side {}", version, k_wire_version));
  }
  return header;
}

void check_length(std::uint16_t tag, std::size_t length, std::size_t most, const char* awaited) {
  most = std::max(most, k_least_payload);
  if (length <= most) return;
  throw Error(Code::malformed, "frame.length",
              fmt::format("{} ({}) of {} bytes, the limit is {} where this is awaited: {}",
                          name_of(static_cast<Tag>(tag)), tag, length, most, awaited));
}

}  // namespace permllm
