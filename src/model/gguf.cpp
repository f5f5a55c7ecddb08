#include "model/gguf.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "permllm/error.h"

namespace permllm {
namespace {

constexpr std::uint32_t k_magic = 0x46554747;  // "GGUF"
constexpr std::uint64_t k_name_limit = 1 << 16;

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
  std::string text(const std::string& field, std::uint64_t limit) {
    const auto size = number<std::uint64_t>(field);
    if (size > limit) throw Error(Code::file, field, fmt::format("a text of {} bytes, the limit is {}", size, limit));
    const std::uint8_t* from = need(field, size);
    return std::string(reinterpret_cast<const char*>(from), size);
  }
  // A count of things of at least `least` bytes each must fit what is left of the file.
  std::uint64_t count(const std::string& field, std::uint64_t least) {
    const auto value = number<std::uint64_t>(field);
    if (value > left() / least) {
      throw Error(Code::file, field, fmt::format("{} entries cannot fit the {} bytes that are left of the file", value, left()));
    }
    return value;
  }
  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return bytes_.size() - at_; }

 private:
  const std::uint8_t* need(const std::string& field, std::uint64_t size) {
    if (size > left()) {
      throw Error(Code::file, field, fmt::format("the file ends: {} bytes are left, {} are needed (truncated?)", left(), size));
    }
    const std::uint8_t* from = bytes_.data() + at_;
    at_ += size;
    return from;
  }
  std::span<const std::uint8_t> bytes_;
  std::uint64_t at_ = 0;
};

enum ValueType : std::uint32_t {
  u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64
};

std::uint64_t least_bytes(std::uint32_t type, const std::string& field) {
  switch (type) {
    case u8: case i8: case boolean: return 1;
    case u16: case i16: return 2;
    case u32: case i32: case f32: return 4;
    case u64: case i64: case f64: case string: return 8;
    default: throw Error(Code::file, field, fmt::format("value type {} is unknown", type));
  }
}

Gguf::Value read_scalar(Cursor& in, std::uint32_t type, const std::string& field) {
  switch (type) {
    case u8: return std::uint64_t{in.number<std::uint8_t>(field)};
    case i8: return std::int64_t{in.number<std::int8_t>(field)};
    case u16: return std::uint64_t{in.number<std::uint16_t>(field)};
    case i16: return std::int64_t{in.number<std::int16_t>(field)};
    case u32: return std::uint64_t{in.number<std::uint32_t>(field)};
    case i32: return std::int64_t{in.number<std::int32_t>(field)};
    case f32: return double{in.number<float>(field)};
    case boolean: return in.number<std::uint8_t>(field) != 0;
    case string: return in.text(field, in.left());
    case u64: return in.number<std::uint64_t>(field);
    case i64: return in.number<std::int64_t>(field);
    case f64: return in.number<double>(field);
    default: throw Error(Code::file, field, fmt::format("value type {} is unknown", type));
  }
}

template <class T>
Gguf::Value read_list(Cursor& in, std::uint32_t type, std::uint64_t count, const std::string& field) {
  std::vector<T> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) values.push_back(std::get<T>(read_scalar(in, type, field)));
  return values;
}

Gguf::Value read_value(Cursor& in, std::uint32_t type, const std::string& field) {
  if (type != array) return read_scalar(in, type, field);
  const auto element = in.number<std::uint32_t>(field + ".type");
  if (element == array) throw Error(Code::file, field, "arrays of arrays are not supported");
  const std::uint64_t count = in.count(field + ".length", least_bytes(element, field + ".type"));
  switch (element) {
    case u8: case u16: case u32: case u64: return read_list<std::uint64_t>(in, element, count, field);
    case i8: case i16: case i32: case i64: return read_list<std::int64_t>(in, element, count, field);
    case f32: case f64: return read_list<double>(in, element, count, field);
    case boolean: return read_list<bool>(in, element, count, field);
    default: return read_list<std::string>(in, element, count, field);
  }
}

}  // namespace

struct Gguf::Impl {
  std::vector<std::uint8_t> owned;
  void* mapped = nullptr;
  std::span<const std::uint8_t> bytes;
  std::map<std::string, Value, std::less<>> metadata;
  std::vector<GgufTensor> tensors;
  std::map<std::string, std::size_t, std::less<>> by_name;

