// Started by mpirun as several machines: a model that they hold together is, at the first of them, the one that it holds alone: integers, packed
// bytes, statistics, products in every ring and in real numbers, what coarsening makes of them, and every byte of a session of the three parties.
#include <fmt/format.h>

#include <cstdio>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>

#include "mpi/join.h"
#include "provider/offer.h"
#include "session/masked_model.h"
#include "support/links.h"
#include "support/rig.h"

namespace permllm {
namespace {

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

std::vector<IntMatrix*> matrices(IntWeights& w) {
  std::vector<IntMatrix*> all;
  for (LayerWeights<IntMatrix>& layer : w.layers) all.insert(all.end(), {&layer.qkv, &layer.o, &layer.up, &layer.down});
  all.push_back(&w.head);
  return all;
}

void compare(const IntMatrix& whole, const IntMatrix& shared, Executor& executor, const std::string& name) {
  std::mt19937_64 random(whole.rows());
  expect(shared.rows() == whole.rows() && shared.cols() == whole.cols(), name + ": shape");
  expect(shared.frac() == whole.frac() && shared.packing().byte() == whole.packing().byte(), name + ": scale");
  expect(std::ranges::equal(shared.shifts(), whole.shifts()), name + ": shifts");
  expect(std::ranges::equal(shared.row_shifts(), whole.row_shifts()), name + ": row shifts");
  expect(shared.noise() == whole.noise(), name + ": noise");
  expect(shared.packed().size() < whole.packed().size() || whole.rows() <= 32, name + ": all rows on one machine");

  std::vector<std::uint8_t> packed(IntMatrix::packed_bytes(whole.rows(), whole.cols(), whole.packing()));
  for (std::size_t at = 0, next; at < packed.size(); at = next) {  // in pieces that end anywhere
    next = std::min<std::size_t>(packed.size(), at + 1 + random() % packed.size());
    shared.packed(at, std::span(packed).subspan(at, next - at));
  }
  expect(std::ranges::equal(packed, whole.packed()), name + ": packed bytes");
  std::vector<std::int32_t> row(whole.cols()), want(whole.cols());
  for (std::size_t r = 0; r < whole.rows(); r += 1 + random() % 40) {
    shared.row(r, row);
    whole.row(r, want);
    expect(row == want, fmt::format("{}: row {}", name, r));
  }
  for (const int bits : {17, 33, 48, 64}) {
    for (const std::size_t n : {1, 3, 19}) {
      std::vector<Word> x(n * whole.cols()), y(n * whole.rows()), expected(y.size());
      for (Word& word : x) word = random();
      product(whole, Ring{bits}, x, expected, executor);
      product(shared, Ring{bits}, x, y, executor);
      expect(y == expected, fmt::format("{}: {} vectors in a ring of {} bits", name, n, bits));
    }
  }
  std::vector<float> x(3 * whole.cols()), y(3 * whole.rows()), expected(y.size());
  for (float& v : x) v = static_cast<float>(random() % 1000) / 500 - 1;
  product(whole, x, expected, executor);
  product(shared, x, y, executor);
  expect(y == expected, name + ": product in real numbers");
}

using test::Rig;

// What both say online, and what the provider is dealt, under seeds that are fixed.
struct Transcript {
  std::vector<Frame> of_user, of_provider;
  Bytes from_helper, from_user;
};
Transcript transcript(const OfferedModel& model, Executor& executor) {
  Transcript words;
  const auto record = [](std::vector<Frame>& frames) {
    return [&frames](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
      return std::make_unique<test::Recording>(std::move(link), frames);
    };
  };
  {
    Rig rig(model.weights, model.plan, executor, 1, record(words.of_user), record(words.of_provider));
    const std::vector<TokenId> ids{5, 3, 1};
    rig.deal_for_request(ids.size(), 3);
    rig.user().prompt(ids, test::greedy);
    for (int i = 0; i < 2; ++i) rig.user().advance([](TokenId) { return true; }, test::greedy);
    words.from_helper = rig.offline(Stock::Source::helper);
    words.from_user = rig.offline(Stock::Source::user);
  }
  return words;
}
bool same(const std::vector<Frame>& a, const std::vector<Frame>& b) {
  return std::ranges::equal(a, b,
                            [](const Frame& x, const Frame& y) { return x.tag == y.tag && x.payload == y.payload; });
}

void check(const std::string& path, int bits, Profile profile, Machines& machines, Executor& executor) {
  OfferOptions options;
  options.weight_bits = bits;
  options.profile = profile;
  options.context = 16;
  options.ids_only = true;
  if (machines.own() != 0) return serve_rows(path, options, executor, machines);
  OfferedModel shared = offer_model(path, options, executor, nullptr, &machines),
               whole = offer_model(path, options, executor);
  const std::vector<IntMatrix*> parts = matrices(shared.weights), wholes = matrices(whole.weights);
  expect(shared.plan.hash() == whole.plan.hash(), path + ": plan");
  expect(weights_digest(shared.weights, shared.plan, executor) == weights_digest(whole.weights, whole.plan, executor),
         path + ": digest");
  for (std::size_t i = 0; i<parts.size(); i += parts.size()> 40 ? 29 : 1)
    compare(*wholes[i], *parts[i], executor, fmt::format("{}, {} bits, matrix {}", path, bits, i));
  const Transcript a = transcript(whole, executor), b = transcript(shared, executor);
  expect(a.of_user.size() > 20 && same(a.of_user, b.of_user), path + ": what the user says");
  expect(same(a.of_provider, b.of_provider), path + ": what the provider says");
  expect(!a.from_helper.empty() && a.from_helper == b.from_helper && a.from_user == b.from_user,
         path + ": what is dealt");
  int coarsened = 0;
  for (std::size_t i = 0; i < parts.size() && coarsened < 3; ++i) {
    if (wholes[i]->noise().size() < 2) continue;
    ++coarsened;
    wholes[i]->coarsen(1, executor);
    parts[i]->coarsen(1, executor);
    compare(*wholes[i], *parts[i], executor, fmt::format("{}, {} bits, matrix {}, a bit less", path, bits, i));
  }
  fmt::print("{}, {} bits: {} matrices on {} machines, {} with a bit less; {} frames of each side\n", path, bits,
             parts.size(), machines.count(), coarsened, a.of_user.size());
}

}  // namespace
}  // namespace permllm

// machines_check BITS PROFILE MODEL: from all machines.
int main(int argc, char** argv) {
  using namespace permllm;
  if (argc != 4) return 2;
  try {
    const auto machines = join_machines(std::chrono::seconds(120));
    expect(machines != nullptr, "mpirun did not start several machines");
    Executor executor(1);
    check(argv[3], std::stoi(argv[1]), profile_of(argv[2]), *machines, executor);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "machines_check: %s\n", error.what());
    return 1;
  }
}
