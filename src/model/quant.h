// The tensor types of GGUF files: their names, the size of their blocks, and their values as real numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ring/int_matrix.h"

namespace permllm {

struct GgufTensor {
  std::string name;
  std::vector<std::uint64_t> shape;  // as in the file: the first is the fastest (a row's length)
  std::uint32_t type = 0;            // ggml type number
  std::span<const std::uint8_t> data;
  bool mapped = false;  // data is part of a mapped file
  std::uint64_t elements() const;
};

// A row is a whole number of blocks; a block is so many bytes in the file and so many numbers.
struct BlockSize {
  std::size_t bytes = 0, elements = 0;
};
BlockSize block_size(std::uint32_t type);        // zeros where the type is not supported
const char* ggml_type_name(std::uint32_t type);  // "Q4_1"; "type 99" is formatted by the caller when nullptr

// Row r of a two-dimensional (or one-dimensional, r = 0) tensor as real numbers, the same to the bit on every processor.
// Types F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K,
// Q6_K, IQ4_NL, IQ4_XS. Errors: unsupported, naming tensor and type.
void dequantize_row(const GgufTensor& tensor, std::uint64_t row, std::span<float> out);

// How the codes of a type lie best in an IntMatrix; none of types that are numbers, not codes.
std::optional<CodeForm> code_form(std::uint32_t type);
// Row r of a tensor that has codes: they, and for each k_least_span of them a scale and the weight of code 0.
void codes_of_row(const GgufTensor& tensor, std::uint64_t row, CodedRow& out);

}  // namespace permllm
