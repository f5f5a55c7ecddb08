// Randomness that two parties share: one-time coins (masks, orders) and the re-readable expansion of U.
// The two are different types: a mask protects one message; U may be read as often as one likes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "rand/counter_mode.h"
#include "rand/domains.h"
#include "rand/seed.h"
#include "ring/ring.h"

namespace permllm {

// Where one-time coins lie: what for, in which box of which layer, for which slot, entry or pass of the chain; `part`
// tells rows of one message apart.
struct Address {
  Use use;
  Site site;
  std::uint16_t layer = 0;
  std::uint32_t index = 0;
  std::uint16_t part = 0;
};

using Permutation = std::vector<std::uint32_t>;  // column j shows element order[j]

// One-time coins of two parties, in one chain. Deriving an address again is fine until the message that it protects is
// made; the maker of that message calls `spend`, which a second message under the same address cannot pass.
class Coins {
 public:
  Coins() = default;
  virtual ~Coins() = default;
  Coins(const Coins&) = delete;
  Coins& operator=(const Coins&) = delete;

  // n uniform words of the ring. Thread-safe.
  template <class W = Word>
  std::vector<W> words(Address address, std::size_t n, Ring ring) const {
    std::vector<W> out(n);
    words(address, ring, std::span<W>(out));
    return out;
  }
  template <class W>
  void words(Address address, Ring ring, std::span<W> out) const {
    fill(address, ring, out);
  }
  // A uniform permutation of n elements. Thread-safe.
  virtual Permutation permutation(Address address, std::size_t n) const = 0;

  // The same words, burnt: for the one message that they protect. Within one use and site the addresses of a layer are
  // spent in rising order of `index`; spending one burns all before it. One thread spends.
  template <class W = Word>
  std::vector<W> spend(Address address, std::size_t n, Ring ring) {
    burn(address);
    return words<W>(address, n, ring);
  }
  // What spend does before it derives the words: for messages that several threads make.
  void burn(Address address);

 protected:
  virtual void fill(Address address, Ring ring, std::span<Word> out) const = 0;
  // Two words for each, low and high.
  virtual void fill(Address address, Ring ring, std::span<Wide> out) const = 0;

 private:
  // First index that is not burnt, by (use, site) and layer.
  std::array<std::vector<std::uint64_t>, static_cast<std::size_t>(k_uses) * k_sites> unburnt_;
};

// AES-128 in counter mode; a stream is the counter block (use, site, layer, index, part, 48-bit block number).
class AesCoins : public Coins {
 public:
  explicit AesCoins(const Seed& seed);
  Permutation permutation(Address address, std::size_t n) const override;

 protected:
  void fill(Address address, Ring ring, std::span<Word> out) const override;
  void fill(Address address, Ring ring, std::span<Wide> out) const override;

 private:
  CounterMode stream_;
};

// The expansion of U: matrix `id` of the model, readable at any offset, any number of times. Thread-safe.
class ReadableStream {
 public:
  explicit ReadableStream(const Seed& seed);
  // Bytes [offset, offset + out.size()) of matrix `id`.
  void fill(std::uint32_t id, std::uint64_t offset, std::span<std::uint8_t> out) const;

 private:
  CounterMode stream_;
};

}  // namespace permllm
