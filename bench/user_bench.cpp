// What a party computes beside products of matrices: loops over words, and the user's functions in clear. Where a loop
// does little more than move words, a copy of as many bytes alternates with it; `over_copy` is the ratio of times.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>

#include "ring/clear.h"
#include "ring/elementwise.h"
#include "ring/pack.h"

namespace permllm {
namespace {

Words words(std::size_t n, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  Words out(n);
  for (Word& word : out) word = random();
  return out;
}

std::vector<std::uint32_t> shuffled(std::size_t n) {
  std::mt19937 random(2);
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), random);
  return order;
}

std::vector<std::int64_t> integers(std::size_t n, int bits, std::uint64_t seed = 1) {
  std::vector<std::int64_t> out(n);
  const Words from = words(n, seed);
  for (std::size_t j = 0; j < n; ++j) out[j] = centre(from[j], Ring{bits});
  return out;
}

void rate(benchmark::State& state, const char* name, std::size_t per_iteration) {
  state.counters[name] =
      benchmark::Counter(static_cast<double>(per_iteration), benchmark::Counter::kIsIterationInvariantRate);
}

// Times `work` and, alternating with it, a copy that reads and writes `bytes` bytes in all.
template <class F>
void beside_copy(benchmark::State& state, std::size_t bytes, F work) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::uint8_t> from(bytes / 2, 1), to(bytes / 2);
  double busy = 0, copying = 0;
  for (auto _ : state) {
    const auto begin = Clock::now();
    for (int i = 0; i < 8; ++i) {
      work();
      benchmark::ClobberMemory();
    }
    const auto middle = Clock::now();
    for (int i = 0; i < 8; ++i) {
      std::memcpy(to.data(), from.data(), from.size());
      benchmark::DoNotOptimize(to.data());
      benchmark::ClobberMemory();
    }
    const auto end = Clock::now();
    busy += std::chrono::duration<double>(middle - begin).count();
    copying += std::chrono::duration<double>(end - middle).count();
    state.SetIterationTime(std::chrono::duration<double>(middle - begin).count() / 8);
  }
  rate(state, "bytes/s", bytes);
  state.counters["over_copy"] = busy / copying;
}

std::size_t size(const benchmark::State& state) { return static_cast<std::size_t>(state.range(0)); }

void sizes(benchmark::internal::Benchmark* b) { b->Arg(4096)->Arg(16384)->Arg(130528)->UseManualTime(); }

void add_words(benchmark::State& state) {
  Words to = words(size(state));
  const Words a = words(size(state));
  beside_copy(state, size(state) * 24, [&] { add(to, a); });
}
BENCHMARK(add_words)->Apply(sizes);

template <bool kSigned>
void permute_cut_words(benchmark::State& state) {
  const std::size_t n = size(state);
  const Words y = words(n), s0 = words(n), sign(n, 1);
  const auto order = shuffled(n);
  Words out(n);
  const Word* signs = kSigned ? sign.data() : nullptr;
  beside_copy(state, n * (kSigned ? 36 : 28), [&] { permute_cut(y, s0, order, signs, 7, 4, out); });
}
BENCHMARK(permute_cut_words<false>)->Apply(sizes);
BENCHMARK(permute_cut_words<true>)->Apply(sizes);

void open_words(benchmark::State& state) {
  const std::size_t n = size(state);
  const Words a = words(n), s1 = words(n);
  std::vector<std::int64_t> shown(n);
  beside_copy(state, n * 24, [&] { open(a, s1, 4, Ring{24}, shown); });
}
BENCHMARK(open_words)->Apply(sizes);

template <bool kSigned>
void unpermute_add_words(benchmark::State& state) {
  const std::size_t n = size(state);
  const Words b = words(n), w = words(n), sign(n, 1);
  const auto order = shuffled(n);
  Words y(n);
  beside_copy(state, n * (kSigned ? 36 : 28), [&] { unpermute_add(b, order, kSigned ? sign.data() : nullptr, w, y); });
}
BENCHMARK(unpermute_add_words<false>)->Apply(sizes);
BENCHMARK(unpermute_add_words<true>)->Apply(sizes);

// Arguments: words, bytes a word.
void pack_words(benchmark::State& state) {
  const Ring ring{static_cast<int>(state.range(1)) * 8};
  const Words from = words(size(state));
  std::vector<std::uint8_t> to(size(state) * ring.bytes());
  beside_copy(state, size(state) * (8 + ring.bytes()), [&] { pack(from, ring, to.data()); });
}
BENCHMARK(pack_words)->ArgsProduct({{4096, 16384, 130528}, {2, 3, 4, 5, 6, 7, 8}})->UseManualTime();

void unpack_words(benchmark::State& state) {
  const Ring ring{static_cast<int>(state.range(1)) * 8};
  Words to(size(state));
  const std::vector<std::uint8_t> from(size(state) * ring.bytes(), 0x5A);
  beside_copy(state, size(state) * (8 + ring.bytes()), [&] { unpack(from.data(), ring, to); });
}
BENCHMARK(unpack_words)->ArgsProduct({{4096, 16384, 130528}, {2, 3, 4, 5, 6, 7, 8}})->UseManualTime();

// --- Attention: arguments are keys and the size of a head; keys lie three heads apart ----------------------------

void dots_of_keys(benchmark::State& state) {
  const std::size_t n = size(state), dim = static_cast<std::size_t>(state.range(1));
  const Words q = words(dim), keys = words(n * 3 * dim);
  Words out(n);
  for (auto _ : state) {
    dots(q.data(), keys.data(), 3 * dim, n, dim, out.data());
    benchmark::ClobberMemory();
  }
  rate(state, "MAC/s", n * dim);
}
BENCHMARK(dots_of_keys)->ArgsProduct({{64, 512, 2048}, {64, 128}});

