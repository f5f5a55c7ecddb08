#include "session/product_keys.h"

#include <fmt/format.h>

#include <cstring>

namespace permllm {

Words secret_rows(const ReadableStream& stream, std::uint32_t id, std::size_t rows) {
  Bytes bytes(rows * sizeof(Word));
  stream.fill(id, 0, bytes);
  Words s(rows);
  std::memcpy(s.data(), bytes.data(), bytes.size());
  for (Word& word : s) word = below_check_prime(word);
  return s;
}

std::uint32_t matrix_number(const Plan& plan, const LinearShape& shape) {
  const auto stored = static_cast<std::uint32_t>(plan.config.stored_layers());
  const std::uint32_t first = shape.layer % stored * 4;
  switch (shape.site) {
    case Site::qkv:
      return first;
    case Site::o:
      return first + 1;
    case Site::up:
      return first + 2;
    case Site::down:
      return first + 3;
    default:
      PERMLLM_ASSERT(shape.site == Site::head);
      return 4 * stored;
  }
}

void make_product_keys(const IntWeights& weights, const Plan& plan, const Seed& seed, Executor& executor,
                       const std::function<void(ProductKeyWords)>& each) {
  PERMLLM_ASSERT(plan.open());
  const ReadableStream stream(seed);
  for_each_matrix(weights, plan, [&](std::uint32_t id, const LinearShape& shape, const IntMatrix& w) {
    const Combination of = combine(secret_rows(stream, id, shape.rows), w, executor);
    Words words{of.longest_row};
    words.insert(words.end(), of.sum.begin(), of.sum.end());
    each({block(Ring{64}, std::move(words))});
  });
}

ProductKeys read_product_keys(const Plan& plan, const Seed& seed,
                              const std::function<ProductKeyWords(ProductKeyWords)>& each) {
  PERMLLM_ASSERT(plan.open());
  ProductKeys keys{seed, {}};
  const ReadableStream stream(seed);
  const auto none = no_weights(plan.config);
  for_each_matrix(none, plan, [&](std::uint32_t id, const LinearShape& shape, NoMatrix) {
    const Words words = each({expect(Ring{64}, shape.cols + 1)}).words.words;
    ProductKey& key = keys.matrices.emplace_back();
    key.s = secret_rows(stream, id, shape.rows);
    key.longest_row = words[0];
    key.combined.assign(words.begin() + 1, words.end());
    for (const Word word : key.combined) {
      if (word >= k_check_prime)
        throw Error(Code::malformed, "ProductKeyWords.words",
                    fmt::format("a number of matrix {} is not below 2^61 - 1", id));
    }
  });
  return keys;
}

std::uint64_t product_key_bytes(const Plan& plan) {
  std::uint64_t words = 0;
  const auto none = no_weights(plan.config);
  for_each_matrix(none, plan, [&](std::uint32_t, const LinearShape& shape, NoMatrix) { words += shape.cols + 1; });
  return words * sizeof(Word);
}

std::size_t product_key_memory(const Plan& plan) {
  std::size_t words = 0;
  const auto none = no_weights(plan.config);
  for_each_matrix(none, plan,
                  [&](std::uint32_t, const LinearShape& shape, NoMatrix) { words += shape.rows + shape.cols; });
  return words * sizeof(Word);
}

}  // namespace permllm
