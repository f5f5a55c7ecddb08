// Coins that take every value in turn: the exhaustive check of a party's view in tiny rings.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <tuple>

#include "rand/coins.h"

namespace permllm::test {

// All choices of a run, discovered as they are asked for; next() moves to the next combination.
class Odometer {
 public:
  std::uint32_t choose(std::uint32_t base) {
    if (at_ == digits_.size()) digits_.push_back({0, base});
    PERMLLM_ASSERT(digits_[at_].base == base);
    return digits_[at_++].value;
  }
  bool next() {
    at_ = 0;
    while (!digits_.empty() && ++digits_.back().value == digits_.back().base) digits_.pop_back();
    return !digits_.empty();
  }

 private:
  struct Digit {
    std::uint32_t value, base;
  };
  std::vector<Digit> digits_;
  std::size_t at_ = 0;
};

// The common coins of a pair in one run: what was chosen at each address.
struct PairCoins {
  Odometer& odometer;
  // Sabotage for negative controls: another address in place of the asked one, or none (zeros, the identity).
  std::function<std::optional<Address>(Address)> rewrite = nullptr;
  std::map<std::tuple<int, int, int, std::uint32_t, int>, std::vector<std::uint32_t>> chosen = {};

  const std::vector<std::uint32_t>* at(Address a, std::size_t n, std::function<std::uint32_t(std::size_t)> base) {
    if (rewrite) {
      const auto other = rewrite(a);
      if (!other) return nullptr;
      a = *other;
    }
    auto [entry, fresh] =
        chosen.try_emplace({static_cast<int>(a.use), static_cast<int>(a.site), a.layer, a.index, a.part});
    if (fresh) {
      for (std::size_t i = 0; i < n; ++i) entry->second.push_back(odometer.choose(base(i)));
    }
    PERMLLM_ASSERT(entry->second.size() == n);
    return &entry->second;
  }
  // Everything that this pair chose, as part of a party's view.
  std::vector<std::uint8_t> view() const {
    std::vector<std::uint8_t> all;
    for (const auto& [address, values] : chosen) {
      for (const std::uint32_t value : values) all.push_back(static_cast<std::uint8_t>(value));
    }
    return all;
  }
};

// One party's access to the pair's coins.
class EnumeratedCoins : public Coins {
 public:
  explicit EnumeratedCoins(PairCoins& pair) : pair_(pair) {}
  Permutation permutation(Address address, std::size_t n) const override {
    Permutation order(n);
    std::iota(order.begin(), order.end(), 0u);
    const auto* swaps = pair_.at(address, n, [&](std::size_t i) { return static_cast<std::uint32_t>(n - i); });
    if (swaps == nullptr) return order;
    for (std::size_t i = 0; i < n; ++i) std::swap(order[n - 1 - i], order[(*swaps)[i]]);
    return order;
  }

 protected:
  void fill(Address address, Ring ring, std::span<Word> out) const override {
    PERMLLM_ASSERT(ring.bits <= 8);
    const auto* words = pair_.at(address, out.size(), [&](std::size_t) { return 1u << ring.bits; });
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = words == nullptr ? 0 : (*words)[i];
  }
  void fill(Address address, Ring ring, std::span<Wide> out) const override {
    Words words(out.size());
    fill(address, ring, std::span<Word>(words));
    std::copy(words.begin(), words.end(), out.begin());
  }

 private:
  PairCoins& pair_;
};

}  // namespace permllm::test
