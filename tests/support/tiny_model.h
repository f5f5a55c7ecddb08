// The smallest model that a provider can offer.
#pragma once

#include <string>

#include "model/load.h"
#include "provider/service.h"
#include "support/rig.h"
#include "support/tiny_plan.h"

namespace permllm::test {

struct TinyModel {
  Profile profile = Profile::paper;
  Retrieval retrieval = Retrieval::linear;
  bool fused = false;
  HiddenPositions hidden_positions = HiddenPositions::off;
  std::uint32_t layers = 2;
  std::size_t slots = 64;
  char id = 'a';  // of the model's id, 64 times
};

inline OfferedModel tiny_model(const TinyModel& how = {}) {
  Executor executor(1);
  const ModelFile file(Gguf::parse(tiny_llama({.layers = how.layers}).finish()));
  OfferedModel model;
  model.vocabulary = Vocabulary::read(*file.gguf());
  model.weights = load_int_weights(file, executor);
  model.plan = Plan::make(model.weights, tiny_ranges(how.layers), how.slots, how.profile, how.fused);
  model.plan.retrieval = how.retrieval;
  model.hidden_positions = how.hidden_positions;
  model.model_id = std::string(64, how.id);
  model.mask_seed = seed_of(static_cast<std::uint8_t>(how.id));
  return model;
}

}  // namespace permllm::test
