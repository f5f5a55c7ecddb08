// A model on disk: a GGUF file, or a Hugging Face folder.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/gguf.h"
#include "model/safetensors.h"

namespace permllm {

class ModelFile {
 public:
  // A file that begins with "GGUF", or a folder with config.json. Errors: file, saying what is accepted, and those of either kind.
  static ModelFile open(const std::filesystem::path& path);
  ModelFile(Gguf file);                 // NOLINT(google-explicit-constructor)
  ModelFile(SafetensorsFolder folder);  // NOLINT(google-explicit-constructor)

  const Gguf* gguf() const { return std::get_if<Gguf>(&file_); }                              // nullptr: a folder
  const SafetensorsFolder* folder() const { return std::get_if<SafetensorsFolder>(&file_); }  // nullptr: a GGUF file

  const std::vector<GgufTensor>& tensors() const;
  const GgufTensor* find(std::string_view name) const;  // nullptr when absent
  // Errors: file when absent or of another shape (names both).
  const GgufTensor& tensor(std::string_view name, std::span<const std::uint64_t> shape) const;

  // Of all that the model is read from, hex.
  std::string sha256() const;

 private:
  std::variant<Gguf, SafetensorsFolder> file_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace permllm
