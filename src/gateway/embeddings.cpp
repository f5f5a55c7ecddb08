#include "gateway/embeddings.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "gateway/fields.h"

namespace permllm::gateway {
namespace {

constexpr std::size_t k_most_texts = 64;

std::vector<float> of_length_1(std::vector<float> values) {
  const double squares = std::inner_product(values.begin(), values.end(), values.begin(), 0.0);
  const auto scale = static_cast<float>(squares > 0 ? 1 / std::sqrt(squares) : 0);
  for (float& value : values) value *= scale;
  return values;
}

// Little-endian, as the machines are that this runs on.
std::string base64_of(const std::vector<float>& values) {
  std::vector<unsigned char> bytes(values.size() * sizeof(float)), text(4 * ((bytes.size() + 2) / 3) + 1);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  const int size = EVP_EncodeBlock(text.data(), bytes.data(), static_cast<int>(bytes.size()));
  return {text.begin(), text.begin() + size};
}

std::vector<std::string> texts_of(const Json& value, const char* field) {
  const bool ids = value.is_array() && !value.empty() && (value[0].is_number() || value[0].is_array());
  if (ids) unsupported(field, "expected texts: ids are those of the model's own vocabulary, which clients do not have");
  std::vector<std::string> all = texts(value, field, k_most_texts);
  if (all.empty()) wrong(field, "a string, or a list of strings");
  return all;
}

}  // namespace

Embeddings::Embeddings(std::string_view path, std::string_view body)
    : shape_(path == "/v1/embeddings" ? Shape::openai
             : path == "/api/embed"   ? Shape::ollama
                                      : Shape::ollama_one) {
  const Json in = parse_body(body);
  const char* input = shape_ == Shape::ollama_one ? "prompt" : "input";
  for (const auto& [key, value] : in.items()) {
    if (value.is_null()) continue;
    if (key == "model") {
      model_ = text(value, "model");
    } else if (key == input) {
      texts_ = texts_of(value, input);
    } else if (key == "encoding_format" && shape_ == Shape::openai) {
      base64_ = value == "base64";
      if (!base64_ && value != "float") wrong("encoding_format", "float or base64");
    } else if (key == "dimensions") {
      unsupported("dimensions", "a vector is as long as the model is wide");
    } else if (key == "user") {
      text(value, "user");
    } else if (shape_ == Shape::openai || (key != "truncate" && key != "options" && key != "keep_alive")) {
      throw Error(Code::usage, fmt::format("{:.64}", key), "is not known here, and nothing is ignored silently");
    }
  }
  if (texts_.empty()) wrong(input, "a string, or a list of strings");
}

std::vector<Request> Embeddings::requests() const {
  std::vector<Request> all;
  for (const std::string& one : texts_) {
    Request& request = all.emplace_back();
    request.chat = false;
    request.messages = {{"user", one}};
    request.max_tokens = 1;
    request.answer.hidden_state = true;
  }
  return all;
}

Json Embeddings::answer(const std::string& model, const std::vector<Made>& made) const {
  std::size_t tokens = 0;
  Json vectors = Json::array();
  for (const Made& one : made) {
    tokens += one.costs.cost.prompt_tokens;
    const std::vector<float> values = of_length_1(one.choices.at(0).hidden_state);
    const Json vector = base64_ ? Json(base64_of(values)) : Json(values);
    vectors.push_back(shape_ == Shape::openai
                          ? Json{{"object", "embedding"}, {"index", vectors.size()}, {"embedding", vector}}
                          : vector);
  }
  switch (shape_) {
    case Shape::ollama:
      return {{"model", model}, {"embeddings", vectors}, {"prompt_eval_count", tokens}};
    case Shape::ollama_one:
      return {{"embedding", vectors.at(0)}};
    case Shape::openai:
      break;
  }
  return {{"object", "list"},
          {"data", vectors},
          {"model", model},
          {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}};
}

}  // namespace permllm::gateway
