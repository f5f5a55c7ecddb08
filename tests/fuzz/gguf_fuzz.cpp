// GGUF files: metadata by every accessor, config, first and last row of every tensor.
#include "fuzz/target.h"
#include "model/load.h"
#include "permllm/error.h"
#include "support/gguf_writer.h"

namespace permllm::test {
namespace {

template <class Access>
void attempt(const Access& access) {
  try {
    access();
  } catch (const Error&) {
  }
}

void walk(const ModelFile& model) {
  const Gguf& file = *model.gguf();
  for (const auto& entry : file.metadata()) {
    const std::string& key = entry.first;
    attempt([&] { file.string(key); });
    attempt([&] { file.number(key); });
    attempt([&] { file.real(key); });
    attempt([&] { file.boolean(key); });
    attempt([&] { file.strings(key); });
    attempt([&] { file.numbers(key); });
    attempt([&] { file.reals(key); });
  }
  attempt([&] { read_config(model); });
  for (const GgufTensor& tensor : file.tensors()) {
    attempt([&] {
      model.tensor(tensor.name, tensor.shape);
      if (block_size(tensor.type).bytes == 0) dequantize_row(tensor, 0, {});  // refused
      std::vector<float> row(tensor.shape[0]);
      dequantize_row(tensor, 0, row);
      dequantize_row(tensor, tensor.elements() / tensor.shape[0] - 1, row);
    });
  }
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  GgufWriter values;
  values.scalar("u8", 0, std::uint8_t{1});
  values.scalar("i8", 1, std::int8_t{-1});
  values.scalar("u16", 2, std::uint16_t{1});
  values.scalar("i16", 3, std::int16_t{-1});
  values.scalar("i32", 5, std::int32_t{-1});
  values.boolean("bool", true);
  values.text("text", "words");
  values.scalar("u64", 10, std::uint64_t{1});
  values.scalar("i64", 11, std::int64_t{-1});
  values.scalar("f64", 12, 0.5);
  values.texts("texts", {"a", "", "of more than fifteen bytes"});
  values.numbers("numbers", {1, -1});
  values.reals("reals", {0.5f});
  values.scalars("bytes", 0, std::vector<std::uint8_t>{1, 2, 3});
  values.scalars("flags", 7, std::vector<std::uint8_t>{0, 1});
  values.number("general.alignment", 64);

  GgufWriter model;
  model.text("general.architecture", "llama");
  model.number("llama.block_count", 1);
  model.number("llama.context_length", 16);
  model.number("llama.embedding_length", 4);
  model.number("llama.feed_forward_length", 4);
  model.number("llama.attention.head_count", 2);
  model.number("llama.attention.head_count_kv", 1);
  model.number("llama.attention.key_length", 2);
  model.number("llama.rope.dimension_count", 2);
  model.real("llama.rope.freq_base", 10000);
  model.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  model.tensor("token_embd.weight", {4, 3}, std::vector<float>(12, 1.0f));

  std::vector<std::vector<std::uint8_t>> files{values.finish(), model.finish()};
  for (std::uint32_t type = 0; type < 48; ++type) {
    const BlockSize block = block_size(type);
    if (block.bytes == 0) continue;
    GgufWriter tensors;
    tensors.tensor("a", {block.elements, 2}, type, std::vector<std::uint8_t>(2 * block.bytes, 0x3c));
    tensors.tensor("b", {2, 1, 2, 2}, std::vector<float>(8, 1.0f));
    files.push_back(tensors.finish());
  }
  return files;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  test::attempt([&] { test::walk(Gguf::parse({data, data + size})); });
  return 0;
}
