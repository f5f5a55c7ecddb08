#include "page/declared.h"

#include "page/open_page.h"
#include "page/pass.h"

namespace permllm {
namespace {

struct CountedMaterial {
  Batch batch;
  std::vector<Cost> parts;
  void open(Counter& counter, Part) {
    counter.batch = batch;
    counter.total = {};
  }
  void close(Counter& counter, Part) { parts.push_back(counter.total); }
};

}  // namespace

Cost piece_cost(const Plan& plan, Part::Kind kind, std::uint32_t layer, std::uint32_t index) {
  Counter counter;
  CountedMaterial material{{index, 1}, {}};
  const auto none = no_weights(plan.config);
  NoClear clear;
  switch (kind) {
    case Part::Kind::entry:
      run_entries(counter, plan, none, Counted{}, material);
      break;
    case Part::Kind::slot:
      if (plan.open()) {
        run_open_layer(counter, plan, none, layer, Counted{}, material, clear);
      } else {
        run_layer(counter, plan, none, layer, Counted{}, material);
      }
      break;
    case Part::Kind::pass:
      if (plan.open()) {
        run_open_pass(counter, plan, none, Counted{}, material, clear);
      } else {
        run_pass(counter, plan, none, Counted{}, k_no_choice, material);
      }
      break;
    case Part::Kind::query:
      return query_cost(bfv_shape(plan));
  }
  return material.parts.at(0);
}

Cost pass_cost(const Plan& plan, std::size_t before, std::size_t tokens, bool prompt) {
  if (prompt) tokens = plan.prompt_rows(tokens);
  const auto none = no_weights(plan.config);
  Counter counter;
  const auto walk = [&](Batch batch, auto page) {
    CountedMaterial material{batch, {}};
    counter.batch = batch;
    counter.total = {};
    page(material);
    Cost sum = material.parts.empty() ? counter.total : Cost{};
    for (const Cost& part : material.parts) sum += part;
    return sum;
  };
  const Batch entries{0, tokens}, slots{static_cast<std::uint32_t>(before), tokens};
  Cost total{.rounds = 0, .online = {.user_to_provider = PassBegin::k_bytes}, .offline = {}};
  if (plan.open()) {
    NoClear clear;
    total += walk(slots, [&](auto&) { hand_rows(counter, plan, {}); });
    total += walk(slots, [&](auto& m) { run_open_layers(counter, plan, none, Counted{}, m, clear); });
    total += walk({0, prompt ? 1 : tokens}, [&](auto& m) { run_open_pass(counter, plan, none, Counted{}, m, clear); });
    return total;
  }
  const bool block = !prompt && tokens > 1;
  if (prompt || block) {
    total += walk(entries, [&](auto&) { prompt_one_hots(counter, one_hot_shape(plan)); });
    total += walk(entries, [&](auto& m) { run_entries(counter, plan, none, Counted{}, m); });
  } else if (plan.bfv()) {
    total += reply_cost(plan.config.layers == 1);
  } else {
    total += walk({0, 1}, [&](auto&) { retrieve(counter, Counted{{plan.embed, 0}, plan.config.vocab}); });
  }
  if (plan.bfv()) total += index_cost() + query_cost(bfv_shape(plan));
  total += walk(slots, [&](auto&) { remask(counter, embed_remask_shape(plan), Counted{}); });
  total += walk(slots, [&](auto& m) { run_layers(counter, plan, none, Counted{}, m); });
  const Batch passes{0, block ? tokens : 1};
  total += walk(passes, [&](auto& m) { run_pass(counter, plan, none, Counted{}, k_no_choice, m); });
  if (block) {
    total += walk(passes, [&](auto&) { retrieve(counter, Counted{{plan.embed, 0}, plan.config.vocab}); });
    ++total.rounds;
  }
  return total;
}

}  // namespace permllm
