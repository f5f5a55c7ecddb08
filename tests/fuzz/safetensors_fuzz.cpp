// safetensors files, and JSON texts as config.json is one: every tensor's first and last row.
#include "fuzz/target.h"
#include "model/safetensors.h"
#include "permllm/error.h"
#include "support/small_model.h"

namespace permllm::test {

std::vector<std::vector<std::uint8_t>> seeds() {
  const std::string halves =
      R"({"h":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}})";
  return {safetensors({{"a", small_tensor("a", {2, 3})}, {"b", small_tensor("b", {2, 1, 2})}}),
          safetensors(halves, FileBytes(8, 0x3c)), safetensors("{}", {}),
          bytes_of(R"({"num_layers":28,"auto_map":{"AutoConfig":"x"},"list":[1,-2,3.5e1,true,null,"\u00e9"]})")};
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  try {
    for (const GgufTensor& tensor : parse_safetensors({data, size})) {
      std::vector<float> row(tensor.shape[0]);
      dequantize_row(tensor, 0, row);
      dequantize_row(tensor, tensor.elements() / tensor.shape[0] - 1, row);
    }
  } catch (const Error&) {
  }
  try {
    parse_json({data, size}, "text");
  } catch (const Error&) {
  }
  return 0;
}