  ~Impl() {
    if (mapped != nullptr) munmap(mapped, bytes.size());
  }
  void read();
  void read_tensors(Cursor& in, std::uint64_t count);
};

void Gguf::Impl::read() {
  Cursor in(bytes);
  const auto magic = in.number<std::uint32_t>("magic");
  if (magic != k_magic) throw Error(Code::file, "magic", "this is not a GGUF file: it does not begin with \"GGUF\"");
  const auto version = in.number<std::uint32_t>("version");
  if (version != 2 && version != 3) {
    throw Error(Code::unsupported, "version", fmt::format("GGUF version {} is not supported, versions 2 and 3 are", version));
  }
  const std::uint64_t tensor_count = in.count("tensor_count", 24);
  const std::uint64_t value_count = in.count("metadata_count", 13);
  for (std::uint64_t i = 0; i < value_count; ++i) {
    const std::string place = fmt::format("metadata[{}]", i);
    const std::string key = in.text(place + ".key", k_name_limit);
    const auto type = in.number<std::uint32_t>(place + ".type");
    if (!metadata.emplace(key, read_value(in, type, place + ".value")).second) {
      throw Error(Code::file, place + ".key", "a key stands twice");
    }
  }
  read_tensors(in, tensor_count);
}

void Gguf::Impl::read_tensors(Cursor& in, std::uint64_t count) {
  std::vector<std::uint64_t> offsets;
  for (std::uint64_t i = 0; i < count; ++i) {
    GgufTensor tensor;
    tensor.name = in.text(fmt::format("tensor[{}].name", i), k_name_limit);
    const std::string place = "tensor " + tensor.name;
    const auto dimensions = in.number<std::uint32_t>(place + ".dimensions");
    if (dimensions < 1 || dimensions > 4) throw Error(Code::file, place, fmt::format("{} dimensions, expected 1 to 4", dimensions));
    std::uint64_t elements = 1;
    for (std::uint32_t d = 0; d < dimensions; ++d) {
      const auto extent = in.number<std::uint64_t>(place + ".shape");
      if (extent == 0 || extent > (std::uint64_t{1} << 40) / elements) throw Error(Code::file, place + ".shape", "absurd");
      elements *= extent;
      tensor.shape.push_back(extent);
    }
    tensor.type = in.number<std::uint32_t>(place + ".type");
    offsets.push_back(in.number<std::uint64_t>(place + ".offset"));
    if (!by_name.emplace(tensor.name, tensors.size()).second) throw Error(Code::file, place, "a tensor's name stands twice");
    tensors.push_back(std::move(tensor));
  }
  std::uint64_t alignment = 32;
  if (const auto found = metadata.find("general.alignment"); found != metadata.end()) {
    const auto* value = std::get_if<std::uint64_t>(&found->second);
    if (value == nullptr || *value == 0 || *value > 65536 || *value % 8 != 0) {
      throw Error(Code::file, "general.alignment", "expected a multiple of 8 of at most 65536");
    }
    alignment = *value;
  }
  const std::uint64_t begin = (in.at() + alignment - 1) / alignment * alignment;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    GgufTensor& tensor = tensors[i];
    const std::string place = "tensor " + tensor.name;
    const BlockSize block = block_size(tensor.type);
    if (block.bytes == 0) continue;  // refused when it is used
    if (tensor.shape[0] % block.elements != 0) {
      throw Error(Code::file, place + ".shape", fmt::format("a row of {} is no whole number of blocks of {}", tensor.shape[0], block.elements));
    }
    const std::uint64_t size = tensor.elements() / block.elements * block.bytes;
    if (offsets[i] % alignment != 0) throw Error(Code::file, place + ".offset", fmt::format("is no multiple of {}", alignment));
    if (begin > bytes.size() || offsets[i] > bytes.size() - begin || size > bytes.size() - begin - offsets[i]) {
      throw Error(Code::file, place + ".offset", "its data reaches past the end of the file (truncated?)");
    }
    tensor.data = bytes.subspan(begin + offsets[i], size);
  }
}

