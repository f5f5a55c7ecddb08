#include "session/handshake.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cmath>

#include "session/ledger.h"

namespace permllm {
namespace {

// No kind of a chain's pieces has more of them than the chain has slots.
void check_marks(const char* field, const Marks& marks, std::size_t most) {
  for (const std::uint32_t mark : marks.first) {
    if (mark > most) throw Error(Code::malformed, field, fmt::format("{}, expected at most {}", mark, most));
  }
}

}  // namespace

void check(const Card& card) {
  const auto refuse = [](const char* field, const std::string& why) { throw Error(Code::malformed, std::string("Card.") + field, why); };
  const Vocabulary& v = card.vocabulary;
  const std::size_t tokens = v.tokens.size(), rows = card.plan.config.vocab;
  if (card.session == 0) refuse("session", "0, expected any other number");
  if (tokens > rows) refuse("vocabulary.tokens", fmt::format("{} of them, the plan's embedding table has {} rows: each token needs one", tokens, rows));
  if (v.types.size() != tokens) refuse("vocabulary.types", fmt::format("{} types for {} tokens", v.types.size(), tokens));
  if (!v.scores.empty() && v.scores.size() != tokens) refuse("vocabulary.scores", fmt::format("{} scores for {} tokens", v.scores.size(), tokens));
  const auto check_id = [&](const char* field, TokenId id) {
    if (id >= std::max<std::size_t>(tokens, 1)) refuse(field, fmt::format("{}, the vocabulary has {} tokens", id, tokens));
  };
  check_id("vocabulary.eos", v.eos);
  if (v.bos) check_id("vocabulary.bos", *v.bos);
  for (const TokenId end : v.ends) check_id("vocabulary.ends", end);
  for (const ChainState& chain : card.chains) {
    check_marks("Card.chains.made", chain.made, card.plan.slots);
    check_marks("Card.chains.burnt", chain.burnt, card.plan.slots + Burning::k_stretch);  // burnt ahead of its use, by a process that died then
  }
}

Accepted receive_accepted(Channel& provider, const Plan& plan) {
  const auto accepted = provider.receive(Accepted{});
  check_marks("Accepted.made", accepted.made, plan.slots);
  check_marks("Accepted.burnt", accepted.burnt, plan.slots);
  return accepted;
}

PartyReport report_of_this_process() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  PartyReport report;
  report.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  report.memory_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  return report;
}

Digest chunk_hash(std::span<const std::uint8_t> bytes) { return hash(domain::chunk, bytes); }

Digest model_digest(const ModelOffer& offer, std::span<const Digest> hashes) {
  Writer bound;
  bound.text("model_id", offer.model_id, 64);
  bound.text("plan_hash", offer.plan.hash(), 64);
  bound.number("bytes", offer.bytes);
  bound.number("chunk", offer.chunk);
  Bytes all = bound.take();
  for (const Digest& digest : hashes) all.insert(all.end(), digest.begin(), digest.end());
  return hash(domain::stored_model, all);
}

namespace {

// Writes each vector's values into `to`, or reads them from there.
struct Flatten {
  std::vector<float>& to;
  void operator()(const std::vector<float>& v, std::size_t size) const {
    to.insert(to.end(), v.begin(), v.begin() + static_cast<std::ptrdiff_t>(size));
  }
  void operator()(const Gain& g, std::size_t size, int) const {
    for (std::size_t j = 0; j < size; ++j) to.push_back(static_cast<float>(g.value(j)));
  }
};
struct Restore {
  std::span<const float>& from;
  void operator()(std::vector<float>& v, std::size_t size) const {
    v.assign(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(size));
    from = from.subspan(size);
  }
  void operator()(Gain& g, std::size_t size, int frac) const {
    g.frac = frac;
    for (std::size_t j = 0; j < size; ++j) g.words.push_back(encode(double{from[j]}, {Ring{64}, frac}));
    from = from.subspan(size);
  }
};

}  // namespace

PublicVectors vectors_of(const IntWeights& weights, const Plan& plan) {
  PublicVectors vectors;
  for_each_vector(weights, plan, Flatten{vectors.values});
  return vectors;
}

namespace {

Weights<NoMatrix> without_values(const Plan& plan) {
  Weights<NoMatrix> w;
  w.config = plan.config;
  w.layers.resize(plan.config.stored_layers());
  return w;
}

}  // namespace

std::size_t values_of(const Plan& plan) {
  const Weights<NoMatrix> w = without_values(plan);
  std::size_t values = 0;
  for_each_vector(w, plan, [&](const auto&, std::size_t size, int = 0) { values += size; });
  return values;
}

Weights<NoMatrix> weights_of(const PublicVectors& vectors, const Plan& plan) {
  Weights<NoMatrix> w = without_values(plan);
  const std::size_t expected = values_of(plan);
  if (vectors.values.size() != expected) {
    throw Error(Code::malformed, "PublicVectors.values", fmt::format("{} of them, expected {}", vectors.values.size(), expected));
  }
  for (const float value : vectors.values) {
    if (!std::isfinite(value)) throw Error(Code::malformed, "PublicVectors.values", "one is not a finite number");
  }
  std::span<const float> from = vectors.values;
  for_each_vector(w, plan, Restore{from});
  return w;
}

Seed common_seed(const Seed& helper, const char* domain, const PairHello& hello) {
  if (hello.whole) return hello.seed;
  const auto bytes = helper.bytes();
  std::string binding(bytes.begin(), bytes.end());
  binding += std::to_string(hello.session) + '/' + std::to_string(hello.chain) + '/' + hello.model_id + '/' + hello.plan_hash;
  return derive(hello.seed, domain, binding);
}

Digest seed_digest(const Seed& seed, std::uint64_t chain) {
  Writer writer;
  writer.number("chain", chain);
  writer.raw("seed", Bytes(seed.bytes().begin(), seed.bytes().end()), Seed::k_bytes);
  return hash(domain::chain_seed, writer.take());
}

}  // namespace permllm
