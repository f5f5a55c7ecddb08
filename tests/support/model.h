// The test model, loaded once a test program, and facts about it.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/offer_options.h"
#include "model/gguf.h"

namespace permllm::test {

inline Executor& executor() {
  static Executor shared;
  return shared;
}

inline const OfferedModel& smollm2() {
  static const OfferedModel model =
      offer_model(PERMLLM_TEST_MODEL, {.context = 256, .profile = Profile::paper, .fused = false}, executor());
  return model;
}

// Every way to serve a model.
struct Variant {
  Profile profile;
  bool fused;
  Retrieval retrieval = Retrieval::linear;
  bool hides_positions = false, checked = false;
  std::string name() const {
    return std::string(name_of(profile)) + (fused ? "_fused" : "") + (retrieval == Retrieval::bfv ? "_bfv" : "") +
           (hides_positions ? "_hidden" : "") + (checked ? "_checked" : "");
  }
};
inline std::ostream& operator<<(std::ostream& out, const Variant& v) { return out << v.name(); }
inline constexpr Variant k_variants[] = {{Profile::paper, false},
                                         {Profile::paper, true},
                                         {Profile::fast, false},
                                         {Profile::fast, true},
                                         {Profile::open, false}};
inline constexpr Variant k_hidden_variant{Profile::paper, true, Retrieval::linear, true};
inline constexpr Variant k_checked_variant{Profile::open, false, Retrieval::linear, false, true};
inline constexpr Variant k_bfv_variant{Profile::fast, true, Retrieval::bfv};
inline Plan smollm2_plan(const Variant& v, std::size_t slots = 256) {
  Plan plan = Plan::make(smollm2().weights, smollm2().plan.ranges, slots, v.profile, v.fused);
  plan.retrieval = v.retrieval;
  plan.hides_positions = v.hides_positions;
  plan.checked = v.checked;
  return plan;
}

inline nlohmann::json read_json(const std::string& name) {
  std::ifstream in(std::string(PERMLLM_TEST_DATA) + "/" + name);
  return nlohmann::json::parse(in);
}

// One case of data/smollm2_greedy.json.
struct GreedyCase {
  std::string prompt;
  std::vector<TokenId> prompt_ids, float_ids;
  std::vector<double> gaps;
};
inline std::vector<GreedyCase> greedy_cases() {
  std::vector<GreedyCase> cases;
  const nlohmann::json data = read_json("smollm2_greedy.json");
  for (const auto& r : data.at("results")) {
    cases.push_back({r.at("prompt"), r.at("prompt_ids"), r.at("float_output_ids"), r.at("float_top2_gap")});
  }
  return cases;
}

}  // namespace permllm::test
