#include "model/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>

#include "base/file.h"
#include "base/mapped_file.h"
#include "model/file_hash.h"
#include "permllm/error.h"

namespace permllm {
namespace {

constexpr std::uint32_t k_magic = 0x46554747;  // "GGUF"
constexpr std::uint64_t k_name_limit = 256;
// Far above any model. A byte of the file may take 8 in memory where it is a whole number in a list.
constexpr std::uint64_t k_entries_limit = 1 << 16;   // tensors; metadata
constexpr std::uint64_t k_elements_limit = 1 << 24;  // all lists together
constexpr std::uint64_t k_parts_limit = 1000;        // of a split file
constexpr const char* k_alignment = "general.alignment";

// Reads fields in order and cannot pass the file's end.
class Cursor {
 public:
  explicit Cursor(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  template <class T>
  T number(const std::string& field) {
    T value;
    std::memcpy(&value, need(field, sizeof value), sizeof value);
    return value;
  }
  std::string text(const std::string& field) {
    const auto size = number<std::uint64_t>(field);
    const std::uint8_t* from = need(field, size);
    return std::string(reinterpret_cast<const char*>(from), size);
  }
  // Names stand in errors: short, and of printable ASCII alone.
  std::string name(const std::string& field) {
    const auto size = number<std::uint64_t>(field);
    if (size > k_name_limit)
      throw Error(Code::file, field, fmt::format("a name of {} bytes, the limit is {}", size, k_name_limit));
    const std::uint8_t* from = need(field, size);
    if (!std::all_of(from, from + size, [](std::uint8_t c) { return c >= ' ' && c <= '~'; })) {
      throw Error(Code::file, field, "holds a byte that is not printable ASCII");
    }
    return std::string(reinterpret_cast<const char*>(from), size);
  }
  // A count of things of at least `least` bytes each must fit what is left of the file.
  std::uint64_t count(const std::string& field, std::uint64_t least, std::uint64_t limit) {
    const auto value = number<std::uint64_t>(field);
    if (value > left() / least) {
      throw Error(Code::file, field,
                  fmt::format("{} entries cannot fit the {} bytes that are left of the file", value, left()));
    }
    if (value > limit)
      throw Error(Code::unsupported, field, fmt::format("{} entries, at most {} are supported", value, limit));
    return value;
  }
  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return bytes_.size() - at_; }

