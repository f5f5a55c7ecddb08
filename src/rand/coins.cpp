#include "rand/coins.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "permllm/error.h"

namespace permllm {
namespace {

static_assert(std::endian::native == std::endian::little, "words are drawn from little-endian bytes");

CounterBlock counter_of(Address a) {
  return {static_cast<std::uint8_t>(a.use),         static_cast<std::uint8_t>(a.site),
          static_cast<std::uint8_t>(a.layer >> 8),  static_cast<std::uint8_t>(a.layer),
          static_cast<std::uint8_t>(a.index >> 24), static_cast<std::uint8_t>(a.index >> 16),
          static_cast<std::uint8_t>(a.index >> 8),  static_cast<std::uint8_t>(a.index),
          static_cast<std::uint8_t>(a.part >> 8),   static_cast<std::uint8_t>(a.part)};
}

template <class W>
std::span<std::uint8_t> bytes_of(std::span<W> words) {
  return {reinterpret_cast<std::uint8_t*>(words.data()), words.size_bytes()};
}

}  // namespace

void Coins::burn(Address a) {
  auto& layers = unburnt_[static_cast<std::size_t>(a.use) * k_sites + static_cast<std::size_t>(a.site)];
  if (layers.size() <= a.layer) layers.resize(std::size_t{a.layer} + 1);
  PERMLLM_ASSERT(a.index >= layers[a.layer]);  // a mask would protect a second message
  layers[a.layer] = std::uint64_t{a.index} + 1;
}

AesCoins::AesCoins(const Seed& seed) : stream_(seed) {}

void AesCoins::fill(Address address, Ring ring, std::span<Word> out) const {
  stream_.read(counter_of(address), bytes_of(out));
  const Word mask = ring.mask();
  for (Word& word : out) word &= mask;
}

void AesCoins::fill(Address address, Ring ring, std::span<Wide> out) const {
  stream_.read(counter_of(address), bytes_of(out));
  const Wide mask = ring.mask<Wide>();
  for (Wide& word : out) word &= mask;
}

Permutation AesCoins::permutation(Address address, std::size_t n) const {
  CounterBlock counter = counter_of(address);
  std::array<std::uint32_t, 256> pool;
  std::size_t used = pool.size();
  const auto draw = [&] {
    if (used == pool.size()) {
      stream_.read(counter, bytes_of(std::span<std::uint32_t>(pool)));
      counter = block_after(counter, sizeof pool / 16);
      used = 0;
    }
    return pool[used++];
  };
  Permutation order(n);
  std::iota(order.begin(), order.end(), 0u);
  for (std::uint32_t left = static_cast<std::uint32_t>(n); left > 1; --left) {
    // Uniform in [0, left) without modulo bias: reject the 2^32 mod left lowest products (Lemire, 2019).
    const std::uint32_t reject = (0u - left) % left;
    std::uint64_t product = 0;
    do product = std::uint64_t{draw()} * left;
    while (static_cast<std::uint32_t>(product) < reject);
    std::swap(order[left - 1], order[static_cast<std::size_t>(product >> 32)]);
  }
  OPENSSL_cleanse(pool.data(), sizeof pool);
  return order;
}

ReadableStream::ReadableStream(const Seed& seed) : stream_(seed) {}

void ReadableStream::fill(std::uint32_t id, std::uint64_t offset, std::span<std::uint8_t> out) const {
  CounterBlock counter{static_cast<std::uint8_t>(id >> 24), static_cast<std::uint8_t>(id >> 16),
                       static_cast<std::uint8_t>(id >> 8), static_cast<std::uint8_t>(id)};
  counter = block_after(counter, offset / 16);
  if (const std::size_t skipped = offset % 16; skipped != 0) {
    CounterBlock block;
    stream_.read(counter, block);
    const std::size_t part = std::min(16 - skipped, out.size());
    std::memcpy(out.data(), block.data() + skipped, part);
    out = out.subspan(part);
    counter = block_after(counter, 1);
  }
  stream_.read(counter, out);
}

}  // namespace permllm
