#include "rand/coins.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <bit>
#include <cstring>
#include <numeric>

#include "permllm/error.h"

namespace permllm {
namespace {

static_assert(std::endian::native == std::endian::little, "words are drawn from little-endian bytes");

using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;
using Block = std::array<std::uint8_t, 16>;

// A keyed context that is only ever copied, so that derivations may run in several threads.
CipherContext keyed(const Seed& seed) {
  CipherContext context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  const Block zero{};
  PERMLLM_ASSERT(context != nullptr && EVP_EncryptInit_ex(context.get(), EVP_aes_128_ctr(), nullptr,
                                                          seed.bytes().data(), zero.data()) == 1);
  return context;
}

CipherContext at(const CipherContext& key, const Block& counter) {
  CipherContext context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  PERMLLM_ASSERT(context != nullptr && EVP_CIPHER_CTX_copy(context.get(), key.get()) == 1);
  PERMLLM_ASSERT(EVP_EncryptInit_ex(context.get(), nullptr, nullptr, nullptr, counter.data()) == 1);
  return context;
}

void read(const CipherContext& stream, std::span<std::uint8_t> out) {
  constexpr std::size_t k_step = std::size_t{1} << 30;  // EVP counts in int
  while (!out.empty()) {
    const std::size_t step = out.size() < k_step ? out.size() : k_step;
    std::memset(out.data(), 0, step);
    int written = 0;
    PERMLLM_ASSERT(EVP_EncryptUpdate(stream.get(), out.data(), &written, out.data(), static_cast<int>(step)) == 1);
    out = out.subspan(step);
  }
}

Block counter_of(Address a) {
  return {static_cast<std::uint8_t>(a.use),        static_cast<std::uint8_t>(a.site),
          static_cast<std::uint8_t>(a.layer >> 8), static_cast<std::uint8_t>(a.layer),
          static_cast<std::uint8_t>(a.index >> 24), static_cast<std::uint8_t>(a.index >> 16),
          static_cast<std::uint8_t>(a.index >> 8), static_cast<std::uint8_t>(a.index),
          static_cast<std::uint8_t>(a.part >> 8),  static_cast<std::uint8_t>(a.part)};
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

struct AesCoins::Key {
  CipherContext context;
};

AesCoins::AesCoins(const Seed& seed) : key_(new Key{keyed(seed)}) {}
AesCoins::~AesCoins() = default;

void AesCoins::fill(Address address, Ring ring, std::span<Word> out) const {
  read(at(key_->context, counter_of(address)), bytes_of(out));
  const Word mask = ring.mask();
  for (Word& word : out) word &= mask;
}

void AesCoins::fill(Address address, Ring ring, std::span<Wide> out) const {
  read(at(key_->context, counter_of(address)), bytes_of(out));
  const Wide mask = ring.mask<Wide>();
  for (Wide& word : out) word &= mask;
}

Permutation AesCoins::permutation(Address address, std::size_t n) const {
  const CipherContext stream = at(key_->context, counter_of(address));
  std::array<std::uint32_t, 256> pool;
  std::size_t used = pool.size();
  const auto draw = [&] {
    if (used == pool.size()) {
      read(stream, bytes_of(std::span<std::uint32_t>(pool)));
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

struct ReadableStream::Key {
  CipherContext context;
};

ReadableStream::ReadableStream(const Seed& seed) : key_(new Key{keyed(seed)}) {}
ReadableStream::~ReadableStream() = default;
ReadableStream::ReadableStream(ReadableStream&&) noexcept = default;

void ReadableStream::fill(std::uint32_t id, std::uint64_t offset, std::span<std::uint8_t> out) const {
  Block counter{};
  for (int i = 0; i < 4; ++i) counter[static_cast<std::size_t>(3 - i)] = static_cast<std::uint8_t>(id >> (8 * i));
  const std::uint64_t block = offset / 16;
  for (int i = 0; i < 8; ++i) counter[static_cast<std::size_t>(15 - i)] = static_cast<std::uint8_t>(block >> (8 * i));
  const CipherContext stream = at(key_->context, counter);
  Block skipped;
  read(stream, std::span(skipped).first(offset % 16));
  read(stream, out);
}

}  // namespace permllm
