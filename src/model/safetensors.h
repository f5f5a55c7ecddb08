// Models as Hugging Face keeps them: a folder with config.json and tensors in safetensors files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "model/gguf.h"

namespace permllm {

// Tensors of a safetensors file: the length of a JSON header in 8 bytes, the header, data without holes. Types F32, F16 and
// BF16. They point into `bytes`. Every length, shape and offset is checked; faults are Error{file or unsupported} naming the
// field, e.g. "tensor lm_head.weight.shape".
std::vector<GgufTensor> parse_safetensors(std::span<const std::uint8_t> bytes);

// A JSON text whose objects name each key once. Errors: file, naming `field`.
nlohmann::json parse_json(std::span<const std::uint8_t> text, const std::string& field);

// config.json, and model.safetensors or the shards that model.safetensors.index.json names, mapped into memory.
class SafetensorsFolder {
 public:
  // Errors: file or unsupported, naming the file and the field within it.
  static SafetensorsFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const nlohmann::json& config() const { return config_; }  // an object
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  // SHA-256 over config.json and the tensors' files in the order of their names, hex.
  std::string sha256() const;

 private:
  std::filesystem::path path_;
  std::vector<MappedFile> files_;  // config.json first
  nlohmann::json config_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace permllm
