#include "model/model_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/file.h"
#include "base/mapped_file.h"
#include "permllm/error.h"

namespace permllm {

ModelFile ModelFile::open(const std::filesystem::path& path) {
  constexpr const char* k_accepted = "a model is a GGUF file, or a folder with config.json and model.safetensors";
  if (type_of(path) == std::filesystem::file_type::directory) {
    if (!is_there(path / "config.json"))
      throw Error(Code::file, path.string(), fmt::format("a folder without config.json; {}", k_accepted));
    try {
      return SafetensorsFolder::open(path);
    } catch (const Error& error) {
      throw Error(error.code(), path.string(), error.what());
    }
  }
  {
    const MappedFile file(path);
    constexpr std::string_view magic = "GGUF";
    const auto bytes = file.bytes();
    if (bytes.size() >= magic.size() && !std::equal(magic.begin(), magic.end(), bytes.begin()))
      throw Error(Code::file, path.string(), fmt::format("this is not a GGUF file; {}", k_accepted));
  }
  return Gguf::open(path);
}

ModelFile::ModelFile(Gguf file) : file_(std::move(file)) {
  for (const GgufTensor& tensor : tensors()) by_name_.emplace(tensor.name, by_name_.size());
}
ModelFile::ModelFile(SafetensorsFolder folder) : file_(std::move(folder)) {
  for (const GgufTensor& tensor : tensors()) by_name_.emplace(tensor.name, by_name_.size());
}

const std::vector<GgufTensor>& ModelFile::tensors() const {
  return std::visit([](const auto& file) -> const std::vector<GgufTensor>& { return file.tensors(); }, file_);
}

const GgufTensor* ModelFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors()[found->second];
}

const GgufTensor& ModelFile::tensor(std::string_view name, std::span<const std::uint64_t> shape) const {
  const GgufTensor* tensor = find(name);
  const std::string place = fmt::format("tensor {}", name);
  if (tensor == nullptr) throw Error(Code::file, place, "is missing from the file");
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    throw Error(Code::file, place,
                fmt::format("has shape {}, expected {}", fmt::join(tensor->shape, " x "), fmt::join(shape, " x ")));
  }
  return *tensor;
}

std::string ModelFile::sha256() const {
  return std::visit([](const auto& file) { return file.sha256(); }, file_);
}

}  // namespace permllm