 private:
  const std::uint8_t* need(const std::string& field, std::uint64_t size) {
    if (size > left()) {
      throw Error(Code::file, field,
                  fmt::format("the file ends: {} bytes are left, {} are needed (truncated?)", left(), size));
    }
    const std::uint8_t* from = bytes_.data() + at_;
    at_ += size;
    return from;
  }
  std::span<const std::uint8_t> bytes_;
  std::uint64_t at_ = 0;
};

enum ValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

[[noreturn]] void unknown_type(std::uint32_t type, const std::string& key) {
  throw Error(Code::file, key + ".type", fmt::format("value type {} is unknown", type));
}

std::uint64_t least_bytes(std::uint32_t type, const std::string& key) {
  switch (type) {
    case u8:
    case i8:
    case boolean:
      return 1;
    case u16:
    case i16:
      return 2;
    case u32:
    case i32:
    case f32:
      return 4;
    case u64:
    case i64:
    case f64:
    case string:
      return 8;
    default:
      unknown_type(type, key);
  }
}

bool read_boolean(Cursor& in, const std::string& key) {
  const auto value = in.number<std::uint8_t>(key);
  if (value > 1) throw Error(Code::file, key, fmt::format("{} is neither true (1) nor false (0)", value));
  return value == 1;
}

Gguf::Value read_scalar(Cursor& in, std::uint32_t type, const std::string& key) {
  switch (type) {
    case u8:
      return std::uint64_t{in.number<std::uint8_t>(key)};
    case i8:
      return std::int64_t{in.number<std::int8_t>(key)};
    case u16:
      return std::uint64_t{in.number<std::uint16_t>(key)};
    case i16:
      return std::int64_t{in.number<std::int16_t>(key)};
    case u32:
      return std::uint64_t{in.number<std::uint32_t>(key)};
    case i32:
      return std::int64_t{in.number<std::int32_t>(key)};
    case f32:
      return double{in.number<float>(key)};
    case boolean:
      return read_boolean(in, key);
    case string:
      return in.text(key);
    case u64:
      return in.number<std::uint64_t>(key);
    case i64:
      return in.number<std::int64_t>(key);
    case f64:
      return in.number<double>(key);
    default:
      unknown_type(type, key);
  }
}

template <class T>
Gguf::Value read_list(Cursor& in, std::uint32_t type, std::uint64_t count, const std::string& key) {
  std::vector<T> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) values.push_back(std::get<T>(read_scalar(in, type, key)));
  return values;
}

// `elements` is how many lists may still hold.
Gguf::Value read_value(Cursor& in, std::uint32_t type, const std::string& key, std::uint64_t& elements) {
  if (type != array) return read_scalar(in, type, key);
  const auto element = in.number<std::uint32_t>(key + ".type");
  if (element == array) throw Error(Code::unsupported, key + ".type", "lists of lists are not supported");
  const std::uint64_t count = in.count(key + ".length", least_bytes(element, key), elements);
  elements -= count;
  switch (element) {
    case u8:
    case u16:
    case u32:
    case u64:
      return read_list<std::uint64_t>(in, element, count, key);
    case i8:
    case i16:
    case i32:
    case i64:
      return read_list<std::int64_t>(in, element, count, key);
    case f32:
    case f64:
      return read_list<double>(in, element, count, key);
    case boolean:
      return read_list<bool>(in, element, count, key);
    default:
      return read_list<std::string>(in, element, count, key);
  }
}

const Gguf::Value& value_of(const Gguf::Metadata& metadata, std::string_view key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) throw Error(Code::file, std::string(key), "is missing from the file's metadata");
  return found->second;
}

template <class T>
const T& typed(const Gguf::Metadata& metadata, std::string_view key, const char* type) {
  const T* value = std::get_if<T>(&value_of(metadata, key));
  if (value == nullptr) throw Error(Code::file, std::string(key), fmt::format("is not {}", type));
  return *value;
}

std::uint64_t whole_number(const Gguf::Metadata& metadata, std::string_view key) {
  const auto* integer = std::get_if<std::int64_t>(&value_of(metadata, key));
  if (integer == nullptr) return typed<std::uint64_t>(metadata, key, "a whole number");
  if (*integer < 0) throw Error(Code::file, std::string(key), fmt::format("{} is negative", *integer));
  return static_cast<std::uint64_t>(*integer);
}

}  // namespace

struct Gguf::Impl {
  std::vector<std::uint8_t> owned;
  std::optional<MappedFile> mapped;
  std::span<const std::uint8_t> bytes;
  Metadata metadata;
  std::vector<GgufTensor> tensors;
  std::set<std::string> names;
  std::vector<std::unique_ptr<Impl>>
      others;  // of a split file: the parts behind the first, whose tensors are in `tensors`

  static std::unique_ptr<Impl> open(const std::filesystem::path& path);
  void read();
  void add(std::unique_ptr<Impl> part, const std::filesystem::path& path);
  // Returns where the data of each begins, from the beginning of all data on.
  std::vector<std::uint64_t> read_tensors(Cursor& in, std::uint64_t count);
  void place_tensors(const std::vector<std::uint64_t>& offsets, std::uint64_t end_of_tensors);
};

