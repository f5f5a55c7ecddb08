// What sharing a matrix costs: the products of a token of ChatGLM-6B's layer by one process, or, started by mpirun, by several, each on its part of the
// cores. The least of many runs, since others may use the machine.
//
//   build/release/bench/machines_time; mpirun -n 2 build/release/bench/machines_time
#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "mpi/join.h"
#include "ring/int_matrix.h"

int main() {
  using namespace permllm;
  const auto machines = join_machines(std::chrono::seconds(120));
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  Executor executor(cores);
  struct Shape {
    const char* name;
    std::size_t rows, cols;
  };
  constexpr Shape k_shapes[] = {
      {"qkv", 12288, 4096}, {"o", 4096, 4096}, {"gate and up", 32768, 4096}, {"down", 4096, 16384}};
  // Twice each, so that none is in the cache when its turn comes.
  std::vector<IntMatrix> matrices;
  for (int copy = 0; copy < 2; ++copy) {
    for (const Shape& s : k_shapes)
      matrices.push_back(IntMatrix::random(s.rows, s.cols, 11, matrices.size(), executor, 12, machines.get()));
  }
  std::vector<IntMatrix*> numbered;
  for (IntMatrix& w : matrices) {
    w.set_number(static_cast<std::uint32_t>(numbered.size()));
    numbered.push_back(&w);
  }
  if (machines && machines->own() != 0) {
    machines->serve(numbered, executor);
    return 0;
  }
  if (machines) machines->lead();
  constexpr int k_runs = 60;
  double all = 0;
  for (std::size_t shape = 0; shape < std::size(k_shapes); ++shape) {
    double best = 1e9;
    for (int run = 0; run < k_runs; ++run) {
      const IntMatrix& w = matrices[shape + static_cast<std::size_t>(run % 2) * std::size(k_shapes)];
      const std::vector<Word> x(w.cols(), 0x123456789abcdef);
      std::vector<Word> y(w.rows());
      const Clock::time_point begin = Clock::now();
      product(w, Ring{64}, x, y, executor);
      best = std::min(best, seconds_since(begin));
    }
    all += best;
    fmt::print("{:12} {:8.3f} ms\n", k_shapes[shape].name, best * 1e3);
  }
  fmt::print("a layer      {:8.3f} ms, {} of {} cores each\n", all * 1e3,
             machines ? fmt::format("{} machines", machines->count()) : "one process", cores);
}
