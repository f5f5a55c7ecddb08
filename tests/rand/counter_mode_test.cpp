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

constexpr CounterBlock k_counters[] = {
    {},
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

// FIPS 197, appendix A.1.
TEST(Aes, key_expansion_is_the_standards) {
  if (!aes::available()) GTEST_SKIP() << "no such instructions";
  const std::array<std::uint8_t, 16> key{0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c};
  const aes::RoundKeys keys = aes::expand(key);
  const std::array<std::uint8_t, 16> last{0xd0, 0x14, 0xf9, 0xa8, 0xc9, 0xee, 0x25, 0x89, 0xe1, 0x3f, 0x0c, 0xc8, 0xb6, 0x63, 0x0c, 0xa6};
  EXPECT_TRUE(std::equal(last.begin(), last.end(), keys.bytes.end() - 16));
}

}  // namespace
}  // namespace permllm
