#include "model/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/chat_format.h"
#include "model/tokenizer.h"
#include "net/link.h"
#include "support/gguf_writer.h"

namespace permllm::test {
namespace {

Bytes from_hex(const std::string& hex) {
  Bytes bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) bytes.push_back(static_cast<std::uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

// Everything that is done with a file before a session.
void use(std::vector<std::uint8_t> bytes) {
  Executor executor(1);
  const Gguf file = Gguf::parse(std::move(bytes));
  const Config config = read_config(file);
  const Tokenizer tokenizer(Vocabulary::read(file));
  ChatFormat::from_template(tokenizer.vocabulary().chat_template).encode(tokenizer, {{"user", "the"}});
  load_int_weights(file, executor);
}

std::string error_of(std::vector<std::uint8_t> bytes, Code code) {
  try {
    use(std::move(bytes));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(error.exit_status(), 2);
    return error.what();
  }
  return "no error";
}

TEST(Gguf, reads_the_shape_of_the_test_model) {
  const Config c = read_config(Gguf::open(PERMLLM_TEST_MODEL));
  EXPECT_EQ(c.layers, 30u);
  EXPECT_EQ(c.width, 576u);
  EXPECT_EQ(c.heads, 9u);
  EXPECT_EQ(c.kv_heads, 3u);
  EXPECT_EQ(c.head_dim, 64u);
  EXPECT_EQ(c.ff, 1536u);
  EXPECT_EQ(c.vocab, 49152u);
  EXPECT_EQ(c.rope_base, 100000.0);
  EXPECT_TRUE(c.tied_head);
}

TEST(Gguf, dequantises_as_the_reference_package_does) {
  std::ifstream in(std::string(PERMLLM_TEST_DATA) + "/quant_golden.json");
  const auto golden = nlohmann::json::parse(in);
  for (const auto& [name, entry] : golden.items()) {
    const Bytes raw = from_hex(entry.at("hex"));
    const std::vector<float> want = entry.at("values");
    const GgufTensor tensor{name, {want.size(), 1}, entry.at("type"), raw};
    std::vector<float> got(want.size());
    dequantize_row(tensor, 0, got);
    EXPECT_EQ(got, want) << name;
  }
}

TEST(Gguf, a_tiny_model_is_taken) { EXPECT_NO_THROW(use(tiny_llama().finish())); }

TEST(Gguf, refusals_name_what_is_wrong) {
  EXPECT_NE(error_of(tiny_llama({.architecture = "mamba"}).finish(), Code::unsupported).find("\"mamba\" is not supported; \"llama\" is"), std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.tokenizer = "t5"}).finish(), Code::unsupported).find("tokenizer.ggml.model"), std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.pre = "deepseek-llm"}).finish(), Code::unsupported).find("\"deepseek-llm\""), std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.chat_template = "USER: {{ x }}"}).finish(), Code::unsupported).find("begins with \"USER: {{ x }}"), std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.tensor_type = 12}).finish(), Code::unsupported).find("tensor blk.0.attn_q.weight: type Q4_K"), std::string::npos);
  EXPECT_NE(error_of(tiny_llama({.kv_heads = 3}).finish(), Code::file).find("3 does not divide 4 heads"), std::string::npos);
  EXPECT_NE(error_of({'G', 'G', 'U', 'X', 0, 0, 0, 0}, Code::file).find("not a GGUF file"), std::string::npos);
  EXPECT_NE(error_of({}, Code::file).find("truncated"), std::string::npos);
}

// Every truncation, and every byte of header, metadata and tensor table set to several values: an Error or a model, never
// a crash, and no allocation beyond the file's size.
TEST(Gguf, a_spoilt_file_gives_an_error_or_a_model) {
  GgufWriter writer = tiny_llama({.layers = 1});
  const std::vector<std::uint8_t> whole = writer.finish();
  std::size_t errors = 0;
  const auto attempt = [&](std::vector<std::uint8_t> bytes) {
    try {
      const Gguf file = Gguf::parse(std::move(bytes));
      read_config(file);
      const Tokenizer tokenizer(Vocabulary::read(file));
      std::vector<float> row;
      for (const GgufTensor& tensor : file.tensors()) {
        row.resize(tensor.shape[0]);
        dequantize_row(tensor, 0, row);
      }
    } catch (const Error&) {
      ++errors;
    }
  };
  for (std::size_t length = 0; length < writer.info_end(); length += 3) attempt({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)});
  EXPECT_GT(errors, writer.info_end() / 4);
  for (std::size_t at = 0; at < writer.info_end(); ++at) {
    for (const int value : {0x00, 0x7f, 0xff}) {
      auto bytes = whole;
      bytes[at] = static_cast<std::uint8_t>(value);
      attempt(std::move(bytes));
    }
  }
}

}  // namespace
}  // namespace permllm::test
