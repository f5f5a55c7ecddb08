#include "session/public_part.h"

#include <fmt/format.h>

#include <cmath>
#include <span>

namespace permllm {
namespace {

// Writes each vector's values into `to`, or reads them from there.
struct Flatten {
  std::vector<float>& to;
  void operator()(const std::vector<float>& v, std::size_t size) const {
    if (v.empty()) return to.resize(to.size() + size);  // a constant that the model does not have
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
    throw Error(Code::malformed, "PublicVectors.values",
                fmt::format("{} of them, expected {}", vectors.values.size(), expected));
  }
  for (const float value : vectors.values) {
    if (!std::isfinite(value)) throw Error(Code::malformed, "PublicVectors.values", "one is not a finite number");
  }
  std::span<const float> from = vectors.values;
  for_each_vector(w, plan, Restore{from});
  return w;
}

}  // namespace permllm
