// What the provider and the user could make of what they see, with each protection on and taken away.
//
// A distinguisher guesses which of two cases it sees. With the protections on it is right half the time; without the one that
// it attacks it is always right, so it would have found what there was to find.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "he/kernels.h"
#include "he/roots.h"
#include "he/support.h"
#include "rand/domains.h"

namespace permllm::he {
namespace {

using reference::Integer;
using reference::Small;

// Right guesses of n that a coin makes: within 4.5 deviations of half.
void expect_coin(int right, int n, const char* what) { EXPECT_NEAR(right, n / 2.0, 4.5 * std::sqrt(n) / 2) << what; }

// x / y modulo the first prime, in coefficients: where y is `a` and x is a s, this is s.
Words quotient(std::span<const Word> x, std::span<const Word> y) {
  const Word p = k_primes[0];
  Words a(x.begin(), x.begin() + k_degree), b(y.begin(), y.begin() + k_degree);
  kernels::transform(a.data(), 0);
  kernels::transform(b.data(), 0);
  for (std::size_t i = 0; i < k_degree; ++i) a[i] = times(a[i], inverse(b[i], p), p);
  kernels::transform_back(a.data(), 0);
  return a;
}
bool is_ternary(const Words& x) {
  return std::ranges::all_of(x, [](Word w) { return w <= 1 || w == k_primes[0] - 1; });
}

// --- The provider ---------------------------------------------------------------------------------------------------------

// Two indices, one in either block.
const Parameters k_two_blocks = parameters_of(8192);
constexpr std::size_t k_indices[] = {5, k_degree + 9};

std::span<const Word> block_of(const Words& words, std::size_t block) {
  return std::span(words).subspan(block * k_residues, k_residues);
}

// Takes the errors out of a query.
void remove_errors(Query& query, const Seed& seed) {
  reference::Stream stream(derive(seed, domain::he_query_error, ""), 0);
  for (std::size_t b = 0; b < query.parameters.blocks; ++b) {
    const Small errors = stream.errors();
    for (std::size_t i = 0; i < k_residues; ++i) {
      Word& word = query.c0[b * k_residues + i];
      const Word p = k_primes[i / k_degree];
      word = (word + p - static_cast<Word>(errors[i % k_degree])) % p;
    }
  }
}

// The block without a message is -a s + e. Without e it can be solved for s, and s is ternary; the other one's is not.
int block_by_solving(const Query& query, int coin) {
  const Words a = query_polynomials(query);
  for (int b = 0; b < 2; ++b) {
    if (is_ternary(quotient(block_of(query.c0, static_cast<std::size_t>(b)), block_of(a, static_cast<std::size_t>(b)))))
      return 1 - b;
  }
  return coin;
}

TEST(Privacy, provider_cannot_solve_for_the_index_but_without_errors) {
  std::mt19937_64 random(1);
  constexpr int k_runs = 100;
  int right = 0, right_without_errors = 0;
  for (int n = 0; n < k_runs; ++n) {
    const int truth = static_cast<int>(random() % 2), coin = static_cast<int>(random() % 2);
    const SecretKey secret(seed_of(static_cast<std::uint64_t>(1000 + n)));
    const Seed seed = seed_of(static_cast<std::uint64_t>(2000 + n));
    Query query = encrypt(secret, k_two_blocks, k_indices[truth], seed);
    right += block_by_solving(query, coin) == truth;
    if (n % 10 != 0) continue;
    remove_errors(query, seed);
    right_without_errors += block_by_solving(query, coin) == truth;
  }
  expect_coin(right, k_runs, "with errors");
  EXPECT_EQ(right_without_errors, k_runs / 10);
}

// The difference of two queries under one secret, of which the provider knows one's index.
int block_by_difference(const Query& known, const Query& query, int coin) {
  std::size_t different[2]{};
  for (std::size_t i = 0; i < query.c0.size(); ++i) different[i / k_residues] += known.c0[i] != query.c0[i];
  if (different[0] + different[1] > 100) return coin;
  return different[1] > 0 ? 1 : 0;
}

TEST(Privacy, provider_learns_nothing_of_a_second_query_but_under_a_seed_used_twice) {
  std::mt19937_64 random(2);
  constexpr int k_runs = 400;
  int right = 0, right_of_one_seed = 0;
  for (int n = 0; n < k_runs; ++n) {
    const int truth = static_cast<int>(random() % 2), coin = static_cast<int>(random() % 2);
    const SecretKey secret(seed_of(1));
    const Seed seed = seed_of(static_cast<std::uint64_t>(3 * n + 7)),
               other = seed_of(static_cast<std::uint64_t>(3 * n + 8));
    const Query known = encrypt(secret, k_two_blocks, 77, seed);
    right += block_by_difference(known, encrypt(secret, k_two_blocks, k_indices[truth], other), coin) == truth;
    right_of_one_seed +=
        block_by_difference(known, encrypt(secret, k_two_blocks, k_indices[truth], seed), coin) == truth;
  }
  expect_coin(right, k_runs, "of two seeds");
  EXPECT_EQ(right_of_one_seed, k_runs);
}

// Counts of what is seen with either index, and the chi-square of their being from one distribution, as a number of deviations.
struct TwoSamples {
  std::map<std::uint64_t, std::array<double, 2>> counts;
  double deviations() const {
    double chi = 0;
    for (const auto& [_, n] : counts) chi += (n[0] - n[1]) * (n[0] - n[1]) / (n[0] + n[1]);
    const auto freedom = static_cast<double>(counts.size() - 1);
    return (chi - freedom) / std::sqrt(2 * freedom);
  }
};

TEST(Privacy, words_of_queries_have_one_distribution_whatever_the_index) {
  const SecretKey secret(seed_of(1));
  const Words s(secret.factor().begin(), secret.factor().end());
  constexpr int k_runs = 300;
  TwoSamples all, at_message, decrypted;
  for (int n = 0; n < k_runs; ++n) {
    for (std::size_t truth = 0; truth < 2; ++truth) {
      const Query query =
          encrypt(secret, k_two_blocks, k_indices[truth], seed_of(static_cast<std::uint64_t>(5000 + 2 * n) + truth));
      for (std::size_t i = 0; i < query.c0.size(); ++i) {
        if (i % k_residues < k_degree) ++all.counts[query.c0[i] >> 45][truth];
      }
      // Where one index has its message and the other has none; the control knows s and sees the phase there.
      const std::size_t place = k_degree - k_indices[0];
      ++at_message.counts[query.c0[place] >> 49][truth];
      Words phase = query_polynomials(query);
      phase.resize(k_residues);
      evaluate(phase);
      multiply(phase, s);
      interpolate(phase);
      add(phase, block_of(query.c0, 0));
      ++decrypted.counts[phase[place] >> 49][truth];
    }
  }
  EXPECT_LT(all.deviations(), 4.5);
  EXPECT_LT(at_message.deviations(), 4.5);
  EXPECT_GT(decrypted.deviations(), 50);
}

TEST(Privacy, rotation_is_uniform_whatever_the_entry) {
  const Parameters p = parameters_of(12000);
  TwoSamples samples;
  std::array<double, 48> counts{};
  constexpr int k_runs = 30000;
  for (int n = 0; n < k_runs; ++n) {
    const std::size_t wanted[] = {0, 11999}, which = static_cast<std::size_t>(n) % 2;
    const std::size_t delta =
        (random_index(p, seed_of(static_cast<std::uint64_t>(n))) + p.positions() - wanted[which]) % p.positions();
    ++samples.counts[delta / 256][which];
    ++counts[delta / 256];
  }
  EXPECT_EQ(samples.counts.size(), 48u);
  EXPECT_LT(samples.deviations(), 4.5);
  double chi = 0;
  for (const double count : counts) chi += (count - k_runs / 48.0) * (count - k_runs / 48.0) / (k_runs / 48.0);
  EXPECT_LT((chi - 47) / std::sqrt(94), 4.5);
}

// --- The user -------------------------------------------------------------------------------------------------------------

// All that the user knows of one answer before it is switched, which is more than it sees, and both tables, of which it guesses the one.
struct View {
  const SecretKey& secret;
  const PreparedQuery& query;
  std::size_t delta;
  std::array<std::vector<std::uint32_t>, 2> tables;  // they agree at the wanted entry
  Sample sample;
};

Integer phase_of(const Sample& sample, const SecretKey& secret) {
  Words product = sample.c1;
  evaluate(product);
  multiply(product, secret.factor());
  interpolate(product);
  return reference::reduced(reference::joined(sample.c0[0], sample.c0[1]) +
                            reference::joined(product[0], product[k_degree]));
}

// c1 less what each table would make of it; zero where nothing was added to it.
std::array<Words, 2> rests_of(const View& view) {
  std::array<Words, 2> rests{view.sample.c1, view.sample.c1};
  for (std::size_t i = 0; i < 2; ++i)
    subtract(rests[i], extract(product_sum(view.query, view.tables[i], view.delta)).c1);
  return rests;
}

// The table whose sum is nearer to c1.
int table_by_polynomial(const View& view) {
  double sizes[2]{};
  const auto rests = rests_of(view);
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t k = 0; k < k_degree; ++k)
      sizes[i] += static_cast<double>(std::min(rests[i][k], k_primes[0] - rests[i][k]));
  }
  return sizes[1] < sizes[0];
}

