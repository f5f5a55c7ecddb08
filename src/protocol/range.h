// Values that the user opens, or answers, beyond the range that the plan was made for.                  docs/protocol.md 2.9
//
// They are counted, in the same steps whatever they are; no message depends on the count, which stays with the user.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "ring/ring.h"

namespace permllm {

// The largest magnitude within the range, in units of what is looked at; this one: none is beyond.
inline constexpr std::int64_t k_any_magnitude = std::numeric_limits<std::int64_t>::max();

constexpr bool is_beyond(std::int64_t x, std::int64_t most) {
  return static_cast<Word>(x) + static_cast<Word>(most) > 2 * static_cast<Word>(most);
}

inline std::size_t count_beyond(std::span<const std::int64_t> values, std::int64_t most) {
  std::size_t count = 0;
  for (const std::int64_t x : values) count += is_beyond(x, most) ? 1 : 0;
  return count;
}

// Of a row at an unknown level, which wraps in `shown`: differences to its first value, each of two values up to `most`.
inline std::size_t count_beyond_at_a_level(std::span<const std::int64_t> row, std::int64_t most, Ring shown) {
  if (most == k_any_magnitude) return 0;
  std::size_t count = 0;
  for (const std::int64_t x : row)
    count += is_beyond(centre(static_cast<Word>(x) - static_cast<Word>(row[0]), shown), 2 * most) ? 1 : 0;
  return count;
}

// Of words that the user encoded. Those of a ring that 64 bits do not hold have no limit.
inline std::size_t count_beyond(std::span<const Word> words, Ring ring, std::int64_t most) {
  std::size_t count = 0;
  for (const Word word : words) count += is_beyond(centre(word, ring), most) ? 1 : 0;
  return count;
}
inline std::size_t count_beyond(std::span<const Wide>, Ring, std::int64_t) { return 0; }

}  // namespace permllm
