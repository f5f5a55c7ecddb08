// A whole conversation of the test model with all parties in this process over memory links: dealing, prefill, decode.
// Needs the model: PERMLLM_TEST_MODEL in the environment, or models/ of the source.
#include <benchmark/benchmark.h>

#include <cstdlib>

#include "cli/offer_options.h"
#include "page/deal.h"
#include "page/pack.h"
#include "session/model_order.h"
#include "support/rig.h"

namespace permllm {
namespace {

Executor& executor() {
  static Executor shared;
  return shared;
}

std::string model_path() {
  const char* path = std::getenv("PERMLLM_TEST_MODEL");
  return path != nullptr ? path : PERMLLM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

const OfferedModel& model() {
  static const OfferedModel shared = offer_model(model_path(), {.context = 512, .fused = false}, executor());
  return shared;
}

void load(benchmark::State& state) {
  for (auto _ : state)
    benchmark::DoNotOptimize(offer_model(model_path(), {.context = 512, .fused = false}, executor()).plan.slots);
}
BENCHMARK(load)->Unit(benchmark::kMillisecond)->UseRealTime();

// Packs (a slot and a pass) a second, both makers one after the other on all cores.
void deal(benchmark::State& state) {
  test::Rig rig(model().weights, model().plan, executor());
  for (auto _ : state) {
    rig.deal(Part::Kind::slot, k_deal_batch);
    rig.deal(Part::Kind::pass, k_deal_batch);
  }
  state.counters["packs/s"] =
      benchmark::Counter(static_cast<double>(k_deal_batch), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(deal)->Iterations(2)->Unit(benchmark::kMillisecond)->UseRealTime();

void prefill_40(benchmark::State& state) {
  const std::vector<TokenId> prompt(40, 198);
  for (auto _ : state) {
    state.PauseTiming();
    test::Rig rig(model().weights, model().plan, executor());
    rig.deal_for_request(prompt.size(), 1);
    state.ResumeTiming();
    rig.user().prompt(prompt, test::greedy);
    benchmark::DoNotOptimize(rig.user().retrieve_last());
  }
}
BENCHMARK(prefill_40)->Iterations(3)->Unit(benchmark::kMillisecond)->UseRealTime();

// One token at 64 to 80 tokens of context, packs ready.
void decode_at_64(benchmark::State& state) {
  const std::vector<TokenId> prompt(64, 198);
  test::Rig rig(model().weights, model().plan, executor());
  rig.deal_for_request(prompt.size(), 18);
  rig.user().prompt(prompt, test::greedy);
  for (auto _ : state) rig.user().advance([](TokenId) { return true; }, test::greedy);
}
BENCHMARK(decode_at_64)->Iterations(16)->Unit(benchmark::kMillisecond)->UseRealTime();

// The provider's products of one token alone.
void provider_products(benchmark::State& state) {
  const Plan& plan = model().plan;
  for (auto _ : state) {
    for_each_matrix(model().weights, plan, [&](std::uint32_t, const LinearShape& s, const IntMatrix& w) {
      const Words x(s.cols, 0x123456789abcdefu);
      Words y(s.rows);
      product(w, s.out.ring, x, y, executor());
      benchmark::DoNotOptimize(y.data());
    });
  }
}
BENCHMARK(provider_products)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace permllm
