// A token of the model that drafts: PERMLLM_DRAFT_MODEL, or the small test model.
#include <benchmark/benchmark.h>

#include <cstdlib>

#include "user/draft.h"

namespace permllm {
namespace {

const char* file() {
  const char* own = std::getenv("PERMLLM_DRAFT_MODEL");
  return own != nullptr ? own : PERMLLM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

// Behind a prompt of `range` tokens.
void BM_draft_token(benchmark::State& state) {
  static Executor executor;
  static const DraftModel model(file(), executor);
  ModelDrafter drafter(model, executor);
  std::vector<TokenId> history;
  for (TokenId id = 0; id < static_cast<TokenId>(state.range(0)); ++id) history.push_back(100 + 37 * id % 1000);
  drafter.draft(history, 1);
  state.SetLabel(model.config().name);
  constexpr std::size_t k_tokens = 4;
  for (auto _ : state) {
    history.push_back(drafter.draft(history, k_tokens).back());  // rejects most of them
    history.resize(static_cast<std::size_t>(state.range(0)));
    history.push_back(static_cast<TokenId>(state.iterations() % 1000));
  }
  state.counters["token"] =
      benchmark::Counter(k_tokens, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}
BENCHMARK(BM_draft_token)->Arg(40)->Arg(256)->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace permllm
