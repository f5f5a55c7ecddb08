#include "he/wire.h"

#include <fmt/format.h>

#include <cstring>

namespace permllm::he {
namespace {

Word low_bits(int bits) { return (Word{1} << bits) - 1; }

// Where word i of so many bits begins: fewer than 8 bits into a byte, so 8 bytes from there hold it, up to 57 bits.
struct Place {
  std::size_t byte;
  int shift;
  Place(std::size_t i, int bits)
      : byte(i * static_cast<std::size_t>(bits) / 8), shift(static_cast<int>(i * static_cast<std::size_t>(bits) % 8)) {}
};
constexpr std::size_t k_slack = 8;  // bytes behind the last, so that all words are accessed in one way

}  // namespace

void number_is(Writer& writer, const char* field, std::uint16_t value) { writer.number(field, value); }

void number_is(Reader& reader, const char* field, std::uint16_t expected) {
  std::uint16_t value = 0;
  reader.number(field, value);
  if (value != expected) reader.refuse(field, fmt::format("{}, expected {}", value, expected));
}

void bytes_of(Writer& writer, const char* field, std::span<const std::uint8_t> bytes) {
  writer.raw(field, Bytes(bytes.begin(), bytes.end()), bytes.size());
}

void bytes_of(Reader& reader, const char* field, std::span<std::uint8_t> bytes) {
  Bytes read;
  reader.raw(field, read, bytes.size());
  if (read.size() != bytes.size())
    reader.refuse(field, fmt::format("{} bytes, expected {}", read.size(), bytes.size()));
  std::memcpy(bytes.data(), read.data(), bytes.size());
}

void packed_words(Writer& writer, const char* field, const Words& words, std::size_t count, int bits) {
  PERMLLM_ASSERT(words.size() == count);
  const std::size_t size = packed_bytes(count, bits) - 4;
  Bytes bytes(size + k_slack);
  for (std::size_t i = 0; i < count; ++i) {
    const Place place(i, bits);
    Word window;
    std::memcpy(&window, &bytes[place.byte], sizeof window);
    window |= (words[i] & low_bits(bits)) << place.shift;
    std::memcpy(&bytes[place.byte], &window, sizeof window);
  }
  bytes.resize(size);
  writer.raw(field, bytes, size);
}

void packed_words(Reader& reader, const char* field, Words& words, std::size_t count, int bits) {
  const std::size_t size = packed_bytes(count, bits) - 4;
  Bytes bytes;
  reader.raw(field, bytes, size);
  if (bytes.size() != size) reader.refuse(field, fmt::format("{} bytes, expected {}", bytes.size(), size));
  const std::size_t last = count * static_cast<std::size_t>(bits) % 8;
  if (last != 0 && bytes.back() >> last != 0) reader.refuse(field, "bits behind the last word are not 0");
  bytes.resize(size + k_slack);
  words.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Place place(i, bits);
    Word window;
    std::memcpy(&window, &bytes[place.byte], sizeof window);
    words[i] = window >> place.shift & low_bits(bits);
  }
}

void residues(Writer& writer, const char* field, const Words& words, std::size_t polynomials) {
  packed_words(writer, field, words, polynomials * k_residues, k_prime_bits);
}

void residues(Reader& reader, const char* field, Words& words, std::size_t polynomials) {
  packed_words(reader, field, words, polynomials * k_residues, k_prime_bits);
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] >= k_primes[i / k_degree % 2])
      reader.refuse(field, fmt::format("word {} is not reduced modulo its prime", i));
  }
}

}  // namespace permllm::he
