// The check of products (docs/protocol.md 4.14) at ChatGLM-6B's shape: a token's checks at the user, and what the helper makes of a matrix once.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "ring/freivalds.h"

namespace permllm {
namespace {

// Rows and columns of qkv, o, up, down of each of 28 layers, and of the head.
struct Shape {
  std::size_t rows, cols;
};
std::vector<Shape> chatglm() {
  std::vector<Shape> all;
  for (int l = 0; l < 28; ++l) {
    for (const Shape s : {Shape{12288, 4096}, {4096, 4096}, {16384, 4096}, {4096, 16384}}) all.push_back(s);
  }
  all.push_back({130528, 4096});
  return all;
}

void checks_of_a_token(benchmark::State& state) {
  std::mt19937_64 random(1);
  struct Matrix {
    Words s, combined;
    std::vector<std::int64_t> x, y;
  };
  std::vector<Matrix> matrices;
  for (const Shape& shape : chatglm()) {
    Matrix& m = matrices.emplace_back();
    for (std::size_t r = 0; r < shape.rows; ++r) {
      m.s.push_back(below_check_prime(random()));
      m.y.push_back(static_cast<std::int64_t>(random()) >> 16);  // 48 bits
    }
    for (std::size_t c = 0; c < shape.cols; ++c) {
      m.combined.push_back(below_check_prime(random()));
      m.x.push_back(static_cast<std::int64_t>(random()) >> 24);
    }
  }
  for (auto _ : state) {
    for (const Matrix& m : matrices) {
      benchmark::DoNotOptimize(dot_modulo_prime(m.s, m.y, 48) == dot_modulo_prime(m.combined, m.x, 48));
    }
  }
}
BENCHMARK(checks_of_a_token)->Unit(benchmark::kMillisecond);

// Of 12 bits, or of 8; weights a second. ChatGLM-6B has 6.2e9 in its matrices.
void combination(benchmark::State& state) {
  Executor executor;
  const IntMatrix w = IntMatrix::random(4096, 4096, 12, 1, executor, static_cast<int>(state.range(0)));
  std::mt19937_64 random(1);
  Words s;
  for (std::size_t r = 0; r < w.rows(); ++r) s.push_back(below_check_prime(random()));
  for (auto _ : state) benchmark::DoNotOptimize(combine(s, w, executor).sum.data());
  state.counters["weights"] =
      benchmark::Counter(static_cast<double>(w.rows() * w.cols()), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(combination)->Arg(12)->Arg(8)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace permllm
