// Kernels of the ring: the provider's product beside a plain read of the same memory, packing.
#include <benchmark/benchmark.h>

#include <numeric>
#include <random>

#include "ring/matrix.h"

namespace permllm {
namespace {

IntMatrix matrix(std::size_t rows, std::size_t cols, Executor& executor) {
  FloatMatrix real{rows, cols, std::vector<float>(rows * cols)};
  std::minstd_rand random;
  for (float& v : real.values) v = static_cast<float>(static_cast<int>(random() % 4095) - 2047);
  return IntMatrix(real, 0, executor);
}

Words words(std::size_t n) {
  std::mt19937_64 random(1);
  Words out(n);
  for (Word& word : out) word = random();
  return out;
}

void rate(benchmark::State& state, const char* name, double per_iteration) {
  state.counters[name] = benchmark::Counter(per_iteration, benchmark::Counter::kIsIterationInvariantRate);
}

// Arguments: ring bits, vectors. A matrix larger than the last cache.
void int_product(benchmark::State& state) {
  Executor executor;
  const std::size_t rows = 49152, cols = 1024, n = static_cast<std::size_t>(state.range(1));
  const IntMatrix w = matrix(rows, cols, executor);
  const Words x = words(n * cols);
  Words y(n * rows);
  for (auto _ : state) product(w, Ring{static_cast<int>(state.range(0))}, x, y, executor);
  rate(state, "bytes/s", static_cast<double>(rows * cols * 2));
  rate(state, "MAC/s", static_cast<double>(rows * cols * n));
}
BENCHMARK(int_product)->ArgsProduct({{16, 32, 48, 64}, {1, 16, 64}})->Unit(benchmark::kMillisecond)->UseRealTime();

void plain_read(benchmark::State& state) {
  Executor executor;
  const std::size_t count = 49152 * 1024 * 2 / 8;
  const Words memory(count, 1);
  for (auto _ : state) {
    std::vector<Word> sums(executor.threads());
    executor.parallel(executor.threads(), [&](std::size_t t) {
      const std::size_t part = count / executor.threads();
      Word a = 0, b = 0, c = 0, d = 0;
      for (std::size_t i = t * part; i + 4 <= (t + 1) * part; i += 4) {
        a += memory[i];
        b += memory[i + 1];
        c += memory[i + 2];
        d += memory[i + 3];
      }
      sums[t] = a + b + c + d;
    });
    benchmark::DoNotOptimize(sums.data());
  }
  rate(state, "bytes/s", static_cast<double>(count * 8));
}
BENCHMARK(plain_read)->Unit(benchmark::kMillisecond)->UseRealTime();

void pack_words(benchmark::State& state) {
  const Ring ring{static_cast<int>(state.range(0))};
  const Words x = words(1 << 20);
  std::vector<std::uint8_t> out(x.size() * ring.bytes());
  for (auto _ : state) pack(x, ring, out.data());
  rate(state, "bytes/s", static_cast<double>(x.size() * 8));
}
BENCHMARK(pack_words)->Arg(16)->Arg(48)->Arg(64)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace permllm
