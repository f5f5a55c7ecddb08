#include "he/kernels.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <random>
#include <set>
#include <string>

#include "he/roots.h"

namespace permllm::he {
namespace {

constexpr std::size_t k_n = k_degree;

// Runs `check` on every target that this machine has; the twins are compared with each.
template <class Check>
void on_every_target(const Check& check) {
  const std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  std::set<std::string> names;
  for (const std::int64_t target : targets) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    names.insert(kernels::target());
    SCOPED_TRACE(kernels::target());
    check();
  }
  EXPECT_EQ(names.size(), targets.size());
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Random words below p, all 0, all p - 1, and both of those by turns.
std::vector<Words> inputs(Word p) {
  std::mt19937_64 random(p);
  std::vector<Words> all{Words(k_n), Words(k_n, 0), Words(k_n, p - 1), Words(k_n)};
  for (std::size_t i = 0; i < k_n; ++i) {
    all[0][i] = random() % p;
    all[3][i] = i % 3 == 0 ? p - 1 : 0;
  }
  return all;
}

TEST(Kernels, transform_agrees_with_its_twin_and_goes_back) {
  on_every_target([] {
    for (int prime = 0; prime < 2; ++prime) {
      for (const Words& x : inputs(k_primes[static_cast<std::size_t>(prime)])) {
        Words values = x, twin = x;
        kernels::transform(values.data(), prime);
        kernels::scalar::transform(twin.data(), prime);
        ASSERT_EQ(values, twin);
        kernels::transform_back(values.data(), prime);
        kernels::scalar::transform_back(twin.data(), prime);
        ASSERT_EQ(values, x);
        ASSERT_EQ(twin, x);
        // Backwards of what no transform made.
        values = twin = x;
        kernels::transform_back(values.data(), prime);
        kernels::scalar::transform_back(twin.data(), prime);
        ASSERT_EQ(values, twin);
      }
    }
  });
}

TEST(Kernels, products_and_sums_agree_with_their_twins) {
  on_every_target([] {
    for (int prime = 0; prime < 2; ++prime) {
      const auto all = inputs(k_primes[static_cast<std::size_t>(prime)]);
      for (const Words& x : all) {
        for (const Words& y : all) {
          const auto both = [&](auto kernel, auto twin) {
            Words a = x, b = x;
            kernel(a.data(), y.data(), prime);
            twin(b.data(), y.data(), prime);
            ASSERT_EQ(a, b);
          };
          both(kernels::multiply, kernels::scalar::multiply);
          both(kernels::add, kernels::scalar::add);
          both(kernels::subtract, kernels::scalar::subtract);
          Words a = x, b = x;
          kernels::multiply_by(a.data(), y[3], prime);
          kernels::scalar::multiply_by(b.data(), y[3], prime);
          ASSERT_EQ(a, b);
          // As many products as the largest query has blocks.
          Words sums[4]{Words(k_n), Words(k_n), Words(k_n), Words(k_n)};
          for (int i = 0; i < 64; ++i) {
            kernels::multiply_add(sums[0].data(), sums[1].data(), x.data(), y.data(), x.data(), prime);
            kernels::scalar::multiply_add(sums[2].data(), sums[3].data(), x.data(), y.data(), x.data(), prime);
          }
          for (Words& sum : sums) {
            for (const Word word : sum) ASSERT_LT(word, Word{1} << 60);
            kernels::reduce(sum.data(), prime);
          }
          ASSERT_EQ(sums[0], sums[2]);
          ASSERT_EQ(sums[1], sums[3]);
        }
      }
      Words a(k_n), b;
      for (std::size_t i = 0; i < k_n; ++i) {
        a[i] = i % 2 == 0 ? (Word{1} << 60) - 1 - i : i % 128 * k_primes[static_cast<std::size_t>(prime)];
      }
      b = a;
      kernels::reduce(a.data(), prime);
      kernels::scalar::reduce(b.data(), prime);
      ASSERT_EQ(a, b);
    }
  });
}

TEST(Kernels, values_are_those_at_the_roots_in_the_order_stated) {
  for (int prime = 0; prime < 2; ++prime) {
    const Word p = k_primes[static_cast<std::size_t>(prime)];
    const Word psi = power(k_generators[static_cast<std::size_t>(prime)], (p - 1) / (2 * k_n), p);
    ASSERT_EQ(power(psi, k_n, p), p - 1);
    const Words x = inputs(p)[0];
    Words values = x;
    kernels::transform(values.data(), prime);
    for (const std::size_t i : {std::size_t{0}, std::size_t{1}, std::size_t{64}, std::size_t{1234}, k_n - 1}) {
      std::size_t reversed = 0;
      for (std::size_t bit = 0; bit < 12; ++bit) reversed |= (i >> bit & 1) << (11 - bit);
      const Word root = power(psi, 2 * reversed + 1, p);
      Word value = 0;
      for (std::size_t j = k_n; j-- > 0;) value = (times(value, root, p) + x[j]) % p;
      EXPECT_EQ(values[i % 64 * 64 + i / 64], value) << i;
    }
  }
}

}  // namespace
}  // namespace permllm::he
