#include "model/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>

#include "model/file_hash.h"
#include "permllm/error.h"

namespace permllm {
namespace {

// Of JSON texts: many times what the largest models have, little beside a model.
constexpr std::uint64_t k_json_limit = std::uint64_t{16} << 20;
constexpr std::size_t k_json_depth = 16;

struct Type {
  const char* name;
  std::uint32_t ggml;
  std::uint64_t bytes;
};
constexpr Type k_types[] = {{"F32", 0, 4}, {"F16", 1, 2}, {"BF16", 30, 2}};

std::uint64_t whole_number(const nlohmann::json& value, const std::string& field) {
  if (!value.is_number_unsigned()) throw Error(Code::file, field, "is not a list of whole numbers");
  return value.get<std::uint64_t>();
}

// The tensor that an entry of the header describes.
GgufTensor tensor_of(const std::string& name, const nlohmann::json& entry, std::span<const std::uint8_t> data) {
  const std::string place = "tensor " + name;
  if (name.empty() || name.size() > 1024)
    throw Error(Code::file, "header", fmt::format("a tensor's name of {} bytes, expected 1 to 1024", name.size()));
  if (!entry.is_object()) throw Error(Code::file, place, "is not described by a JSON object");
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(key)) throw Error(Code::file, place + "." + key, "is missing");
  }
  if (entry.size() != 3) throw Error(Code::file, place, "is described by more than dtype, shape and data_offsets");

  const nlohmann::json &dtype = entry.at("dtype"), &shape = entry.at("shape"), &offsets = entry.at("data_offsets");
  if (!dtype.is_string()) throw Error(Code::file, place + ".dtype", "is not a text");
  const auto type =
      std::find_if(std::begin(k_types), std::end(k_types), [&](const Type& t) { return dtype == t.name; });
  if (type == std::end(k_types)) {
    throw Error(Code::unsupported, place + ".dtype",
                fmt::format("\"{:.20}\" is not supported; F32, F16 and BF16 are", dtype.get<std::string>()));
  }
  GgufTensor tensor{name, {}, type->ggml, {}};
  if (!shape.is_array() || shape.empty() || shape.size() > 4)
    throw Error(Code::file, place + ".shape", "is not a list of 1 to 4 numbers");
  std::uint64_t elements = 1;
  for (const nlohmann::json& value : shape) {
    const std::uint64_t extent = whole_number(value, place + ".shape");
    if (extent == 0 || extent > (std::uint64_t{1} << 40) / elements)
      throw Error(Code::file, place + ".shape", "absurd");
    elements *= extent;
    tensor.shape.push_back(extent);
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());  // a row's length first
  if (!offsets.is_array() || offsets.size() != 2)
    throw Error(Code::file, place + ".data_offsets", "is not a list of 2 numbers");
  const std::uint64_t begin = whole_number(offsets[0], place + ".data_offsets"),
                      end = whole_number(offsets[1], place + ".data_offsets");
  if (begin > end || end > data.size()) {
    throw Error(
        Code::file, place + ".data_offsets",
        fmt::format("{} to {} is not within the file's {} bytes of data (truncated?)", begin, end, data.size()));
  }
  if (end - begin != elements * type->bytes) {
    throw Error(Code::file, place + ".data_offsets",
                fmt::format("holds {} bytes, its shape takes {}", end - begin, elements * type->bytes));
  }
  tensor.data = data.subspan(begin, end - begin);
  tensor.mapped = true;
  return tensor;
}

}  // namespace

nlohmann::json parse_json(std::span<const std::uint8_t> text, const std::string& field) {
  if (text.size() > k_json_limit)
    throw Error(Code::file, field, fmt::format("{} bytes of JSON, the limit is {}", text.size(), k_json_limit));
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, const nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (static_cast<std::size_t>(depth) > k_json_depth)
      throw Error(Code::file, field, fmt::format("JSON nested deeper than {}", k_json_depth));
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second) {
      throw Error(Code::file, field, fmt::format("the key \"{:.80}\" stands twice", value.get<std::string>()));
    }
    return true;
  };
  nlohmann::json json = nlohmann::json::parse(text.begin(), text.end(), check, false);
  if (json.is_discarded()) throw Error(Code::file, field, "is no JSON");
  return json;
}

