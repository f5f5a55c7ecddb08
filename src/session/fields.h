// How seeds and digests travel in messages.
#pragma once

#include <algorithm>

#include "rand/seed.h"
#include "wire/message.h"

namespace permllm {

template <class Io>
void visit(Io& io, Seed& seed) {
  Bytes bytes(seed.bytes().begin(), seed.bytes().end());
  io.raw("seed", bytes, Seed::k_bytes);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (bytes.size() != Seed::k_bytes) io.refuse("seed", "expected 32 bytes");
    seed = Seed(std::span<const std::uint8_t, Seed::k_bytes>(bytes.data(), Seed::k_bytes));
  }
}

template <class Io>
void visit(Io& io, Digest& digest) {
  Bytes bytes(digest.begin(), digest.end());
  io.raw("digest", bytes, digest.size());
  if constexpr (std::is_same_v<Io, Reader>) {
    if (bytes.size() != digest.size()) io.refuse("digest", "expected 32 bytes");
    std::copy(bytes.begin(), bytes.end(), digest.begin());
  }
}

}  // namespace permllm
