// From a model file to what a provider offers.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/load.h"
#include "model/tokenizer.h"
#include "plan/plan.h"
#include "provider/model_record.h"
#include "session/registration.h"

namespace permllm {

// What a provider offers: made once from a file.
struct OfferedModel {
  IntWeights weights;
  Plan plan;  // of a session that hides no positions
  HiddenPositions hidden_positions = HiddenPositions::off;
  std::vector<std::string> given_up = {};  // plan/fit.h
  Vocabulary vocabulary;
  std::string model_id;  // SHA-256 of a fresh salt and the file's hash
  Seed mask_seed;        // expands U; fresh for every version, known to provider and users, never to the helper
  // Bytes of V that are sent to the helper together: few enough that they stay in the caches between making, hashing and sending.
  std::uint32_t chunk = 1 << 20;
  std::unique_ptr<ModelRecord> record = nullptr;  // null: id and seed go with the process
};
// How a provider serves its model.
struct OfferOptions {
  std::size_t context = 1024;    // slots of a chain; at most the model's own limit (usage Error with both numbers)
  std::size_t prompt_slots = 0;  // of these, of models whose prompt attends both ways: room for a prompt; 0: a quarter
  Profile profile = Profile::paper;
  std::optional<bool> fused;  // unset: where the ranges allow it
  Retrieval retrieval = Retrieval::linear;
  HiddenPositions hidden_positions =
      HiddenPositions::by_choice;     // as far as the model's plan lets any session hide them
  bool checked = false;               // Plan::checked
  int weight_bits = 12;               // 8: less memory to read a token, at a loss that `inspect --loss` measures
  bool synthetic = false;             // the model is the name of a published shape, with random weights
  bool ids_only = false;              // a folder's tokenizer may be missing
  std::string pre_tokenizer = {};     // in place of what a GGUF file calls it; empty: as the file has it
  std::size_t layers = 0, width = 0;  // of a synthetic model, where not the shape's own
  std::size_t distinct_layers = 0;    // of a synthetic model: layers of weights to hold, used in turn; 0: all
};

// Plan::takes_drafts of a session that drafts, as far as it does not depend on the model.
inline bool takes_drafts(const OfferOptions& options) {
  return options.profile == Profile::open ||
         (options.hidden_positions != HiddenPositions::off && options.retrieval == Retrieval::linear);
}

// Of a GGUF file, or of ChatGLM-6B's folder: its ice_text.model. With ids_only, a folder without one has a text like <7> for
// each token. pre_tokenizer: of Vocabulary::read. Errors: file, naming what is missing; unsupported; those of either kind of tokenizer.
Vocabulary read_vocabulary(const ModelFile& file, bool ids_only = false, const std::string& pre_tokenizer = "");

// The texts that ship with the project (plan/calibration_text.h): first the pieces, as a prompt begins, with the vocabulary's bos and eos behind them;
// then a dialogue by the model's own template, where it has one.
std::vector<std::vector<TokenId>> calibration_texts(const Vocabulary& vocabulary, const Config& config);

// Reads the file (or makes synthetic weights, with the ranges of SmolLM2-135M), makes the integer weights, calibrates the ranges on the texts that ship with the project and on
// the greatest rows of the embedding table, and draws a fresh seed for U and a fresh salt.
// machines: that hold it together; this is machine 0, which leads the others from then on (ring/machines.h).
OfferedModel offer_model(const std::string& path, const OfferOptions& options, Executor& executor,
                         const LoadProgress& progress = nullptr, Machines* machines = nullptr);
// At each other machine: loads its rows, and multiplies by them until machine 0 ends. Errors: those of loading; mismatch, where it is another file, or
// other options, than at machine 0; those of Machines.
void serve_rows(const std::string& path, const OfferOptions& options, Executor& executor, Machines& machines);

// The plans that its sessions may have, one or two.
std::vector<Plan> plans_of_sessions(const OfferedModel& model);

// As it is offered to the helper.
ModelOffer model_offer(const OfferedModel& model);

// Keeps id and seed of the model in a record of the folder `state`; where it has one of this model already, they are taken from
// there. Errors: those of ModelRecord.
void keep_record(OfferedModel& model, const std::filesystem::path& state, Executor& executor);

}  // namespace permllm