std::vector<GgufTensor> parse_safetensors(std::span<const std::uint8_t> bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) throw Error(Code::file, "header.length", "the file ends before it (truncated?)");
  std::memcpy(&length, bytes.data(), sizeof length);
  bytes = bytes.subspan(sizeof length);
  if (length > bytes.size() || length > k_json_limit) {
    throw Error(
        Code::file, "header.length",
        fmt::format("{}, of the file {} bytes are left and the limit is {}", length, bytes.size(), k_json_limit));
  }
  const nlohmann::json header = parse_json(bytes.first(length), "header");
  if (!header.is_object()) throw Error(Code::file, "header", "is not a JSON object");
  const auto data = bytes.subspan(length);
  std::vector<GgufTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") tensors.push_back(tensor_of(name, entry, data));
  }
  // One after the other: nothing is read twice, nothing is hidden in between.
  std::sort(tensors.begin(), tensors.end(),
            [](const GgufTensor& a, const GgufTensor& b) { return a.data.data() < b.data.data(); });
  const std::uint8_t* end = data.data();
  for (const GgufTensor& tensor : tensors) {
    if (tensor.data.data() != end) {
      throw Error(Code::file, "tensor " + tensor.name + ".data_offsets",
                  "does not begin where the tensor before it ends (an overlap or a hole)");
    }
    end += tensor.data.size();
  }
  if (end != data.data() + data.size()) throw Error(Code::file, "header", "the file goes on behind its last tensor");
  return tensors;
}

namespace {

// An error of a file within a folder.
template <class Read>
auto within(const std::string& file, Read read) {
  try {
    return read();
  } catch (const Error& error) {
    throw Error(error.code(), file, error.what());
  }
}

// Shard of each tensor.
std::map<std::string, std::string> places_of(const nlohmann::json& index) {
  if (!index.is_object() || !index.contains("weight_map") || !index.at("weight_map").is_object()) {
    throw Error(Code::file, "weight_map", "is missing, or is not an object");
  }
  std::map<std::string, std::string> places;
  for (const auto& [name, shard] : index.at("weight_map").items()) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (!file.ends_with(".safetensors") || file.find('/') != std::string::npos ||
        file.find('\0') != std::string::npos) {
      throw Error(Code::file, "weight_map." + name, "is not the name of a .safetensors file in the same folder");
    }
    places.emplace(name, file);
  }
  return places;
}

}  // namespace

SafetensorsFolder SafetensorsFolder::open(const std::filesystem::path& path) {
  SafetensorsFolder folder;
  folder.path_ = path;
  folder.files_.emplace_back(path / "config.json");
  folder.config_ = parse_json(folder.files_.back().bytes(), "config.json");
  if (!folder.config_.is_object()) throw Error(Code::file, "config.json", "is not a JSON object");

  const auto add = [&](const std::string& name) {
    folder.files_.emplace_back(path / name);
    const auto tensors = within(name, [&] { return parse_safetensors(folder.files_.back().bytes()); });
    folder.tensors_.insert(folder.tensors_.end(), tensors.begin(), tensors.end());
    return tensors;
  };
  const std::string index_name = "model.safetensors.index.json";
  if (is_there(path / "model.safetensors")) {
    add("model.safetensors");
    return folder;
  }
  if (!is_there(path / index_name)) {
    throw Error(Code::file, "model.safetensors",
                "is missing, and so is model.safetensors.index.json (other formats than safetensors are not read)");
  }
  const MappedFile index(path / index_name);
  const auto places = within(index_name, [&] { return places_of(parse_json(index.bytes(), "JSON")); });
  std::set<std::string> shards;
  for (const auto& [name, shard] : places) shards.insert(shard);
  std::size_t found = 0;
  for (const std::string& shard : shards) {
    for (const GgufTensor& tensor : add(shard)) {
      const auto place = places.find(tensor.name);
      if (place == places.end() || place->second != shard) {
        throw Error(Code::file, index_name, fmt::format("does not say that tensor {} is in {}", tensor.name, shard));
      }
      ++found;
    }
  }
  if (found == places.size()) return folder;
  std::set<std::string> present;
  for (const GgufTensor& tensor : folder.tensors_) present.insert(tensor.name);
  for (const auto& [name, shard] : places) {
    if (!present.contains(name))
      throw Error(Code::file, index_name, fmt::format("names tensor {}, which {} does not hold", name, shard));
  }
  return folder;
}

std::string SafetensorsFolder::sha256() const {
  std::vector<FileBytes> files;
  for (const MappedFile& file : files_) files.push_back({file.bytes(), true});
  return sha256_hex(files);
}

}  // namespace permllm
