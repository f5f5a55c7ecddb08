#include "wire/payload.h"

#include <fmt/format.h>

namespace permllm {

void Writer::append(const void* data, std::size_t size) {
  const auto* from = static_cast<const std::uint8_t*>(data);
  bytes_.insert(bytes_.end(), from, from + size);
}

void Writer::words(std::span<const Word> values, Ring ring) {
  const std::size_t begin = bytes_.size();
  bytes_.resize(begin + values.size() * ring.bytes());
  pack(values, ring, bytes_.data() + begin);
}

void Writer::words(std::span<const Wide> values, Ring ring) {
  const std::size_t begin = bytes_.size();
  bytes_.resize(begin + values.size() * ring.bytes());
  pack(values, ring, bytes_.data() + begin);
}

void Writer::text(const char* field, const std::string& value, std::size_t limit) {
  PERMLLM_ASSERT(value.size() <= limit);
  number(field, static_cast<std::uint32_t>(value.size()));
  append(value.data(), value.size());
}

void Writer::raw(const char* field, const Bytes& value, std::size_t limit) {
  PERMLLM_ASSERT(value.size() <= limit);
  number(field, static_cast<std::uint32_t>(value.size()));
  append(value.data(), value.size());
}

void Reader::refuse(const char* field, const std::string& why) const {
  throw Error(Code::malformed, message_ + "." + field, why);
}

const std::uint8_t* Reader::need(const char* field, std::size_t size) {
  if (size > rest_.size()) {
    refuse(field, fmt::format("{} bytes are left, the plan says {}", rest_.size(), size));
  }
  const std::uint8_t* at = rest_.data();
  rest_ = rest_.subspan(size);
  return at;
}

void Reader::bound(const char* field, std::size_t value, std::size_t limit) const {
  if (value > limit) refuse(field, fmt::format("length {}, the limit is {}", value, limit));
}

void Reader::text(const char* field, std::string& value, std::size_t limit) {
  std::uint32_t size = 0;
  number(field, size);
  bound(field, size, limit);
  const std::uint8_t* from = need(field, size);
  value.assign(reinterpret_cast<const char*>(from), size);
}

void Reader::raw(const char* field, Bytes& value, std::size_t limit) {
  std::uint32_t size = 0;
  number(field, size);
  bound(field, size, limit);
  const std::uint8_t* from = need(field, size);
  value.assign(from, from + size);
}

void Reader::finish() const {
  if (!rest_.empty()) {
    throw Error(Code::malformed, message_, fmt::format("{} bytes more than the plan says", rest_.size()));
  }
}

}  // namespace permllm
