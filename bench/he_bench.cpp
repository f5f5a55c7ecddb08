// Encrypted retrieval, on one core: what the user does ahead of time and to read an answer, what the provider does ahead of time
// and to answer. Argument: entries of the table; 131,072 are 32 blocks. Bytes on the wire beside them.
#include <benchmark/benchmark.h>

#include <numeric>

#include "he/answer.h"
#include "he/kernels.h"

namespace permllm::he {
namespace {

struct Setting {
  Parameters p;
  SecretKey secret{random_seed()};
  PublicKey key = public_key(secret, "bench", random_seed());
  std::vector<std::uint32_t> table;
  explicit Setting(benchmark::State& state)
      : p(parameters_of(static_cast<std::size_t>(state.range(0)))), table(p.vocabulary) {
    std::iota(table.begin(), table.end(), 0u);
    state.SetLabel(kernels::target());
  }
};

void encrypt_query(benchmark::State& state) {
  const Setting s(state);
  for (auto _ : state) benchmark::DoNotOptimize(encrypt(s.secret, s.p, 1, random_seed()).c0.data());
  state.counters["bytes"] = static_cast<double>(query_bytes(s.p));
}

void prepare_query(benchmark::State& state) {
  const Setting s(state);
  const Query query = encrypt(s.secret, s.p, 1, random_seed());
  for (auto _ : state) benchmark::DoNotOptimize(PreparedQuery(query).c0(0).data());
}

void answer_query(benchmark::State& state) {
  const Setting s(state);
  const PreparedKey key(s.key, "bench");
  const PreparedQuery query(encrypt(s.secret, s.p, 1, random_seed()));
  for (auto _ : state) benchmark::DoNotOptimize(answer(key, query, s.table, 1000, random_seed()).words.data());
  state.counters["bytes"] = static_cast<double>(reply_bytes());
}

void decrypt_answer(benchmark::State& state) {
  const Setting s(state);
  const PreparedQuery query(encrypt(s.secret, s.p, 1001, random_seed()));
  const Reply reply = answer(PreparedKey(s.key, "bench"), query, s.table, 1000, random_seed());
  for (auto _ : state) benchmark::DoNotOptimize(decrypt(s.secret, s.p, reply));
}

void make_keys(benchmark::State& state) {
  for (auto _ : state) {
    const SecretKey secret(random_seed());
    benchmark::DoNotOptimize(public_key(secret, "bench", random_seed()).b.data());
  }
  state.counters["bytes"] = static_cast<double>(key_bytes());
}

void transform(benchmark::State& state) {
  Words x(k_degree, 1);
  for (auto _ : state) kernels::transform(x.data(), 0);
}

BENCHMARK(encrypt_query)->Arg(49152)->Arg(131072)->Arg(262144)->Unit(benchmark::kMillisecond);
BENCHMARK(prepare_query)->Arg(49152)->Arg(131072)->Arg(262144)->Unit(benchmark::kMillisecond);
BENCHMARK(answer_query)->Arg(49152)->Arg(131072)->Arg(262144)->Unit(benchmark::kMillisecond);
BENCHMARK(decrypt_answer)->Arg(131072)->Unit(benchmark::kMillisecond);
BENCHMARK(make_keys)->Unit(benchmark::kMillisecond);
BENCHMARK(transform)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace permllm::he
