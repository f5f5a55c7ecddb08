// How far a chain has come, kind by kind: its pieces are made, and burnt, in the order of their numbers.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "wire/message.h"

namespace permllm {

// Kinds of pieces, as PackOrder and PackMaterial number them (Part::Kind of page/transformer.h).
inline constexpr std::uint8_t k_slot_kind = 1, k_entry_kind = 2, k_pass_kind = 3;
// Of pieces that only the user deals; of others the helper deals a half.
inline constexpr std::uint8_t k_users_kind = 4;

struct Marks {
  std::array<std::uint32_t, 4> first{};  // number of the first piece of kind i + 1 that is not made (or not burnt)
  std::uint32_t& operator[](std::uint8_t kind) { return first.at(kind - 1u); }
  std::uint32_t operator[](std::uint8_t kind) const { return first.at(kind - 1u); }
  friend bool operator==(const Marks&, const Marks&) = default;
  template <class Io>
  void visit(Io& io) {
    for (std::uint32_t& number : first) io.number("mark", number);
  }
};
template <class Choose>
Marks each_of(const Marks& a, const Marks& b, Choose choose) {
  Marks marks;
  for (std::size_t i = 0; i < marks.first.size(); ++i) marks.first[i] = choose(a.first[i], b.first[i]);
  return marks;
}
inline Marks later_of(const Marks& a, const Marks& b) {
  return each_of(a, b, [](std::uint32_t x, std::uint32_t y) { return std::max(x, y); });
}
// Pieces between two marks.
inline Marks between(const Marks& begin, const Marks& end) {
  return each_of(begin, end, [](std::uint32_t x, std::uint32_t y) { return y - std::min(x, y); });
}
// Lengths of the two files that a chain's material is kept in, the helper's halves and the user's.
using HalfLengths = std::array<std::uint64_t, 2>;
// Whether none of a is beyond b.
inline bool within(const Marks& a, const Marks& b) { return later_of(a, b) == b; }

}  // namespace permllm