// The table whose errors leave less noise.
int table_by_noise(const View& view) {
  Integer noises[2];
  for (std::size_t i = 0; i < 2; ++i) {
    const Sample own = extract(product_sum(view.query, view.tables[i], view.delta));
    noises[i] = abs(reference::centred(phase_of(view.sample, view.secret) - phase_of(own, view.secret)));
  }
  return noises[1] < noises[0];
}

// The table for which c1 can be solved for a ternary u.
int table_by_solving(const View& view, int coin) {
  const auto rests = rests_of(view);
  const Words a = common_polynomial("");
  for (int i = 0; i < 2; ++i) {
    if (is_ternary(quotient(rests[static_cast<std::size_t>(i)], a))) return i;
  }
  return coin;
}

TEST(Privacy, user_who_knows_all_its_secrets_cannot_tell_two_tables_but_without_a_protection) {
  const Parameters p = k_two_blocks;
  const SecretKey secret(seed_of(1));
  const PreparedKey key(public_key(secret, "", seed_of(2)), "");
  std::mt19937_64 random(3);
  constexpr int k_runs = 300, k_controls = 40;
  int by_polynomial = 0, by_noise = 0, by_solving = 0;
  int without_zero = 0, without_flood = 0, without_error = 0;
  for (int n = 0; n < k_runs; ++n) {
    const auto number = static_cast<std::uint64_t>(n);
    const Seed seed = seed_of(20000 + number);
    const std::size_t index = random_index(p, seed_of(10000 + number)), wanted = random() % p.vocabulary;
    const PreparedQuery query(encrypt(secret, p, index, seed_of(10000 + number)));
    const std::size_t delta = (index + p.positions() - wanted) % p.positions();
    std::array<std::vector<std::uint32_t>, 2> tables{random_table(p, 2 * number), random_table(p, 2 * number + 1)};
    std::iter_swap(tables[1].begin() + static_cast<std::ptrdiff_t>(wanted),
                   std::ranges::find(tables[1], tables[0][wanted]));
    const int truth = static_cast<int>(random() % 2), coin = static_cast<int>(random() % 2);
    const auto& table = tables[static_cast<std::size_t>(truth)];

    const Evaluated sum = product_sum(query, table, delta);
    Evaluated with_zero = sum;
    add_zero(with_zero, key, seed);
    const auto view_of = [&](Sample sample) { return View{secret, query, delta, tables, std::move(sample)}; };
    const auto flooded = [&](const Evaluated& evaluated) {
      Sample sample = extract(evaluated);
      flood(sample, seed);
      return view_of(sample);
    };

    const View full = flooded(with_zero);
    ASSERT_EQ(switch_modulus(full.sample).words, answer(key, query, table, delta, seed).words);
    ASSERT_EQ(decrypt(secret, p, switch_modulus(full.sample)), tables[0][wanted]);
    by_polynomial += table_by_polynomial(full) == truth;
    by_noise += table_by_noise(full) == truth;
    if (n < 100) by_solving += table_by_solving(full, coin) == truth;
    if (n >= k_controls) continue;
    without_zero += table_by_polynomial(flooded(sum)) == truth;
    without_flood += table_by_noise(view_of(extract(with_zero))) == truth;
    // The zero without its error e2: c1 is the sum and a u.
    reference::Stream zero(derive(seed, domain::he_zero, ""), 0);
    zero.ternary();
    zero.errors();
    const Small e2 = zero.errors();
    View bare = full;
    for (std::size_t i = 0; i < k_residues; ++i) {
      const Word prime = k_primes[i / k_degree];
      bare.sample.c1[i] = (bare.sample.c1[i] + prime - static_cast<Word>(e2[i % k_degree])) % prime;
    }
    without_error += table_by_solving(bare, coin) == truth;
  }
  expect_coin(by_polynomial, k_runs, "by the polynomial");
  expect_coin(by_noise, k_runs, "by the noise");
  expect_coin(by_solving, 100, "by solving");
  EXPECT_EQ(without_zero, k_controls);
  EXPECT_EQ(without_flood, k_controls);
  EXPECT_EQ(without_error, k_controls);
}

// Over its own range, to the last word of either side.
TEST(Privacy, flood_is_uniform_in_its_range) {
  std::array<double, 64> counts{};
  constexpr int k_runs = 20000;
  for (int n = 0; n < k_runs; ++n) {
    Sample sample{};
    flood(sample, seed_of(static_cast<std::uint64_t>(n)));
    const Integer f = reference::centred(reference::joined(sample.c0[0], sample.c0[1])),
                  raised = f + Integer(flood_noise());
    ASSERT_TRUE(raised >= 0 && raised < 2 * Integer(flood_noise()));
    ++counts[static_cast<std::size_t>(raised >> 81)];
  }
  double chi = 0;
  for (const double count : counts) chi += (count - k_runs / 64.0) * (count - k_runs / 64.0) / (k_runs / 64.0);
  EXPECT_LT((chi - 63) / std::sqrt(126), 4.5);
}

}  // namespace
}  // namespace permllm::he
