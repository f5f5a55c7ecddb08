#include "model/embedding.h"

namespace permllm {

EmbeddingTable embedding_table(const IntMatrix& transposed) { return embedding_rows(transposed, 0, transposed.cols()); }

EmbeddingTable embedding_rows(const IntMatrix& transposed, std::size_t first, std::size_t count) {
  const std::size_t width = transposed.rows();
  EmbeddingTable table(width * count);
  std::vector<std::int32_t> row(count);
  for (std::size_t d = 0; d < width; ++d) {
    transposed.row(d, row, first);
    for (std::size_t k = 0; k < count; ++k) table[k * width + d] = static_cast<std::int16_t>(row[k]);
  }
  return table;
}

}  // namespace permllm