// As one dot a key, on the baseline's instructions.
void dots_by_definition(benchmark::State& state) {
  const std::size_t n = size(state), dim = static_cast<std::size_t>(state.range(1));
  const Words q = words(dim), keys = words(n * 3 * dim);
  Words out(n);
  for (auto _ : state) {
    scalar::dots(q.data(), keys.data(), 3 * dim, n, dim, out.data());
    benchmark::ClobberMemory();
  }
  rate(state, "MAC/s", n * dim);
}
BENCHMARK(dots_by_definition)->ArgsProduct({{64, 512, 2048}, {64, 128}});

template <auto kMix>
void mix_of_values(benchmark::State& state) {
  const std::size_t n = size(state), dim = static_cast<std::size_t>(state.range(1));
  const Words weights = words(n), values = words(n * 3 * dim);
  Words out(dim);
  for (auto _ : state) {
    kMix(weights.data(), values.data(), 3 * dim, n, dim, out.data());
    benchmark::ClobberMemory();
  }
  rate(state, "MAC/s", n * dim);
}
BENCHMARK(mix_of_values<mix_rows>)->ArgsProduct({{64, 512, 2048}, {64, 128}});
BENCHMARK(mix_of_values<scalar::mix_rows>)->ArgsProduct({{64, 512, 2048}, {64, 128}});

// --- Clear functions ---------------------------------------------------------------------------------------------

constexpr Format k_out{Ring{32}, 12};

template <auto kF>
void clear_products(benchmark::State& state) {
  const auto gate = integers(size(state), 14), up = integers(size(state), 14, 2);
  Words out(size(state));
  for (auto _ : state) {
    kF(gate, up, 0x1p-10, k_out, out);
    benchmark::ClobberMemory();
  }
  rate(state, "elements/s", size(state));
}
using Integers = std::span<const std::int64_t>;
using Products = void (*)(Integers, Integers, double, Format, std::span<Word>);
BENCHMARK(clear_products<Products{clear::silu_product}>)->Arg(4096)->Arg(16384);
BENCHMARK(clear_products<Products{clear::scalar::silu_product}>)->Arg(4096);
BENCHMARK(clear_products<Products{clear::gelu_product}>)->Arg(4096)->Arg(16384);
BENCHMARK(clear_products<Products{clear::scalar::gelu_product}>)->Arg(4096);

void clear_real_products(benchmark::State& state) {
  const auto gate = integers(size(state), 14), up = integers(size(state), 14, 2);
  const std::vector<double> g(gate.begin(), gate.end()), u(up.begin(), up.end());
  Words out(size(state));
  for (auto _ : state) {
    clear::silu_product(g, u, 0x1p-10, k_out, out);
    benchmark::ClobberMemory();
  }
  rate(state, "elements/s", size(state));
}
BENCHMARK(clear_real_products)->Arg(4096)->Arg(16384);

template <auto kF>
void clear_values(benchmark::State& state) {
  const auto x = integers(size(state), 14);
  Words out(size(state));
  for (auto _ : state) {
    kF(x, 0x1p-10, k_out, out);
    benchmark::ClobberMemory();
  }
  rate(state, "elements/s", size(state));
}
using Values = void (*)(Integers, double, Format, std::span<Word>);
BENCHMARK(clear_values<Values{clear::gelu}>)->Arg(4096);
void normed(Integers x, double unit, Format out, std::span<Word> words) { clear::scale(x, 0.5, unit, out, words); }
void scalar_normed(Integers x, double unit, Format out, std::span<Word> words) {
  clear::scalar::scale(x, 0.5, unit, out, words);
}
BENCHMARK(clear_values<Values{normed}>)->Arg(4096);
BENCHMARK(clear_values<Values{scalar_normed}>)->Arg(4096);

template <auto kF>
void clear_sum_of_squares(benchmark::State& state) {
  const auto row = integers(size(state), 14);
  for (auto _ : state) benchmark::DoNotOptimize(kF(row, 0x1p-10));
  rate(state, "elements/s", size(state));
}
BENCHMARK(clear_sum_of_squares<clear::sum_of_squares>)->Arg(576)->Arg(4096);
BENCHMARK(clear_sum_of_squares<clear::scalar::sum_of_squares>)->Arg(576)->Arg(4096);

template <auto kF>
void clear_softmax(benchmark::State& state) {
  const auto scores = integers(size(state), 12);
  Words out(size(state));
  for (auto _ : state) {
    kF(scores, 0x1p-8, Ring{24}, k_out, out);
    benchmark::ClobberMemory();
  }
  rate(state, "elements/s", size(state));
}
using Softmax = void (*)(Integers, double, Ring, Format, std::span<Word>);
BENCHMARK(clear_softmax<Softmax{clear::softmax}>)->Arg(32)->Arg(512)->Arg(4096);
BENCHMARK(clear_softmax<Softmax{clear::scalar::softmax}>)->Arg(32)->Arg(512)->Arg(4096);

void clear_softmax_reals(benchmark::State& state) {
  const auto scores = integers(size(state), 12);
  const std::vector<double> row(scores.begin(), scores.end());
  std::vector<double> work(row.size());
  for (auto _ : state) {
    std::ranges::copy(row, work.begin());
    clear::softmax(work);
    benchmark::ClobberMemory();
  }
  rate(state, "elements/s", size(state));
}
BENCHMARK(clear_softmax_reals)->Arg(512)->Arg(4096);

}  // namespace
}  // namespace permllm