void Gguf::Impl::read() {
  Cursor in(bytes);
  const auto magic = in.number<std::uint32_t>("magic");
  if (magic != k_magic) throw Error(Code::file, "magic", "this is not a GGUF file: it does not begin with \"GGUF\"");
  const auto version = in.number<std::uint32_t>("version");
  if (version == 2u << 24 || version == 3u << 24)
    throw Error(Code::unsupported, "version", "big-endian files are not supported");
  if (version != 2 && version != 3) {
    throw Error(Code::unsupported, "version",
                fmt::format("GGUF version {} is not supported, versions 2 and 3 are", version));
  }
  const std::uint64_t tensor_count = in.count("tensor_count", 32, k_entries_limit);
  const std::uint64_t value_count = in.count("metadata_count", 13, k_entries_limit);
  std::uint64_t elements = k_elements_limit;
  for (std::uint64_t i = 0; i < value_count; ++i) {
    const std::string place = fmt::format("metadata[{}].key", i);
    const std::string key = in.name(place);
    const auto type = in.number<std::uint32_t>(key + ".type");
    if (!metadata.emplace(key, read_value(in, type, key, elements)).second) {
      throw Error(Code::file, place, fmt::format("{} stands twice", key));
    }
  }
  const std::vector<std::uint64_t> offsets = read_tensors(in, tensor_count);
  place_tensors(offsets, in.at());
}

std::vector<std::uint64_t> Gguf::Impl::read_tensors(Cursor& in, std::uint64_t count) {
  std::vector<std::uint64_t> offsets;
  tensors.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    GgufTensor tensor;
    const std::string place = fmt::format("tensor[{}].name", i);
    tensor.name = in.name(place);
    const std::string self = "tensor " + tensor.name;
    const auto dimensions = in.number<std::uint32_t>(self + ".dimensions");
    if (dimensions < 1 || dimensions > 4)
      throw Error(Code::file, self + ".dimensions", fmt::format("{}, expected 1 to 4", dimensions));
    std::uint64_t elements = 1;
    for (std::uint32_t d = 0; d < dimensions; ++d) {
      const auto extent = in.number<std::uint64_t>(self + ".shape");
      if (extent == 0 || extent > (std::uint64_t{1} << 40) / elements) {
        throw Error(Code::file, self + ".shape",
                    fmt::format("extent {} of dimension {}: expected 1 to 2^40 numbers in all", extent, d));
      }
      elements *= extent;
      tensor.shape.push_back(extent);
    }
    tensor.type = in.number<std::uint32_t>(self + ".type");
    offsets.push_back(in.number<std::uint64_t>(self + ".offset"));
    if (!names.insert(tensor.name).second) throw Error(Code::file, place, fmt::format("{} stands twice", tensor.name));
    tensors.push_back(std::move(tensor));
  }
  return offsets;
}

void Gguf::Impl::place_tensors(const std::vector<std::uint64_t>& offsets, std::uint64_t end_of_tensors) {
  const std::uint64_t alignment = metadata.contains(k_alignment) ? whole_number(metadata, k_alignment) : 32;
  if (alignment == 0 || alignment > 65536 || alignment % 8 != 0) {
    throw Error(Code::file, k_alignment, fmt::format("{}, expected a multiple of 8 of at most 65536", alignment));
  }
  const std::uint64_t begin =
      std::min<std::uint64_t>((end_of_tensors + alignment - 1) / alignment * alignment, bytes.size());
  std::vector<std::size_t> order;  // of the tensors whose type is supported, as their data stands in the file
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    GgufTensor& tensor = tensors[i];
    const std::string self = "tensor " + tensor.name;
    if (offsets[i] % alignment != 0)
      throw Error(Code::file, self + ".offset", fmt::format("{} is no multiple of {}", offsets[i], alignment));
    if (offsets[i] > bytes.size() - begin)
      throw Error(Code::file, self + ".offset", "lies past the end of the file (truncated?)");
    const BlockSize block = block_size(tensor.type);
    if (block.bytes == 0) continue;  // refused when it is used
    if (tensor.shape[0] % block.elements != 0) {
      throw Error(Code::file, self + ".shape",
                  fmt::format("a row of {} is no whole number of blocks of {}", tensor.shape[0], block.elements));
    }
    const std::uint64_t size = tensor.elements() / block.elements * block.bytes;
    if (size > bytes.size() - begin - offsets[i]) {
      throw Error(Code::file, self + ".offset", "its data reaches past the end of the file (truncated?)");
    }
    tensor.data = bytes.subspan(begin + offsets[i], size);
    order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return offsets[a] < offsets[b]; });
  for (std::size_t k = 1; k < order.size(); ++k) {
    const std::size_t before = order[k - 1], after = order[k];
    if (offsets[after] - offsets[before] < tensors[before].data.size()) {
      throw Error(Code::file, "tensor " + tensors[after].name + ".offset",
                  fmt::format("its data overlaps that of tensor {}", tensors[before].name));
    }
  }
}

