// The provider's online product beside what bounds it: one vector beside a plain read of the same bytes, many beside
// multiply-adds in registers. Each iteration runs both, so that a ratio means something on a busy machine.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <random>
#include <string_view>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ring/int_kernels.h"
#include "ring/int_matrix.h"

namespace permllm {
namespace {

Words random_words(std::size_t n) {
  std::mt19937_64 random(1);
  Words out(n);
  for (Word& word : out) word = random();
  return out;
}

template <class Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Alternates two kinds of work and reports the median rate of each and of the quotient, and the quotient of the best rates,
// which other programs disturb less.
template <class Work, class Bound>
void compare(benchmark::State& state, const char* unit, double work_units, const Work& work, const Bound& bound) {
  std::vector<double> rates, bounds, ratios;
  for (auto _ : state) {
    double bound_units = 0;
    rates.push_back(work_units / seconds(work));
    const double time = seconds([&] { bound_units = bound(); });
    bounds.push_back(bound_units / time);
    ratios.push_back(rates.back() / bounds.back());
  }
  state.counters[unit] = median(rates);
  state.counters["bound"] = median(bounds);
  state.counters["ratio"] = median(ratios);
  const double best = *std::max_element(rates.begin(), rates.end());
  state.counters["ratio of best"] = best / *std::max_element(bounds.begin(), bounds.end());
}

// Larger than the last cache in either packed form.
constexpr std::size_t k_rows = 49152, k_cols = 2048;

void read_all(std::span<const std::uint8_t> memory, Executor& executor) {
  constexpr std::size_t k_part = std::size_t{1} << 20;
  std::vector<Word> sums(memory.size() / k_part + 1);
  executor.parallel(sums.size(), [&](std::size_t task) {
    const auto* words = reinterpret_cast<const Word*>(memory.data());
    Word a = 0, b = 0, c = 0, d = 0;
    for (std::size_t i = task * k_part / 8; i + 4 <= std::min(memory.size(), (task + 1) * k_part) / 8; i += 4) {
      a += words[i];
      b += words[i + 1];
      c += words[i + 2];
      d += words[i + 3];
    }
    sums[task] = a + b + c + d;
  });
  benchmark::DoNotOptimize(sums.data());
}

// Multiply-adds in registers alone, with the instructions of each target; they return how many products of a weight and a
// limb they made.
constexpr std::size_t k_rounds = 1 << 18;

#if defined(__x86_64__)
#define PERMLLM_TWELVE(step) \
  step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11)

__attribute__((target("avx512f,avx512bw"))) double peak_vnni() {
  __m512i w = _mm512_set1_epi16(3), x = _mm512_set1_epi16(5);
#define PERMLLM_ZERO(i) __m512i s##i = w;
#define PERMLLM_STEP(i) asm volatile("vpdpwssd %2, %1, %0" : "+v"(s##i) : "v"(w), "v"(x));
  PERMLLM_TWELVE(PERMLLM_ZERO)
  for (std::size_t i = 0; i < k_rounds; ++i) {
    PERMLLM_TWELVE(PERMLLM_STEP)
  }
#undef PERMLLM_STEP
  return double{k_rounds} * 12 * 32;
}

__attribute__((target("avx512f,avx512bw"))) double peak_avx512() {
  __m512i w = _mm512_set1_epi16(3), x = _mm512_set1_epi16(5), t;
#define PERMLLM_STEP(i) asm volatile("vpmaddwd %2, %3, %1\n vpaddd %1, %0, %0" : "+v"(s##i), "=&v"(t) : "v"(w), "v"(x));
  PERMLLM_TWELVE(PERMLLM_ZERO)
  for (std::size_t i = 0; i < k_rounds; ++i) {
    PERMLLM_TWELVE(PERMLLM_STEP)
  }
#undef PERMLLM_STEP
#undef PERMLLM_ZERO
  return double{k_rounds} * 12 * 32;
}

__attribute__((target("avx2"))) double peak_avx2() {
  __m256i w = _mm256_set1_epi16(3), x = _mm256_set1_epi16(5), t;
#define PERMLLM_ZERO(i) __m256i s##i = w;
#define PERMLLM_STEP(i) asm volatile("vpmaddwd %2, %3, %1\n vpaddd %1, %0, %0" : "+x"(s##i), "=&x"(t) : "x"(w), "x"(x));
  PERMLLM_TWELVE(PERMLLM_ZERO)
  for (std::size_t i = 0; i < k_rounds; ++i) {
    PERMLLM_TWELVE(PERMLLM_STEP)
  }
  return double{k_rounds} * 12 * 16;
}
#endif

double peak(Executor& executor) {
  double each = 0;
#if defined(__x86_64__)
  const std::string_view target = kernels::int_target();
  const auto run = target == "AVX3_DL" ? peak_vnni
                   : target == "AVX3"  ? peak_avx512
                   : target == "AVX2"  ? peak_avx2
                                       : nullptr;
  if (run != nullptr) {
    executor.parallel(executor.threads(), [&](std::size_t) { benchmark::DoNotOptimize(run()); });
    each = double{k_rounds} * 12 * (run == peak_avx2 ? 16 : 32);
  }
#endif
  return each * executor.threads();
}

// Arguments: bits of a weight, ring bits. Rates are of bytes of memory.
void int_product_of_one(benchmark::State& state) {
  Executor executor;
  const IntMatrix w = IntMatrix::random(k_rows, k_cols, 9, 1, executor, static_cast<int>(state.range(0)));
  const Words x = random_words(k_cols);
  Words y(k_rows);
  const auto bytes = static_cast<double>(w.packed().size());
  compare(
      state, "bytes/s", bytes, [&] { product(w, Ring{static_cast<int>(state.range(1))}, x, y, executor); },
      [&] {
        read_all(w.packed(), executor);
        return bytes;
      });
}
BENCHMARK(int_product_of_one)
    ->ArgsProduct({{12, 8}, {32, 48, 64}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinTime(2);

// Codes as a file could have them, each of a row's spans with one scale: for measurements without a model.
IntMatrix random_codes(std::size_t rows, std::size_t cols, const CodeForm& form, std::uint64_t seed,
                       Executor& executor) {
  constexpr float k_scale = 0.01f;
  const float middle = static_cast<float>(1 << (form.bits - 1)) * k_scale, square = middle * middle / 3;
  const auto codes_at = [&](std::size_t r, CodedRow& out) {
    std::mt19937_64 random(seed * rows + r);
    for (std::uint8_t& code : out.codes) code = static_cast<std::uint8_t>(random() % (1u << form.bits));
    std::fill(out.scale.begin(), out.scale.end(), k_scale);
    std::fill(out.least.begin(), out.least.end(), -middle);
  };
  const WeightStatistics statistics{std::vector<float>(rows, middle), std::vector<float>(cols, middle),
                                    std::vector<double>(rows, square * static_cast<float>(cols)),
                                    std::vector<double>(cols, square * static_cast<float>(rows))};
  return IntMatrix::from_codes(rows, cols, form, codes_at, {}, statistics, executor).value();
}

struct Shape {
  std::size_t rows, cols;
};
// Of a layer: qkv, o, gate and up, down. Arguments: the model, how weights are packed (12 bits; codes of 4 bits with zeros, of 6 without, as Q4_K
// and Q6_K have them). One vector goes through layers that no cache holds together, in turn.
constexpr std::array<std::array<Shape, 4>, 2> k_layers{{
    {{{2048, 1536}, {1536, 1536}, {17920, 1536}, {1536, 8960}}},    // Qwen2.5-Coder 1.5B
    {{{12288, 4096}, {4096, 4096}, {16384, 4096}, {4096, 16384}}},  // ChatGLM-6B
}};
constexpr std::array<Packing, 3> k_packings{Packing(12), Packing(CodeForm{4, 32, true}),
                                            Packing(CodeForm{6, 16, false})};

void layer_of_one(benchmark::State& state) {
  Executor executor;
  const auto& layer = k_layers[static_cast<std::size_t>(state.range(0))];
  const Packing& packing = k_packings[static_cast<std::size_t>(state.range(1))];
  constexpr std::size_t k_memory = std::size_t{1} << 29;
  std::vector<IntMatrix> matrices;
  std::size_t bytes = 0, weights = 0, layers = 0;
  for (; bytes < k_memory; ++layers) {
    for (const Shape& shape : layer) {
      matrices.push_back(packing.codes ? random_codes(shape.rows, shape.cols, *packing.codes, layers, executor)
                                       : IntMatrix::random(shape.rows, shape.cols, 9, layers, executor));
      bytes += matrices.back().packed().size();
      weights += shape.rows * shape.cols;
    }
  }
  const Words x = random_words(16384);
  Words y(17920);
  for (auto _ : state) {
    for (const IntMatrix& w : matrices)
      product(w, Ring{56}, std::span(x).first(w.cols()), std::span(y).first(w.rows()), executor);
  }
  const auto rate = [](std::size_t each) {
    return benchmark::Counter(static_cast<double>(each), benchmark::Counter::kIsIterationInvariantRate);
  };
  state.counters["bytes/s"] = rate(bytes);
  state.counters["weights/s"] = rate(weights);
  state.counters["layers/s"] = rate(layers);
}
BENCHMARK(layer_of_one)->ArgsProduct({{0, 1}, {0, 1, 2}})->Unit(benchmark::kMillisecond)->UseRealTime()->MinTime(2);

// Arguments: bits of a weight, ring bits, vectors. A limb counts as a multiply-add: its bound is in registers.
void int_product_of_many(benchmark::State& state) {
  Executor executor;
  const std::size_t n = static_cast<std::size_t>(state.range(2));
  const Ring ring{static_cast<int>(state.range(1))};
  const IntMatrix w = IntMatrix::random(k_rows / 8, k_cols, 9, 1, executor, static_cast<int>(state.range(0)));
  const Words x = random_words(n * k_cols);
  Words y(n * w.rows());
  const auto macs = static_cast<double>(w.rows() * w.cols() * n), limbs = static_cast<double>(kernels::limbs_of(ring));
  compare(
      state, "limb MAC/s", macs * limbs, [&] { product(w, ring, x, y, executor); }, [&] { return peak(executor); });
  state.counters["MAC/s"] = state.counters["limb MAC/s"] / limbs;
}
BENCHMARK(int_product_of_many)
    ->ArgsProduct({{12, 8}, {32, 48, 64}, {16, 64}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinTime(1);

// Argument: vectors.
void int_product_in_floats(benchmark::State& state) {
  Executor executor;
  const std::size_t n = static_cast<std::size_t>(state.range(0));
  const IntMatrix w = IntMatrix::random(k_rows / 8, k_cols, 9, 1, executor);
  const std::vector<float> x(n * k_cols, 0.5f);
  std::vector<float> y(n * w.rows());
  for (auto _ : state) product(w, x, y, executor);
  state.counters["MAC/s"] =
      benchmark::Counter(static_cast<double>(w.rows() * w.cols() * n), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(int_product_in_floats)->Arg(1)->Arg(16)->Unit(benchmark::kMillisecond)->UseRealTime();

void random_weights(benchmark::State& state) {
  Executor executor;
  for (auto _ : state) benchmark::DoNotOptimize(IntMatrix::random(k_rows, k_cols, 9, 1, executor).packed().data());
  state.counters["weights/s"] =
      benchmark::Counter(static_cast<double>(k_rows * k_cols), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(random_weights)->Unit(benchmark::kMillisecond)->UseRealTime();

void rows_of_weights(benchmark::State& state) {
  Executor executor;
  const IntMatrix w = IntMatrix::random(1024, k_cols, 9, 1, executor);
  std::vector<std::int32_t> row(k_cols);
  for (auto _ : state) {
    for (std::size_t r = 0; r < w.rows(); ++r) w.row(r, row);
  }
  state.counters["weights/s"] =
      benchmark::Counter(static_cast<double>(1024 * k_cols), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(rows_of_weights)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace permllm
