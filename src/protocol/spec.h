// What a box costs and what may be shown, as data that the tests measure.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>

#include "permllm/error.h"
#include "ring/ring.h"

namespace permllm {

// Payload bytes and round trips of one call of a box. Frame headers are counted apart.
struct Cost {
  std::size_t rounds = 0;
  struct {
    std::size_t provider_to_user = 0, user_to_provider = 0;
  } online;
  struct {
    std::size_t user_to_provider = 0, helper_to_provider = 0;
  } offline;

  constexpr Cost& operator+=(const Cost& other) {
    rounds += other.rounds;
    online.provider_to_user += other.online.provider_to_user;
    online.user_to_provider += other.online.user_to_provider;
    offline.user_to_provider += other.offline.user_to_provider;
    offline.helper_to_provider += other.offline.helper_to_provider;
    return *this;
  }
  friend constexpr Cost operator+(Cost a, const Cost& b) { return a += b; }
  friend constexpr bool operator==(const Cost& a, const Cost& b) {
    return a.rounds == b.rounds && a.online.provider_to_user == b.online.provider_to_user &&
           a.online.user_to_provider == b.online.user_to_provider &&
           a.offline.user_to_provider == b.offline.user_to_provider &&
           a.offline.helper_to_provider == b.offline.helper_to_provider;
  }
};

// What a party is shown. plan/leak.h says to whom, by which box, under which plan, and in words.
enum class Shown : std::uint8_t {
  undeclared = 0,  // of a shape that names nothing: no table has it
  // To the user:
  embedding_row,
  residual_row,
  head_row,
  output_row,
  score,
  value,
  gate_up,
  raw_gate_up,
  logit,
  token,
  qkv,
  small_vectors,  // profile open
  product_key,    // profile open, checked
  // To the provider:
  words,
  ciphertexts,
  // To the helper:
  orders,
  masked_weights,
  weights,
};
inline constexpr Shown k_last_shown = Shown::weights;

// What coins of provider and helper hide of a row that the user sees: the order of its columns, the sign of each column of the last
// group, a level common to the row.
struct Disguise {
  bool order = false, sign = false, level = false;
  friend constexpr auto operator<=>(const Disguise&, const Disguise&) = default;
};

// Consecutive slots, entries or passes that a box is called for: address index of the i-th is first + i.
struct Batch {
  std::uint32_t first = 0;
  std::size_t count = 0;
  constexpr std::uint32_t index(std::size_t i) const { return first + static_cast<std::uint32_t>(i); }
};

// Keys that the query of a slot meets: all up to its own, and of a prompt that attends both ways all of its `prompt` slots.
constexpr std::size_t keys_at(std::uint32_t slot, std::size_t prompt) {
  return std::max(std::size_t{slot} + 1, prompt);
}
// Of the first i queries of a batch, together.
constexpr std::size_t keys_before(Batch batch, std::size_t i, std::size_t prompt) {
  const std::size_t first = std::size_t{batch.first} + 1, inside = prompt > first ? std::min(prompt - first, i) : 0;
  const auto triangle = [](std::size_t n) { return n * (n - std::min<std::size_t>(n, 1)) / 2; };
  return inside * prompt + (i - inside) * first + triangle(i) - triangle(inside);
}

}  // namespace permllm
