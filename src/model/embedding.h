// The embedding table, as profile open hands it to its users.
#pragma once

#include <cstdint>
#include <vector>

#include "ring/int_matrix.h"

namespace permllm {

// The embedding table as integers of the plan's embed_frac fraction bits: [token][width].
using EmbeddingTable = std::vector<std::int16_t>;
EmbeddingTable embedding_table(const IntMatrix& transposed);  // width x vocab, as the provider holds it
// Of `count` tokens from `first` on, a multiple of 8.
EmbeddingTable embedding_rows(const IntMatrix& transposed, std::size_t first, std::size_t count);

}  // namespace permllm
