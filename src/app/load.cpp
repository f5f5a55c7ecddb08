#include "app/load.h"

#include <fmt/format.h>

#include "model/chat_format.h"
#include "model/gguf.h"
#include "offline/calibrate.h"
#include "offline/calibration_text.h"

namespace permllm {

OfferedModel offer_model(const std::string& path, std::size_t context, Executor& executor) {
  const Gguf file = Gguf::open(path);
  const Config config = read_config(file);
  if (context < 1 || context > config.context) {
    throw Error(Code::usage, "--context", fmt::format("{}, the model takes 1 to {}", context, config.context));
  }
  OfferedModel model;
  model.vocabulary = Vocabulary::read(file);
  ChatFormat::from_template(model.vocabulary.chat_template);  // refused before the long work
  const Tokenizer tokenizer(model.vocabulary);
  model.weights = load_int_weights(file, executor);
  const Ranges ranges = calibrate(model.weights, tokenizer.encode(k_calibration_text, false), executor);
  model.plan = Plan::make(model.weights, ranges, context);
  model.mask_seed = random_seed();
  const Seed salt = random_seed();
  Bytes committed(salt.bytes().begin(), salt.bytes().end());
  const std::string hash = file.sha256();
  committed.insert(committed.end(), hash.begin(), hash.end());
  model.model_id = hash_hex(domain::model_commitment, committed);
  return model;
}

}  // namespace permllm
