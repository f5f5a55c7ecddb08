#include "rand/counter_mode.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

namespace permllm {
namespace {

Seed seed_of(std::uint8_t n) {
  std::array<std::uint8_t, Seed::k_bytes> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(n * 17 + i * 29);
  return Seed{bytes};
}

std::vector<std::uint8_t> of_openssl(const Seed& seed, const CounterBlock& counter, std::size_t size) {
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  EVP_EncryptInit_ex(context, EVP_aes_128_ctr(), nullptr, seed.bytes().data(), counter.data());
  const std::vector<std::uint8_t> zeros(size);
  std::vector<std::uint8_t> out(size + 16);
  int n = 0;
  EVP_EncryptUpdate(context, out.data(), &n, zeros.data(), static_cast<int>(size));
  EVP_CIPHER_CTX_free(context);
  out.resize(size);
  return out;
}

constexpr CounterBlock k_counters[] = {{},
                                       {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
                                       {255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 255, 250},
                                       {0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 253}};

TEST(CounterMode, equals_openssl_for_every_length) {
  for (const CounterBlock& counter : k_counters) {
    for (std::uint8_t n = 0; n < 3; ++n) {
      const CounterMode stream(seed_of(n));
      for (const std::size_t size : {0, 1, 15, 16, 17, 63, 64, 65, 511, 512, 513, 575, 1024, 5000}) {
        std::vector<std::uint8_t> out(size + 1, 0xee);
        stream.read(counter, std::span(out).first(size));
        ASSERT_EQ(out.back(), 0xee) << size;
        out.pop_back();
        ASSERT_EQ(out, of_openssl(seed_of(n), counter, size)) << size;
      }
    }
  }
}

TEST(CounterMode, a_later_block_is_where_the_stream_has_got_to) {
  const CounterMode stream(seed_of(1));
  for (const CounterBlock& counter : k_counters) {
    for (const std::size_t blocks : {0, 1, 5, 255, 256, 300}) {
      std::vector<std::uint8_t> whole(16 * blocks + 40), part(40);
      stream.read(counter, whole);
      stream.read(block_after(counter, blocks), part);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.end() - 40)) << blocks;
    }
  }
}

}  // namespace
}  // namespace permllm
