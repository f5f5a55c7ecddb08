#include "model/quant.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "permllm/error.h"

// Run under several values of PERMLLM_SIMD, this compares every target with the reference.
namespace permllm::test {
namespace {

std::vector<std::uint8_t> from_hex(const std::string& hex) {
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::vector<std::uint32_t> bits_of_row(const GgufTensor& tensor, std::uint64_t row) {
  std::vector<float> values(tensor.shape[0]);
  dequantize_row(tensor, row, values);
  std::vector<std::uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), 4 * values.size());
  return bits;
}

nlohmann::json golden() {
  std::ifstream in(std::string(PERMLLM_TEST_DATA) + "/quant_golden.json");
  return nlohmann::json::parse(in);
}

TEST(Quant, values_equal_the_reference_package_to_the_bit) {
  const auto entries = golden();
  for (const auto& [name, entry] : entries.items()) {
    const std::vector<std::uint8_t> raw = from_hex(entry.at("raw")), want = from_hex(entry.at("values"));
    std::vector<std::uint32_t> bits(want.size() / 4);
    std::memcpy(bits.data(), want.data(), want.size());
    EXPECT_EQ(bits_of_row({name, {bits.size(), 1}, entry.at("type"), raw}, 0), bits) << name;
    // The same blocks as rows of their own.
    const std::size_t width = entry.at("block_elements");
    for (std::size_t r = 0; r < bits.size() / width; ++r) {
      const auto begin = bits.begin() + static_cast<std::ptrdiff_t>(r * width);
      EXPECT_EQ(bits_of_row({name, {width, bits.size() / width}, entry.at("type"), raw}, r),
                std::vector(begin, begin + static_cast<std::ptrdiff_t>(width)))
          << name << ", row " << r;
    }
  }
}

// The codes of a row, with their scales, are the weights that the row is: the form says how many bits they need and which of them is 0.
TEST(Quant, codes_are_the_weights_of_their_row) {
  const auto entries = golden();
  std::size_t coded = 0;
  for (const auto& [name, entry] : entries.items()) {
    const std::uint32_t type = entry.at("type");
    const std::optional<CodeForm> form = code_form(type);
    if (!form) continue;
    ++coded;
    EXPECT_TRUE(Packing::of(Packing(*form).byte())) << name;
    const std::vector<std::uint8_t> raw = from_hex(entry.at("raw"));
    const std::size_t cols = entry.at("block_elements"), rows = raw.size() / block_size(type).bytes;
    for (std::size_t r = 0; r < rows; ++r) {
      const GgufTensor tensor{name, {cols, rows}, type, raw};
      std::vector<float> values(cols);
      dequantize_row(tensor, r, values);
      CodedRow row{std::vector<std::uint8_t>(cols), std::vector<float>(cols / k_least_span),
                   std::vector<float>(cols / k_least_span)};
      codes_of_row(tensor, r, row);
      for (std::size_t c = 0; c < cols; ++c) {
        ASSERT_LT(row.codes[c], 1 << form->bits) << name;
        const float scale = row.scale[c / k_least_span], least = row.least[c / k_least_span];
        if (!std::isfinite(values[c])) continue;
        const float size = std::fabs(scale) * static_cast<float>(1 << form->bits) + std::fabs(least);
        ASSERT_NEAR(scale * static_cast<float>(row.codes[c]) + least, values[c], 1e-6f * size)
            << name << " " << r << " " << c;
        if (!form->zeros) {
          ASSERT_EQ(least, -scale * static_cast<float>(1 << (form->bits - 1))) << name;
        } else if (c % form->span != 0) {
          ASSERT_EQ(scale, row.scale[c / form->span * form->span / k_least_span]) << name;
        }
      }
    }
  }
  EXPECT_EQ(coded, 12u);  // all but F32, F16 and BF16
}

TEST(Quant, sizes_of_blocks_equal_the_reference_package) {
  const auto entries = golden();
  std::size_t supported = 0;
  for (std::uint32_t type = 0; type < 100; ++type) {
    const BlockSize size = block_size(type);
    if (size.bytes == 0) continue;
    ++supported;
    ASSERT_NE(ggml_type_name(type), nullptr) << type;
    ASSERT_TRUE(entries.contains(ggml_type_name(type))) << ggml_type_name(type) << " has no golden values";
    const auto& entry = entries.at(ggml_type_name(type));
    EXPECT_EQ(entry.at("type"), type);
    EXPECT_EQ(entry.at("block_bytes"), size.bytes) << ggml_type_name(type);
    EXPECT_EQ(entry.at("block_elements"), size.elements) << ggml_type_name(type);
  }
  EXPECT_EQ(supported, entries.size());
}

TEST(Quant, every_half_is_the_number_that_it_means) {
  std::vector<std::uint8_t> raw(2 * 65536);
  for (std::uint32_t half = 0; half < 65536; ++half) {
    raw[2 * half] = static_cast<std::uint8_t>(half);
    raw[2 * half + 1] = static_cast<std::uint8_t>(half >> 8);
  }
  std::vector<float> got(65536);
  dequantize_row({"halves", {65536}, 1, raw}, 0, got);
  for (std::uint32_t half = 0; half < 65536; ++half) {
    const int exponent = static_cast<int>(half >> 10 & 31), mantissa = static_cast<int>(half & 1023);
    if (exponent == 31 && mantissa != 0) {
      ASSERT_TRUE(std::isnan(got[half])) << half;
      continue;
    }
    float want = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
    if (exponent == 31) want = std::numeric_limits<float>::infinity();
    if (half >= 32768) want = -want;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(got[half]), std::bit_cast<std::uint32_t>(want)) << half;
  }
}

TEST(Quant, an_unsupported_type_is_refused_by_name) {
  const auto error_of = [](std::uint32_t type) -> std::string {
    std::vector<float> row(256);
    try {
      dequantize_row({"blk.7.ffn_up.weight", {256, 1}, type, {}}, 0, row);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::unsupported);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of(16),
            "tensor blk.7.ffn_up.weight: type IQ2_XXS is not supported; supported are F32, F16, Q4_0, Q4_1, Q5_0, "
            "Q5_1, Q8_0, "
            "Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, BF16");
  EXPECT_EQ(error_of(39).find("tensor blk.7.ffn_up.weight: type MXFP4 is not"), 0u);
  EXPECT_EQ(error_of(4).find("tensor blk.7.ffn_up.weight: type number 4 is not"), 0u);  // removed from the format
  EXPECT_EQ(error_of(4000000000).find("tensor blk.7.ffn_up.weight: type number 4000000000 is not"), 0u);
}

}  // namespace
}  // namespace permllm::test
