// Words to and from the wire: each reduced to its ring, little-endian, ring.bytes() bytes.
#pragma once

#include <cstdint>
#include <span>

#include "ring/ring.h"

namespace permllm {

void pack(std::span<const Word> words, Ring ring, std::uint8_t* out);
void unpack(const std::uint8_t* in, Ring ring, std::span<Word> words);
void pack(std::span<const Wide> words, Ring ring, std::uint8_t* out);
void unpack(const std::uint8_t* in, Ring ring, std::span<Wide> words);

}  // namespace permllm
