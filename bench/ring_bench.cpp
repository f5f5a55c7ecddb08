// Kernels of the ring: the offline products, packing. The provider's product has bench/int_bench.cpp.
#include <benchmark/benchmark.h>

#include <random>

#include "rand/coins.h"
#include "ring/matrix.h"

namespace permllm {
namespace {

Words words(std::size_t n) {
  std::mt19937_64 random(1);
  Words out(n);
  for (Word& word : out) word = random();
  return out;
}

void rate(benchmark::State& state, const char* name, double per_iteration) {
  state.counters[name] = benchmark::Counter(per_iteration, benchmark::Counter::kIsIterationInvariantRate);
}

// Arguments: ring bits, vectors.
void ring_product(benchmark::State& state) {
  Executor executor;
  const std::size_t rows = 1536, cols = 576, n = static_cast<std::size_t>(state.range(1));
  const RingMatrix v(rows, cols, Ring{static_cast<int>(state.range(0))});
  const Words x = words(n * cols);
  Words y(n * rows);
  for (auto _ : state) product(v, x, y, executor);
  rate(state, "MAC/s", static_cast<double>(rows * cols * n));
}
BENCHMARK(ring_product)->ArgsProduct({{16, 32, 64}, {64}})->Unit(benchmark::kMillisecond)->UseRealTime();

void streamed_product(benchmark::State& state) {
  Executor executor;
  const std::size_t rows = 1536, cols = 576, n = static_cast<std::size_t>(state.range(1));
  const ReadableStream stream{Seed{}};
  const StreamedMatrix u{rows, cols, Ring{static_cast<int>(state.range(0))},
                         [&](std::uint64_t offset, std::span<std::uint8_t> out) { stream.fill(0, offset, out); }};
  const Words x = words(n * cols);
  Words y(n * rows);
  for (auto _ : state) product(u, x, y, executor);
  rate(state, "MAC/s", static_cast<double>(rows * cols * n));
}
BENCHMARK(streamed_product)->ArgsProduct({{16, 32, 64}, {64}})->Unit(benchmark::kMillisecond)->UseRealTime();

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
