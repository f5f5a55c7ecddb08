// The offline phase's products at sizes of ChatGLM-6B, alternated with their kernel alone, as many tiles that stay in the
// caches, and with a loop of as many multiplications that touches no memory. Counters `of_kernel` and `of_limit`: their time
// divided by the product's, medians of all.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "rand/coins.h"
#include "ring/ring_kernels.h"
#include "ring/ring_matrix.h"

namespace permllm {
namespace {

constexpr std::size_t k_vectors = 256;  // as many as are dealt together

Words words(std::size_t n) {
  std::mt19937_64 random(1);
  Words out(n);
  for (Word& word : out) word = random();
  return out;
}

template <class Run>
double seconds(const Run& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

#if defined(__x86_64__)
bool has_limit() {
  return __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512ifma") &&
         __builtin_cpu_supports("avx512vnni");
}

enum class Multiply { pairs, words32, words52, words64 };

// Four products, then their sums where one instruction does not do both: processors spread those better than pairs.
template <Multiply kKind, class V>
__attribute__((target("avx512f"))) inline void step(V& a, V& b, V& c, V& d, const V& x) {
  V p, q, r, s;
  if constexpr (kKind == Multiply::pairs) {
    asm volatile("vpdpwssd %4, %4, %0\n vpdpwssd %4, %4, %1\n vpdpwssd %4, %4, %2\n vpdpwssd %4, %4, %3"
                 : "+v"(a), "+v"(b), "+v"(c), "+v"(d)
                 : "v"(x));
  }
  if constexpr (kKind == Multiply::words52) {
    asm volatile("vpmadd52luq %4, %4, %0\n vpmadd52luq %4, %4, %1\n vpmadd52luq %4, %4, %2\n vpmadd52luq %4, %4, %3"
                 : "+v"(a), "+v"(b), "+v"(c), "+v"(d)
                 : "v"(x));
  }
  if constexpr (kKind == Multiply::words32) {
    asm volatile(
        "vpmulld %8, %8, %4\n vpmulld %8, %8, %5\n vpmulld %8, %8, %6\n vpmulld %8, %8, %7\n"
        "vpaddd %4, %0, %0\n vpaddd %5, %1, %1\n vpaddd %6, %2, %2\n vpaddd %7, %3, %3"
        : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "=&v"(p), "=&v"(q), "=&v"(r), "=&v"(s)
        : "v"(x));
  }
  if constexpr (kKind == Multiply::words64) {
    asm volatile(
        "vpmullq %8, %8, %4\n vpmullq %8, %8, %5\n vpmullq %8, %8, %6\n vpmullq %8, %8, %7\n"
        "vpaddq %4, %0, %0\n vpaddq %5, %1, %1\n vpaddq %6, %2, %2\n vpaddq %7, %3, %3"
        : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "=&v"(p), "=&v"(q), "=&v"(r), "=&v"(s)
        : "v"(x));
  }
}

// `count` vector multiplications into eight sums.
template <Multiply kKind>
__attribute__((target("avx512f"), noinline)) void in_registers(std::size_t count) {
  using V = long long __attribute__((vector_size(64)));
  V a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};
  const V factor{};
  for (std::size_t i = 0; i < count; i += 8) {
    step<kKind>(a, b, c, d, factor);
    step<kKind>(e, f, g, h, factor);
  }
}

void limit(Ring ring, std::size_t products, Executor& executor) {
  executor.parallel(executor.threads(), [&](std::size_t) {
    const std::size_t mine = products / executor.threads();
    if (ring.bits <= 16) {
      in_registers<Multiply::pairs>(mine / 32);
    } else if (ring.bits <= 32) {
      in_registers<Multiply::words32>(mine / 16);
    } else if (ring.bits <= 52) {
      in_registers<Multiply::words52>(mine / 8);
    } else {
      in_registers<Multiply::words64>(mine / 8);
    }
  });
}
#else
bool has_limit() { return false; }
void limit(Ring, std::size_t, Executor&) {}
#endif

// `products` multiplications by the kernel, one tile of 64 rows and 64 steps, as the product has, again and again.
void kernel_alone(Ring ring, std::size_t products, Executor& executor) {
  const std::size_t container = container_bytes(ring), rows = 64, steps = 64,
                    groups = k_vectors / kernels::group_lanes(container);
  const std::size_t words = rows * steps * kernels::step_bytes(container) / container;
  executor.parallel(executor.threads(), [&](std::size_t) {
    const std::size_t stride = steps * kernels::step_bytes(container), lines = kernels::k_group_bytes;
    LargeBytes u(rows * stride), x((groups * steps + 1) * lines), sums(rows * groups * lines);
    const std::size_t tiles = products / executor.threads() / (words * k_vectors);
    for (std::size_t i = 0; i < tiles; ++i) {
      kernels::ring_tile({.ring = ring,
                          .container = container,
                          .u = u.data(),
                          .stride = stride,
                          .rows = rows,
                          .steps = steps,
                          .x = x.data(),
                          .groups = groups,
                          .ahead = nullptr,
                          .ahead_stride = 0,
                          .ahead_bytes = 0},
                         sums.data());
    }
  });
}

template <class Matrix>
void alternate(benchmark::State& state, const Matrix& matrix, Executor& executor) {
  const Words x = words(k_vectors * matrix.cols());
  Words y(k_vectors * matrix.rows());
  const std::size_t products = matrix.rows() * matrix.cols() * k_vectors;
  std::vector<double> whole, bare, kernel;
  product(matrix, x, y, executor);
  for (auto _ : state) {
    bare.push_back(seconds([&] {
      if (has_limit()) limit(matrix.ring(), products, executor);
    }));
    kernel.push_back(seconds([&] { kernel_alone(matrix.ring(), products, executor); }));
    whole.push_back(seconds([&] { product(matrix, x, y, executor); }));
    state.SetIterationTime(whole.back());
  }
  if (has_limit()) state.counters["of_limit"] = median(bare) / median(whole);
  state.counters["of_kernel"] = median(kernel) / median(whole);
  state.counters["MAC/s"] = static_cast<double>(products) / median(whole);
}

// Arguments: ring bits, rows, columns.
void sizes(benchmark::internal::Benchmark* b) {
  b->Args({64, 12288, 4096})
      ->Args({32, 16384, 4096})
      ->Args({43, 4096, 16384})
      ->Args({32, 130528, 4096})
      ->Args({16, 4096, 130528});
  b->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(5);
}

void ring_product(benchmark::State& state) {
  Executor executor;
  RingMatrix v(static_cast<std::size_t>(state.range(1)), static_cast<std::size_t>(state.range(2)),
               Ring{static_cast<int>(state.range(0))});
  std::minstd_rand random;
  for (std::uint8_t& byte : v.bytes()) byte = static_cast<std::uint8_t>(random());
  alternate(state, v, executor);
}
BENCHMARK(ring_product)->Apply(sizes);

void streamed_product(benchmark::State& state) {
  Executor executor;
  const ReadableStream stream{Seed{}};
  const StreamedMatrix u{static_cast<std::size_t>(state.range(1)), static_cast<std::size_t>(state.range(2)),
                         Ring{static_cast<int>(state.range(0))},
                         [&](std::uint64_t offset, std::span<std::uint8_t> out) { stream.fill(0, offset, out); }};
  alternate(state, u, executor);
}
BENCHMARK(streamed_product)->Apply(sizes);

}  // namespace
}  // namespace permllm
