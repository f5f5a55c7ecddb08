#include <cstring>

#include "ring/matrix.h"

namespace permllm {
namespace {

// Words of `bytes` bytes, little-endian. All but the last few move as whole 8-byte stores and loads, which may touch the
// bytes of the following words but nothing outside the range.
void pack_bytes(std::span<const Word> words, Word mask, std::size_t bytes, std::uint8_t* out) {
  std::size_t i = 0;
  for (; i + 8 <= words.size(); ++i) {
    const Word word = words[i] & mask;
    std::memcpy(out + i * bytes, &word, 8);
  }
  for (; i < words.size(); ++i) {
    const Word word = words[i] & mask;
    std::memcpy(out + i * bytes, &word, bytes);
  }
}

void unpack_bytes(const std::uint8_t* in, Word mask, std::size_t bytes, std::span<Word> words) {
  std::size_t i = 0;
  for (; i + 8 <= words.size(); ++i) {
    Word word;
    std::memcpy(&word, in + i * bytes, 8);
    words[i] = word & mask;
  }
  for (; i < words.size(); ++i) {
    Word word = 0;
    std::memcpy(&word, in + i * bytes, bytes);
    words[i] = word & mask;
  }
}

}  // namespace

void pack(std::span<const Word> words, Ring ring, std::uint8_t* out) {
  pack_bytes(words, ring.mask(), ring.bytes(), out);
}

void unpack(const std::uint8_t* in, Ring ring, std::span<Word> words) {
  unpack_bytes(in, ring.mask(), ring.bytes(), words);
}

void pack(std::span<const Wide> words, Ring ring, std::uint8_t* out) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    const Wide word = words[i] & ring.mask<Wide>();
    std::memcpy(out + i * ring.bytes(), &word, ring.bytes());
  }
}

void unpack(const std::uint8_t* in, Ring ring, std::span<Wide> words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    Wide word = 0;
    std::memcpy(&word, in + i * ring.bytes(), ring.bytes());
    words[i] = word & ring.mask<Wide>();
  }
}

}  // namespace permllm
