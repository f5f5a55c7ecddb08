// Whether time tells a secret: each case runs two fixed classes of secrets by turns in random order, and gives Welch's t of their times
// after the slowest tenth is left out. |t| above 4.5 in several runs is a leak; `control` has one, of an eighth of its work. Not a test:
// other programs on the machine disturb it.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <optional>
#include <random>
#include <vector>

#include "he/answer.h"

namespace permllm::he {
namespace {

Seed seed_of(std::uint64_t n) {
  std::array<std::uint8_t, Seed::k_bytes> bytes{};
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(n >> (8 * i));
  return Seed{bytes};
}

struct Moments {
  double n = 0, mean = 0, squares = 0;
  void add(double x) {
    const double step = x - mean;
    mean += step / ++n;
    squares += step * (x - mean);
  }
  double variance() const { return squares / (n - 1); }
};

double welch(std::vector<std::pair<double, int>> times) {
  std::vector<double> sorted;
  for (const auto& [time, _] : times) sorted.push_back(time);
  std::ranges::sort(sorted);
  const double limit = sorted[sorted.size() * 9 / 10];
  std::array<Moments, 2> classes;
  for (const auto& [time, which] : times) {
    if (time <= limit) classes[static_cast<std::size_t>(which)].add(time);
  }
  return (classes[0].mean - classes[1].mean) /
         std::sqrt(classes[0].variance() / classes[0].n + classes[1].variance() / classes[1].n);
}

// prepare(which), not timed, then work().
template <class Prepare, class Work>
void compare(benchmark::State& state, int runs, const Prepare& prepare, const Work& work) {
  for (auto _ : state) {
    std::mt19937_64 random(std::random_device{}());
    std::vector<std::pair<double, int>> times;
    for (int i = 0; i < runs; ++i) {
      const int which = static_cast<int>(random() % 2);
      prepare(which);
      const auto begin = std::chrono::steady_clock::now();
      work();
      times.emplace_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), which);
    }
    state.counters["t"] = welch(std::move(times));
    state.counters["runs"] = runs;
  }
}

constexpr int k_runs = 5000;

// Index 0, whose monomial is 1, or the last one.
void encrypt_by_index(benchmark::State& state) {
  const Parameters p = parameters_of(8192);
  const SecretKey secret(seed_of(1));
  std::uint64_t n = 0;
  std::size_t index = 0;
  compare(
      state, k_runs, [&](int which) { index = which == 0 ? 0 : p.positions() - 1; },
      [&] { benchmark::DoNotOptimize(encrypt(secret, p, index, seed_of(++n)).c0.data()); });
}

// The key and the errors of one seed, or of ever another.
void encrypt_by_seed(benchmark::State& state) {
  const Parameters p = parameters_of(4096);
  std::uint64_t n = 0, key = 0;
  compare(
      state, k_runs, [&](int which) { key = which == 0 ? 1 : ++n + 1; },
      [&] {
        const SecretKey secret(seed_of(key));
        benchmark::DoNotOptimize(encrypt(secret, p, 1, seed_of(key)).c0.data());
      });
}

// Entry 0 or the last one, under one key, the reply in one place.
void decrypt_by_entry(benchmark::State& state) {
  const Parameters p = parameters_of(4096);
  const SecretKey secret(seed_of(1));
  const PreparedKey key(public_key(secret, "", seed_of(2)), "");
  const PreparedQuery query(encrypt(secret, p, 7, seed_of(3)));
  std::array<Reply, 2> replies;
  for (std::size_t which = 0; which < 2; ++which) {
    replies[which] = answer(key, query, std::vector<std::uint32_t>(4096, which == 0 ? 0 : 4095), 0, seed_of(4 + which));
  }
  Reply reply = replies[0];
  compare(
      state, 20 * k_runs,
      [&](int which) {  // reads both, so that caches are left alike
        const Word mask = Word{0} - static_cast<Word>(which);
        for (std::size_t i = 0; i < reply.words.size(); ++i) {
          reply.words[i] = (replies[0].words[i] & ~mask) | (replies[1].words[i] & mask);
        }
      },
      [&] { benchmark::DoNotOptimize(decrypt(secret, p, reply)); });
}

// One key, or ever another, in one place; the entry is whatever comes of it.
void decrypt_by_key(benchmark::State& state) {
  const Parameters p = parameters_of(4096);
  Reply reply{Words(k_degree + 1)};
  std::mt19937_64 random(1);
  for (Word& word : reply.words) word = random() & Ring{k_reply_bits}.mask();
  std::uint64_t n = 1;
  std::optional<SecretKey> secret;
  compare(
      state, k_runs, [&](int which) { secret.emplace(seed_of(which == 0 ? 1 : ++n)); },
      [&] { benchmark::DoNotOptimize(decrypt(*secret, p, reply)); });
}

// Tables of zeros, or of the entries of greatest magnitude by turns with 1, in one place.
void answer_by_table(benchmark::State& state) {
  const Parameters p = parameters_of(8192);
  const SecretKey secret(seed_of(1));
  const PreparedKey key(public_key(secret, "", seed_of(2)), "");
  const PreparedQuery query(encrypt(secret, p, 7, seed_of(3)));
  std::vector<std::uint32_t> table(p.vocabulary);
  std::uint64_t n = 0;
  compare(
      state, k_runs,
      [&](int which) {
        for (std::size_t i = 0; i < table.size(); ++i) table[i] = which == 0 ? 0 : i % 2 == 0 ? 4096 : 1;
      },
      [&] { benchmark::DoNotOptimize(answer(key, query, table, 0, seed_of(++n)).words.data()); });
}

// A loop that a secret shortens by an eighth.
void control(benchmark::State& state) {
  Words words(k_degree, 3);
  std::size_t count = 0;
  compare(
      state, k_runs, [&](int which) { count = which == 0 ? k_degree : k_degree * 7 / 8; },
      [&] {
        for (std::size_t i = 0; i < count; ++i) benchmark::DoNotOptimize(words[i] *= words[i]);
      });
}

BENCHMARK(encrypt_by_index)->Iterations(1)->Unit(benchmark::kSecond);
BENCHMARK(encrypt_by_seed)->Iterations(1)->Unit(benchmark::kSecond);
BENCHMARK(decrypt_by_entry)->Iterations(1)->Unit(benchmark::kSecond);
BENCHMARK(decrypt_by_key)->Iterations(1)->Unit(benchmark::kSecond);
BENCHMARK(answer_by_table)->Iterations(1)->Unit(benchmark::kSecond);
BENCHMARK(control)->Iterations(1)->Unit(benchmark::kSecond);

}  // namespace
}  // namespace permllm::he
