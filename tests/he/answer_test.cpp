#include "he/answer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "he/support.h"

namespace permllm::he {
namespace {

TEST(Retrieval, example) {
  const Parameters p = parameters_of(1000);
  const std::vector<std::uint32_t> table = random_table(p, 1);
  // The user, ahead of time; the provider prepares what it receives.
  const SecretKey secret(seed_of(1));
  const PublicKey key = public_key(secret, "session 7", seed_of(2));
  const std::size_t index = random_index(p, seed_of(3));
  const Query query = encrypt(secret, p, index, seed_of(4));
  const PreparedKey prepared_key(key, "session 7");
  const PreparedQuery prepared(query);
  // The user wants entry 123.
  const std::size_t delta = (index + p.positions() - 123) % p.positions();
  const Reply reply = answer(prepared_key, prepared, table, delta, seed_of(5));
  EXPECT_EQ(decrypt(secret, p, reply), table[123]);
}

TEST(Retrieval, every_vocabulary_at_edges_and_at_random) {
  std::uint64_t n = 100;
  for (const std::size_t vocabulary : {1, 2, 257, 512, 4096, 4097, 49152, 130528, 131072, 151936, 262144}) {
    const Parameters p = parameters_of(vocabulary);
    std::mt19937_64 random(vocabulary);
    const SecretKey secret(seed_of(++n));
    const PreparedKey key(public_key(secret, "", seed_of(++n)), "");
    std::vector<std::size_t> wanted{0, vocabulary - 1, vocabulary / 2};
    for (std::size_t block = 1; block < p.blocks; block += std::max<std::size_t>(1, p.blocks / 4)) {
      for (const std::size_t i : {block * k_degree - 1, block * k_degree, block * k_degree + 1}) {
        wanted.push_back(std::min(i, vocabulary - 1));
      }
    }
    for (int i = 0; i < 4; ++i) wanted.push_back(random() % vocabulary);
    // The query's index too is at edges: of blocks, and where the monomial's sign changes.
    std::vector<std::size_t> indices{0, 1, p.positions() - 1, p.positions() - k_degree, p.positions() - k_degree + 1};
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const std::vector<std::uint32_t> table = random_table(p, ++n);
      const std::size_t index = i < indices.size() ? indices[i] : random_index(p, seed_of(++n));
      const PreparedQuery query(encrypt(secret, p, index, seed_of(++n)));
      const std::size_t delta = (index + p.positions() - wanted[i]) % p.positions();
      EXPECT_EQ(decrypt(secret, p, answer(key, query, table, delta, seed_of(++n))), table[wanted[i]])
          << vocabulary << " entries, index " << index << ", entry " << wanted[i];
    }
  }
}

}  // namespace
}  // namespace permllm::he