Gguf::Gguf(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Gguf::~Gguf() = default;
Gguf::Gguf(Gguf&&) noexcept = default;
Gguf& Gguf::operator=(Gguf&&) noexcept = default;

std::unique_ptr<Gguf::Impl> Gguf::Impl::open(const std::filesystem::path& path) {
  auto impl = std::make_unique<Impl>();
  impl->mapped.emplace(path);
  impl->bytes = impl->mapped->bytes();
  try {
    impl->read();
  } catch (const Error& error) {
    throw Error(error.code(), path.string(), error.what());
  }
  for (GgufTensor& tensor : impl->tensors) tensor.mapped = true;
  return impl;
}

void Gguf::Impl::add(std::unique_ptr<Impl> part, const std::filesystem::path& path) {
  // Parts behind the first need say nothing of the model; what they do say is the first's, or they are another model's.
  for (const auto& [key, value] : part->metadata) {
    if (key.starts_with("split.") || key == k_alignment) continue;
    const auto own = metadata.find(key);
    if (own == metadata.end() || own->second != value)
      throw Error(Code::file, path.string(), fmt::format("{} is not what the first part says: of another model?", key));
  }
  for (GgufTensor& tensor : part->tensors) {
    if (!names.insert(tensor.name).second)
      throw Error(Code::file, path.string(), fmt::format("tensor {} stands in another part, too", tensor.name));
    tensors.push_back(std::move(tensor));
  }
  others.push_back(std::move(part));
}

namespace {

constexpr const char *k_split_count = "split.count", *k_split_no = "split.no", *k_split_tensors = "split.tensors.count";

// NAME of NAME-00002-of-00003.gguf, that part's path; the file a link leads to may have the name that the link has not.
std::string name_of_parts(const std::filesystem::path& path, std::uint64_t part, std::uint64_t count) {
  const std::string end = fmt::format("-{:05}-of-{:05}.gguf", part + 1, count);
  for (const std::filesystem::path& place : {path, std::filesystem::canonical(path)}) {
    const std::string name = place.string();
    if (name.ends_with(end)) return name.substr(0, name.size() - end.size());
  }
  throw Error(
      Code::file, path.string(),
      fmt::format("is part {} of {} of a split model, but its name does not end in {}: the others are not found; give "
                  "the parts the names that they were made with",
                  part + 1, count, end));
}

}  // namespace

namespace {

// Which part of how many a file is; a count below 2: of none.
struct PartOf {
  std::uint64_t no, count;
};
PartOf part_of(const Gguf::Metadata& metadata) {
  const auto number = [&](const char* key) { return metadata.contains(key) ? whole_number(metadata, key) : 0; };
  return {number(k_split_no), number(k_split_count)};
}

// All parts, in their order.
std::vector<std::filesystem::path> files_of(const std::filesystem::path& path, const PartOf& own) {
  if (own.count < 2) return {path};
  if (own.count > k_parts_limit || own.no >= own.count)
    throw Error(Code::file, path.string(), fmt::format("says it is part {} of {}", own.no + 1, own.count));
  const std::string name = name_of_parts(path, own.no, own.count);
  std::vector<std::filesystem::path> files;
  for (std::uint64_t no = 0; no < own.count; ++no)
    files.emplace_back(fmt::format("{}-{:05}-of-{:05}.gguf", name, no + 1, own.count));
  files[own.no] = path;
  return files;
}

}  // namespace

std::vector<std::filesystem::path> Gguf::files(const std::filesystem::path& path) {
  return files_of(path, part_of(Impl::open(path)->metadata));
}

Gguf Gguf::open(const std::filesystem::path& path) {
  auto given = Impl::open(path);
  const auto [own, count] = part_of(given->metadata);
  const std::vector<std::filesystem::path> files = files_of(path, {own, count});
  if (count < 2) return Gguf(std::move(given));
  std::unique_ptr<Impl> whole;
  for (std::uint64_t no = 0; no < count; ++no) {
    const std::filesystem::path& place = files[no];
    if (!is_there(place)) {
      throw Error(Code::file, path.string(),
                  fmt::format("is part {} of {} of a split model, and part {} is missing: {}", own + 1, count, no + 1,
                              place.filename().string()));
    }
    auto part = no == own ? std::move(given) : Impl::open(place);
    const auto [place_of_part, parts] = part_of(part->metadata);
    if (parts != count || place_of_part != no) {
      throw Error(
          Code::file, place.string(),
          fmt::format("says it is part {} of {}, expected part {} of {}", place_of_part + 1, parts, no + 1, count));
    }
    if (whole == nullptr)
      whole = std::move(part);
    else
      whole->add(std::move(part), place);
  }
  if (whole->metadata.contains(k_split_tensors)) {
    const std::uint64_t all = whole_number(whole->metadata, k_split_tensors);
    if (all != whole->tensors.size()) {
      throw Error(Code::file, path.string(),
                  fmt::format("the model's {} parts hold {} tensors, expected {}", count, whole->tensors.size(), all));
    }
  }
  return Gguf(std::move(whole));
}

Gguf Gguf::parse(std::vector<std::uint8_t> bytes) {
  auto impl = std::make_unique<Impl>();
  impl->owned = std::move(bytes);
  impl->bytes = impl->owned;
  impl->read();
  return Gguf(std::move(impl));
}

const Gguf::Metadata& Gguf::metadata() const { return impl_->metadata; }
const std::vector<GgufTensor>& Gguf::tensors() const { return impl_->tensors; }
bool Gguf::has(std::string_view key) const { return impl_->metadata.find(key) != impl_->metadata.end(); }

std::string Gguf::string(std::string_view key) const { return typed<std::string>(impl_->metadata, key, "a text"); }
std::uint64_t Gguf::number(std::string_view key) const { return whole_number(impl_->metadata, key); }
double Gguf::real(std::string_view key) const { return typed<double>(impl_->metadata, key, "a real number"); }
bool Gguf::boolean(std::string_view key) const { return typed<bool>(impl_->metadata, key, "true or false"); }
std::vector<std::string> Gguf::strings(std::string_view key) const {
  return typed<std::vector<std::string>>(impl_->metadata, key, "a list of texts");
}
std::vector<double> Gguf::reals(std::string_view key) const {
  return typed<std::vector<double>>(impl_->metadata, key, "a list of real numbers");
}

std::vector<std::int64_t> Gguf::numbers(std::string_view key) const {
  const auto* list = std::get_if<std::vector<std::uint64_t>>(&value_of(impl_->metadata, key));
  if (list == nullptr) return typed<std::vector<std::int64_t>>(impl_->metadata, key, "a list of whole numbers");
  for (const std::uint64_t element : *list) {
    if (element > INT64_MAX) throw Error(Code::file, std::string(key), fmt::format("{} is too large", element));
  }
  return {list->begin(), list->end()};
}

std::string Gguf::sha256() const {
  std::vector<FileBytes> files{{impl_->bytes, impl_->mapped.has_value()}};
  for (const auto& part : impl_->others) files.push_back({part->bytes, part->mapped.has_value()});
  return sha256_hex(files);
}

}  // namespace permllm
