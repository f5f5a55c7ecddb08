// Dequantisation by one thread, rows of 4,096 numbers: bytes of the file a second (`bytes_per_second`) and of the numbers that
// come of them (`floats`).
#include <benchmark/benchmark.h>

#include <random>

#include "model/quant.h"

namespace permllm {
namespace {

void dequantise(benchmark::State& state, std::uint32_t type) {
  constexpr std::size_t k_cols = 4096, k_rows = 4096;
  const BlockSize block = block_size(type);
  std::vector<std::uint8_t> data(k_cols * k_rows / block.elements * block.bytes);
  std::mt19937 random(1);
  for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(random());
  const GgufTensor tensor{"", {k_cols, k_rows}, type, data};
  std::vector<float> row(k_cols);
  for (auto _ : state) {
    for (std::size_t r = 0; r < k_rows; ++r) dequantize_row(tensor, r, row);
    benchmark::DoNotOptimize(row.data());
  }
  const auto runs = static_cast<std::int64_t>(state.iterations());
  state.SetBytesProcessed(runs * static_cast<std::int64_t>(data.size()));
  state.counters["floats"] =
      benchmark::Counter(static_cast<double>(runs) * k_cols * k_rows * sizeof(float), benchmark::Counter::kIsRate);
}

const bool k_registered = [] {
  for (std::uint32_t type = 0; type < 64; ++type) {
    if (block_size(type).bytes != 0) benchmark::RegisterBenchmark(ggml_type_name(type), dequantise, type);
  }
  return true;
}();

}  // namespace
}  // namespace permllm
