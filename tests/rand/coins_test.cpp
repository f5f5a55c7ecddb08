#include "rand/coins.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <array>
#include <cstring>
#include <map>
#include <set>

namespace permllm {
namespace {

using Block = std::array<std::uint8_t, 16>;

Seed seed_of(std::uint8_t n) {
  std::array<std::uint8_t, Seed::k_bytes> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(n + i);
  return Seed{bytes};
}

// AES-128 of single blocks, straight from the cipher.
Block block_cipher(const Seed& seed, const Block& block) {
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  EVP_EncryptInit_ex(context, EVP_aes_128_ecb(), nullptr, seed.bytes().data(), nullptr);
  EVP_CIPHER_CTX_set_padding(context, 0);
  Block out;
  int n = 0;
  EVP_EncryptUpdate(context, out.data(), &n, block.data(), 16);
  EVP_CIPHER_CTX_free(context);
  return out;
}

TEST(Coins, words_are_aes_of_the_address_and_a_counter) {
  const AesCoins coins(seed_of(3));
  const Address a{Use::map_answer, Site::mlp, 0x0102, 0x03040506, 0x0708};
  const Words words = coins.words(a, 5, Ring{64});
  for (std::size_t i = 0; i < 5; ++i) {
    Block counter{7, 8, 1, 2, 3, 4, 5, 6, 7, 8};
    counter[15] = static_cast<std::uint8_t>(i / 2);
    const Block block = block_cipher(seed_of(3), counter);
    Word want;
    std::memcpy(&want, block.data() + 8 * (i % 2), 8);
    EXPECT_EQ(words[i], want);
  }
  for (const Word w : coins.words(a, 100, Ring{13})) EXPECT_LT(w, Word{1} << 13);
}

TEST(Coins, every_part_of_an_address_counts) {
  const AesCoins coins(seed_of(1));
  const Address base{Use::map_answer, Site::mlp, 1, 1, 1};
  std::set<Word> firsts;
  for (Address a : {base, Address{Use::map_mask, Site::mlp, 1, 1, 1}, Address{Use::map_answer, Site::qkv, 1, 1, 1},
                    Address{Use::map_answer, Site::mlp, 2, 1, 1}, Address{Use::map_answer, Site::mlp, 1, 2, 1},
                    Address{Use::map_answer, Site::mlp, 1, 1, 2}}) {
    firsts.insert(coins.words(a, 1, Ring{64})[0]);
  }
  EXPECT_EQ(firsts.size(), 6u);
  EXPECT_NE(AesCoins(seed_of(2)).words(base, 1, Ring{64}), coins.words(base, 1, Ring{64}));
}

TEST(Coins, permutations_of_four_are_equally_likely) {
  const AesCoins coins(seed_of(9));
  std::map<Permutation, int> count;
  constexpr int k_draws = 48000;
  for (std::uint32_t i = 0; i < k_draws; ++i) ++count[coins.permutation({Use::map_order, Site::mlp, 0, i}, 4)];
  ASSERT_EQ(count.size(), 24u);
  double chi_square = 0;
  for (const auto& [order, n] : count) chi_square += (n - k_draws / 24.0) * (n - k_draws / 24.0) / (k_draws / 24.0);
  EXPECT_LT(chi_square, 60);  // 23 degrees of freedom: beyond 60 once in 30,000
}

TEST(Coins, a_permutation_holds_each_element_once) {
  const AesCoins coins(seed_of(9));
  for (const std::size_t n : {0u, 1u, 2u, 1000u}) {
    const Permutation order = coins.permutation({Use::map_order, Site::mlp, 0, 0}, n);
    EXPECT_EQ(std::set<std::uint32_t>(order.begin(), order.end()).size(), n);
    for (const std::uint32_t j : order) EXPECT_LT(j, n);
  }
}

TEST(ReadableStream, reads_the_same_from_any_offset) {
  const ReadableStream stream(seed_of(4));
  std::vector<std::uint8_t> whole(1000);
  stream.fill(7, 0, whole);
  for (const std::size_t offset : {1u, 15u, 16u, 17u, 500u}) {
    std::vector<std::uint8_t> part(100);
    stream.fill(7, offset, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(offset)));
  }
  std::vector<std::uint8_t> other(1000);
  stream.fill(8, 0, other);
  EXPECT_NE(whole, other);
}

TEST(Seed, derivation_is_hkdf_and_depends_on_domain_and_binding) {
  // HKDF-SHA256 with empty salt, input 0x00..0x1f, info "d\0b": computed with Python's hmac module.
  const Seed derived = derive(seed_of(0), "d", "b");
  std::string hex;
  for (const std::uint8_t byte : derived.bytes()) {
    char text[3];
    std::snprintf(text, sizeof text, "%02x", byte);
    hex += text;
  }
  EXPECT_EQ(hex, "312310fb265fb4de71fe10cdcdefab383c86141abc3d511bda803a762a844ff1");
  const auto first = [](const Seed& s) { return s.bytes()[0] | s.bytes()[1] << 8 | s.bytes()[2] << 16; };
  EXPECT_NE(first(derive(seed_of(0), "d", "c")), first(derived));
  EXPECT_NE(first(derive(seed_of(0), "e", "b")), first(derived));
  EXPECT_NE(first(derive(seed_of(1), "d", "b")), first(derived));
}

}  // namespace
}  // namespace permllm
