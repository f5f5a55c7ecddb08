#include "session/pairing.h"

#include "rand/domains.h"

namespace permllm {
Seed common_seed(const Seed& helper, const char* domain, const PairHello& hello) {
  if (hello.whole) return hello.seed;
  const auto bytes = helper.bytes();
  std::string binding(bytes.begin(), bytes.end());
  binding +=
      std::to_string(hello.session) + '/' + std::to_string(hello.chain) + '/' + hello.model_id + '/' + hello.plan_hash;
  return derive(hello.seed, domain, binding);
}

Digest seed_digest(const Seed& seed, std::uint64_t chain) {
  Writer writer;
  writer.number("chain", chain);
  writer.raw("seed", Bytes(seed.bytes().begin(), seed.bytes().end()), Seed::k_bytes);
  return hash(domain::chain_seed, writer.take());
}

}  // namespace permllm
