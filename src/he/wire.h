// Fields of the objects that travel, for `visit` (wire/message.h). Errors when read: malformed, naming the field, before anything
// is allocated that the expected size does not call for.
#pragma once

#include <span>

#include "he/polynomial.h"
#include "wire/message.h"

namespace permllm::he {

// A number that must be this one.
void number_is(Writer& writer, const char* field, std::uint16_t value);
void number_is(Reader& reader, const char* field, std::uint16_t expected);
// So many bytes, behind their number.
void bytes_of(Writer& writer, const char* field, std::span<const std::uint8_t> bytes);
void bytes_of(Reader& reader, const char* field, std::span<std::uint8_t> bytes);
// `count` words of `bits` bits each, the first bit of a word behind the last of the word before it, low bits first; what is left of the
// last byte is 0; behind the number of their bytes.
void packed_words(Writer& writer, const char* field, const Words& words, std::size_t count, int bits);
void packed_words(Reader& reader, const char* field, Words& words, std::size_t count, int bits);
// The residues of `polynomials` polynomials, 53 bits each. Read, each is below its prime.
void residues(Writer& writer, const char* field, const Words& words, std::size_t polynomials);
void residues(Reader& reader, const char* field, Words& words, std::size_t polynomials);

constexpr std::size_t packed_bytes(std::size_t count, int bits) {
  return 4 + (count * static_cast<std::size_t>(bits) + 7) / 8;
}
constexpr std::size_t residues_bytes(std::size_t polynomials) {
  return packed_bytes(polynomials * k_residues, k_prime_bits);
}

inline void number_is(Bound& bound, const char* field, std::uint16_t value) { bound.number(field, value); }
inline void bytes_of(Bound& bound, const char*, std::span<const std::uint8_t> bytes) { bound.add(4 + bytes.size()); }
inline void packed_words(Bound& bound, const char*, const Words&, std::size_t count, int bits) {
  bound.add(packed_bytes(count, bits));
}
inline void residues(Bound& bound, const char*, const Words&, std::size_t polynomials) {
  bound.add(residues_bytes(polynomials));
}

}  // namespace permllm::he