Gguf::Gguf(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Gguf::~Gguf() = default;
Gguf::Gguf(Gguf&&) noexcept = default;
Gguf& Gguf::operator=(Gguf&&) noexcept = default;

Gguf Gguf::open(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  const bool readable = file >= 0 && fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  auto impl = std::make_unique<Impl>();
  if (readable && status.st_size > 0) {
    const auto size = static_cast<std::size_t>(status.st_size);
    void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapped != MAP_FAILED) {
      impl->mapped = mapped;
      impl->bytes = {static_cast<const std::uint8_t*>(mapped), size};
    }
  }
  if (file >= 0) close(file);
  if (!readable) throw Error(Code::file, path.string(), "there is no such file, or it cannot be read");
  if (impl->mapped == nullptr) throw Error(Code::file, path.string(), "the file is empty or cannot be mapped");
  try {
    impl->read();
  } catch (const Error& error) {
    throw Error(error.code(), path.string(), error.what());
  }
  return Gguf(std::move(impl));
}

Gguf Gguf::parse(std::vector<std::uint8_t> bytes) {
  auto impl = std::make_unique<Impl>();
  impl->owned = std::move(bytes);
  impl->bytes = impl->owned;
  impl->read();
  return Gguf(std::move(impl));
}

const std::map<std::string, Gguf::Value, std::less<>>& Gguf::metadata() const { return impl_->metadata; }
const std::vector<GgufTensor>& Gguf::tensors() const { return impl_->tensors; }
bool Gguf::has(std::string_view key) const { return impl_->metadata.find(key) != impl_->metadata.end(); }

namespace {

template <class T>
const T& typed(const std::map<std::string, Gguf::Value, std::less<>>& metadata, std::string_view key, const char* type) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) throw Error(Code::file, std::string(key), "is missing from the file's metadata");
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) throw Error(Code::file, std::string(key), fmt::format("is not {}", type));
  return *value;
}

}  // namespace

std::string Gguf::string(std::string_view key) const { return typed<std::string>(impl_->metadata, key, "a text"); }
double Gguf::real(std::string_view key) const { return typed<double>(impl_->metadata, key, "a real number"); }
std::vector<std::string> Gguf::strings(std::string_view key) const {
  return typed<std::vector<std::string>>(impl_->metadata, key, "a list of texts");
}

std::uint64_t Gguf::number(std::string_view key) const {
  const auto found = impl_->metadata.find(key);
  if (found != impl_->metadata.end()) {
    const auto* integer = std::get_if<std::int64_t>(&found->second);
    if (integer != nullptr && *integer >= 0) return static_cast<std::uint64_t>(*integer);
  }
  return typed<std::uint64_t>(impl_->metadata, key, "a whole number");
}

std::vector<std::int64_t> Gguf::numbers(std::string_view key) const {
  const auto found = impl_->metadata.find(key);
  if (found != impl_->metadata.end()) {
    if (const auto* list = std::get_if<std::vector<std::uint64_t>>(&found->second)) return {list->begin(), list->end()};
  }
  return typed<std::vector<std::int64_t>>(impl_->metadata, key, "a list of whole numbers");
}

const GgufTensor* Gguf::find(std::string_view name) const {
  const auto found = impl_->by_name.find(name);
  return found == impl_->by_name.end() ? nullptr : &impl_->tensors[found->second];
}

const GgufTensor& Gguf::tensor(std::string_view name, std::span<const std::uint64_t> shape) const {
  const GgufTensor* tensor = find(name);
  const std::string place = fmt::format("tensor {}", name);
  if (tensor == nullptr) throw Error(Code::file, place, "is missing from the file");
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    throw Error(Code::file, place, fmt::format("has shape {}, expected {}", fmt::join(tensor->shape, " x "), fmt::join(shape, " x ")));
  }
  return *tensor;
}

std::string Gguf::sha256() const {
  std::uint8_t digest[32];
  PERMLLM_ASSERT(EVP_Digest(impl_->bytes.data(), impl_->bytes.size(), digest, nullptr, EVP_sha256(), nullptr) == 1);
  std::string hex;
  for (const std::uint8_t byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

}  // namespace permllm
