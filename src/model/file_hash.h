// The SHA-256 of a model's files.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace permllm {

struct FileBytes {
  std::span<const std::uint8_t> bytes;
  bool mapped;  // they are let go as they are read
};

// Of all bytes, one file after the other, in hex.
std::string sha256_hex(std::span<const FileBytes> files);

}  // namespace permllm
