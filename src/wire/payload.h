// The fields of a message as bytes: written, read, and counted before they are read. A struct lists its fields once, in visit(), for all three.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "permllm/error.h"
#include "ring/pack.h"
#include "wire/link.h"

namespace permllm {

// Words of one ring. Empty with a count: what a receiver expects.
template <class W>
struct BlockOf {
  Ring ring;
  std::size_t count = 0;
  std::vector<W> words;
};
using Block = BlockOf<Word>;
template <class W>
BlockOf<W> block(Ring ring, std::vector<W> words) {
  const std::size_t count = words.size();
  return {ring, count, std::move(words)};
}
template <class W = Word>
BlockOf<W> expect(Ring ring, std::size_t count) {
  return {ring, count, {}};
}

// A message whose size the plan tells to the byte goes in frames of so many bytes, the last with the rest: so no frame of a pass is longer,
// however long a prompt or large a model.
inline constexpr std::size_t k_cut_bytes = std::size_t{2} << 20;

// Counts the bytes that a message has at most, field by field, in what a receiver expects.
class Bound {
 public:
  template <std::unsigned_integral T>
  void number(const char*, const T&) {
    add(sizeof(T));
  }
  void real(const char*, const double&) { add(sizeof(double)); }
  void text(const char*, const std::string&, std::size_t limit) { vary(limit); }
  template <class W>
  void block(const char*, const BlockOf<W>& value) {
    add(value.count * value.ring.bytes());
  }
  void raw(const char*, const Bytes&, std::size_t limit) { vary(limit); }
  template <class T, class Each>
  void list(const char*, std::vector<T>&, std::size_t limit, Each each) {
    Bound one;
    T any{};
    each(one, any);
    vary(limit * one.bytes());
  }
  void add(std::size_t bytes) { bytes_ += bytes; }
  std::size_t bytes() const { return bytes_; }
  // A message of exactly bytes(), in several frames.
  bool is_cut() const { return fixed_ && bytes_ > k_cut_bytes; }

 private:
  void vary(std::size_t limit) {
    add(sizeof(std::uint32_t) + limit);
    fixed_ = false;
  }
  std::size_t bytes_ = 0;
  bool fixed_ = true;
};

// Appends fields to a payload, little-endian, fixed widths.
class Writer {
 public:
  template <std::unsigned_integral T>
  void number(const char*, const T& value) {
    append(&value, sizeof value);
  }
  void real(const char*, const double& value) { append(&value, sizeof value); }
  void text(const char*, const std::string& value, std::size_t limit);
  template <class W>
  void block(const char*, const BlockOf<W>& value) {
    PERMLLM_ASSERT(value.words.size() == value.count);
    words(std::span<const W>(value.words), value.ring);
  }
  void words(std::span<const Word> values, Ring ring);
  void words(std::span<const Wide> values, Ring ring);
  void raw(const char*, const Bytes& value, std::size_t limit);
  // A list: its length, then each element's own fields. The writer only reads `values`.
  template <class T, class Each>
  void list(const char* field, std::vector<T>& values, std::size_t limit, Each each) {
    PERMLLM_ASSERT(values.size() <= limit);
    number(field, static_cast<std::uint32_t>(values.size()));
    for (T& value : values) each(*this, value);
  }
  std::size_t size() const { return bytes_.size(); }
  Bytes take() { return std::move(bytes_); }

 private:
  void append(const void* data, std::size_t size);
  Bytes bytes_;
};

// Reads fields in the same order; cannot pass the payload's end. Every Error names `message.field`.
class Reader {
 public:
  Reader(std::string message, std::span<const std::uint8_t> payload) : message_(std::move(message)), rest_(payload) {}

  template <std::unsigned_integral T>
  void number(const char* field, T& value) {
    std::memcpy(&value, need(field, sizeof value), sizeof value);
  }
  void real(const char* field, double& value) { std::memcpy(&value, need(field, sizeof value), sizeof value); }
  void text(const char* field, std::string& value, std::size_t limit);
  template <class W>
  void block(const char* field, BlockOf<W>& value) {
    value.words = words<W>(field, value.count, value.ring);
  }
  template <class W = Word>
  std::vector<W> words(const char* field, std::size_t count, Ring ring) {
    const std::uint8_t* from = need(field, count * ring.bytes());  // before anything is allocated
    std::vector<W> values(count);
    unpack(from, ring, std::span<W>(values));
    return values;
  }
  void raw(const char* field, Bytes& value, std::size_t limit);
  template <class T, class Each>
  void list(const char* field, std::vector<T>& values, std::size_t limit, Each each) {
    std::uint32_t count = 0;
    number(field, count);
    bound(field, count, std::min(limit, rest_.size()));  // an element takes at least a byte
    values.resize(count);
    for (T& value : values) each(*this, value);
  }
  std::size_t left() const { return rest_.size(); }
  // The payload must end here.
  void finish() const;
  [[noreturn]] void refuse(const char* field, const std::string& why) const;

 private:
  const std::uint8_t* need(const char* field, std::size_t size);
  void bound(const char* field, std::size_t value, std::size_t limit) const;
  std::string message_;
  std::span<const std::uint8_t> rest_;
};

template <class Io>
void visit_flag(Io& io, const char* field, bool& value) {
  auto number = static_cast<std::uint8_t>(value);
  io.number(field, number);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (number > 1) io.refuse(field, std::to_string(number) + ", expected 0 or 1");
    value = number != 0;
  }
}

}  // namespace permllm
