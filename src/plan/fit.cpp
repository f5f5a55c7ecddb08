#include "plan/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

namespace permllm {
namespace {

using At = Misfit::At;

// A matrix of the model; `layer` is a stored one.
struct Place {
  At at;
  std::size_t layer;
  auto operator<=>(const Place&) const = default;
};

const char* name_of(At at) {
  switch (at) {
    case At::qkv_matrix:
      return "qkv";
    case At::o_matrix:
      return "o";
    case At::up_matrix:
      return "up";
    case At::down_matrix:
      return "down";
    case At::head_matrix:
      return "head";
    case At::residual_ring:
      return "residual";
  }
  return "";
}

// What a byte less of the residual, and so of all that joins it or is made of it, may add to the noise of all matrices together: no more than a few of
// them have by themselves.
constexpr double k_noise_for_a_byte = 10 * k_most_noise;

struct Bounds {
  double noise = INFINITY;  // that is added, all together; 0: nothing is given up
  int residual = 64;        // bits of its ring
};

class Fitting {
 public:
  Fitting(IntWeights& weights, const Ranges& ranges, const FitOptions& options)
      : weights_(weights),
        ranges_(ranges),
        options_(options),
        layers_(fractions_of(weights)),
        head_(weights.head.frac()) {}

  // Errors: those of Plan::make, where no bits within the bounds make room.
  Plan plan(bool fused, Bounds bounds = {}) {
    for (;;) {
      Plan plan = Plan::draft(weights_, layers_, head_, ranges_, options_.slots, options_.profile, fused,
                              options_.prompt_slots);
      plan.checked = options_.checked;
      try {
        if (plan.residual.bits > bounds.residual)
          throw Misfit(Misfit::At::residual_ring, 0, fmt::format("more than {} bits", bounds.residual));
        plan.check();
        return plan;
      } catch (const Misfit& misfit) {
        if (!make_room(plan, misfit, bounds)) throw;
      }
    }
  }
  // Likewise; none, and nothing is given up, where there is no such plan.
  std::optional<Plan> plan_within(bool fused, Bounds bounds) {
    auto kept = std::tuple(layers_, head_, taken_);
    try {
      return plan(fused, bounds);
    } catch (const Error& error) {
      if (error.code() != Code::unsupported) throw;
      std::tie(layers_, head_, taken_) = std::move(kept);
      return std::nullopt;
    }
  }

  std::vector<std::string> apply(Executor& executor) {
    std::vector<std::string> given_up;
    for (const auto& [place, bits] : taken_) {
      given_up.push_back(fmt::format(
          "{}{} {} of {}, noise {:.0e}", place.at == At::head_matrix ? "" : fmt::format("layer {}: ", place.layer),
          bits, bits == 1 ? "bit" : "bits", name_of(place.at), noise_of(place)[static_cast<std::size_t>(bits)]));
      matrix(place).coarsen(bits, executor);
    }
    return given_up;
  }

 private:
  // What `layer`, the weights or their fraction bits, has of a matrix.
  template <class Layer>
  static auto& of(Layer& layer, At at) {
    return at == At::qkv_matrix  ? layer.qkv
           : at == At::o_matrix  ? layer.o
           : at == At::up_matrix ? layer.up
                                 : layer.down;
  }
  IntMatrix& matrix(const Place& p) {
    return p.at == At::head_matrix ? weights_.head : of(weights_.layers[p.layer], p.at);
  }
  int& frac(const Place& p) { return p.at == At::head_matrix ? head_ : of(layers_[p.layer], p.at); }
  const std::vector<double>& noise_of(const Place& p) {
    const auto [at, is_new] = noise_.try_emplace(p);
    if (is_new) at->second = matrix(p).noise();
    return at->second;
  }
  // What one bit less of each adds to the noise; infinite where one has none to give.
  double price_of(const std::vector<Place>& places) {
    double price = places.empty() ? INFINITY : 0;
    for (const Place& p : places) {
      const std::vector<double>& noise = noise_of(p);
      const auto bits = static_cast<std::size_t>(taken_.contains(p) ? taken_[p] : 0);
      price += bits + 1 < noise.size() ? noise[bits + 1] - noise[bits] : INFINITY;
    }
    return price;
  }

  // Takes a bit where it helps and adds the least noise, which the bounds then have less of.
  bool make_room(const Plan& plan, const Misfit& misfit, Bounds& bounds) {
    std::vector<std::vector<Place>> ways;
    if (misfit.at != At::residual_ring)
      ways.push_back({{misfit.at, misfit.at == At::head_matrix ? 0 : misfit.layer % layers_.size()}});
    // A row that is not normalised has the residual's fraction bits, which are those of the products that join it.
    const bool of_residual = misfit.at == At::residual_ring || (misfit.at == At::qkv_matrix && plan.raw_qkv()) ||
                             (misfit.at == At::up_matrix && plan.raw_up()) ||
                             (misfit.at == At::head_matrix && plan.raw_head());
    if (of_residual) {
      std::vector<Place> joining, wide;
      for (std::size_t l = 0; l < layers_.size(); ++l) {
        if (plan.o_frac(l) == plan.residual_frac) joining.push_back({At::o_matrix, l});
        if (plan.down_frac(l) == plan.residual_frac) joining.push_back({At::down_matrix, l});
        if (plan.raw_qkv() && plan.qkv(l).bits > bounds.residual) wide.push_back({At::qkv_matrix, l});
        if (plan.raw_up() && plan.up(l).bits > bounds.residual) wide.push_back({At::up_matrix, l});
      }
      if (plan.raw_head() && plan.head.bits > bounds.residual) wide.push_back({At::head_matrix, 0});
      if (!plan.config.post_norm && plan.residual_frac > std::max(frac::norm_row, plan.embed_frac))
        ways.push_back(joining);
      ways.push_back(wide);
    }
    const auto best = std::min_element(ways.begin(), ways.end(),
                                       [&](const auto& a, const auto& b) { return price_of(a) < price_of(b); });
    if (best == ways.end() || bounds.noise == 0) return false;
    const double price = price_of(*best);
    if (price == INFINITY || price > bounds.noise) return false;
    bounds.noise -= price;
    for (const Place& p : *best) ++taken_[p], --frac(p);
    return true;
  }

  IntWeights& weights_;
  const Ranges& ranges_;
  const FitOptions& options_;
  std::vector<LayerFractions> layers_;
  int head_;
  std::map<Place, int> taken_;
  std::map<Place, std::vector<double>> noise_;
};

}  // namespace

Fitted fit(IntWeights& weights, const Ranges& ranges, const FitOptions& options, Executor& executor) {
  Fitting fitting(weights, ranges, options);
  std::optional<Plan> plan;
  if (!options.fused && options.profile != Profile::open) plan = fitting.plan_within(true, {.noise = 0});
  if (!plan) plan = fitting.plan(options.fused.value_or(false));
  while (std::optional<Plan> narrower = fitting.plan_within(plan->fused, {k_noise_for_a_byte, plan->residual.bits - 8}))
    plan = std::move(narrower);
  return {*std::move(plan), fitting.apply(executor)};
}

}  // namespace permllm
