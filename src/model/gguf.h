// GGUF files, versions 2 and 3, little-endian: metadata and tensors.
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
#include "model/quant.h"
#include "model/weights.h"

namespace permllm {

// A file, or all parts of one that was split, mapped into memory. Every count, length and offset is checked against the file's size before it is used, and no two
// tensors share data. Memory is at most about ten times the size of header, metadata and tensor table. Faults are Error{file or
// unsupported, field, ...} naming the field, e.g. "tensor blk.0.attn_q.weight.offset".
class Gguf {
 public:
  using Value =
      std::variant<bool, std::int64_t, std::uint64_t, double, std::string, std::vector<std::int64_t>,
                   std::vector<std::uint64_t>, std::vector<double>, std::vector<std::string>, std::vector<bool>>;

  using Metadata = std::map<std::string, Value, std::less<>>;

  // Of a split file any part: the others stand beside it, named as they were made (NAME-00001-of-00003.gguf). What the first says of the model is
  // taken, the others add tensors and say nothing else.
  static Gguf open(const std::filesystem::path& path);
  // What open() opens: the file, or all parts of a split one, of which some may be missing.
  static std::vector<std::filesystem::path> files(const std::filesystem::path& path);
  // From memory (tests, fuzzing); the bytes are copied. Of a split file this part alone.
  static Gguf parse(std::vector<std::uint8_t> bytes);
  ~Gguf();
  Gguf(Gguf&&) noexcept;
  Gguf& operator=(Gguf&&) noexcept;

  const Metadata& metadata() const;
  // Typed access: whole numbers and real ones of any width. Errors: file, KEY missing, of another type, negative or too large.
  std::string string(std::string_view key) const;
  std::uint64_t number(std::string_view key) const;
  double real(std::string_view key) const;
  bool boolean(std::string_view key) const;
  std::vector<std::string> strings(std::string_view key) const;
  std::vector<std::int64_t> numbers(std::string_view key) const;
  std::vector<double> reals(std::string_view key) const;
  bool has(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const;

  // SHA-256 of the bytes of the file, or of its parts in their order, hex.
  std::string sha256() const;

 private:
  struct Impl;
  explicit Gguf(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace permllm
