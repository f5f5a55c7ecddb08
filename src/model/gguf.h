// GGUF files, versions 2 and 3, little-endian: metadata, tensors, dequantisation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/config.h"
#include "model/weights.h"

namespace permllm {

struct GgufTensor {
  std::string name;
  std::vector<std::uint64_t> shape;  // as in the file: the first is the fastest (a row's length)
  std::uint32_t type = 0;            // ggml type number
  std::span<const std::uint8_t> data;
  std::uint64_t elements() const;
};

// A file mapped into memory. Every count, length and offset is checked against the file's size before it is used;
// faults are Error{file, field, ...} naming the field, e.g. "tensor blk.0.attn_q.weight.offset".
class Gguf {
 public:
  using Value = std::variant<bool, std::int64_t, std::uint64_t, double, std::string, std::vector<std::int64_t>,
                             std::vector<std::uint64_t>, std::vector<double>, std::vector<std::string>, std::vector<bool>>;

  static Gguf open(const std::filesystem::path& path);
  // From memory (tests, fuzzing); the bytes are copied.
  static Gguf parse(std::vector<std::uint8_t> bytes);
  ~Gguf();
  Gguf(Gguf&&) noexcept;
  Gguf& operator=(Gguf&&) noexcept;

  const std::map<std::string, Value, std::less<>>& metadata() const;
  // Typed access. Errors: file, "KEY: missing" or "KEY: has type X, expected Y".
  std::string string(std::string_view key) const;
  std::uint64_t number(std::string_view key) const;
  double real(std::string_view key) const;
  std::vector<std::string> strings(std::string_view key) const;
  std::vector<std::int64_t> numbers(std::string_view key) const;
  bool has(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const;
  const GgufTensor* find(std::string_view name) const;  // nullptr when absent
  // Errors: file when absent or of another shape (names both).
  const GgufTensor& tensor(std::string_view name, std::span<const std::uint64_t> shape) const;

  // SHA-256 of the file's bytes, hex.
  std::string sha256() const;

 private:
  struct Impl;
  explicit Gguf(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

const char* ggml_type_name(std::uint32_t type);  // "Q4_1"; "type 99" is formatted by the caller when nullptr
// Row r of a two-dimensional (or one-dimensional, r = 0) tensor as real numbers. Types F32, F16, Q8_0, Q4_0, Q4_1.
// Errors: unsupported, naming tensor and type.
void dequantize_row(const GgufTensor& tensor, std::uint64_t row, std::span<float> out);

}  // namespace permllm
