#include "ring/matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "permllm/error.h"
#include "ring/kernels.h"

namespace permllm {
namespace {

using kernels::k_tile_rows;

std::size_t checked_count(std::size_t x_words, std::size_t cols, std::size_t y_words, std::size_t rows) {
  PERMLLM_ASSERT(cols > 0 && x_words % cols == 0);
  const std::size_t n = x_words / cols;
  PERMLLM_ASSERT(y_words == n * rows);
  return n;
}

// x in signed 16-bit limbs: [pair][limb][2], an odd last column padded with 0.
std::vector<std::int16_t> to_limbs(std::span<const Word> x, std::size_t limbs) {
  std::vector<std::int16_t> out((x.size() + 1) / 2 * limbs * 2);
  for (std::size_t c = 0; c < x.size(); ++c) {
    Word rest = x[c];
    for (std::size_t l = 0; l < limbs; ++l) {
      const auto limb = static_cast<std::int16_t>(static_cast<std::uint16_t>(rest));
      out[((c / 2) * limbs + l) * 2 + c % 2] = limb;
      rest = (rest - static_cast<Word>(std::int64_t{limb})) >> 16;
    }
  }
  return out;
}

}  // namespace

int IntMatrix::fraction_bits(float largest_magnitude) {
  if (!(largest_magnitude > 0)) return 0;
  const float limit = static_cast<float>((1 << (k_weight_bits - 1)) - 1);
  return static_cast<int>(std::floor(std::log2(limit / largest_magnitude)));
}

IntMatrix::IntMatrix(const FloatMatrix& weights, int frac, Executor& executor)
    : rows_(weights.rows()), cols_(weights.cols()), frac_(frac) {
  const std::size_t blocks = (rows_ + k_tile_rows - 1) / k_tile_rows, pairs = (cols_ + 1) / 2;
  tiles_ = std::make_unique<Tile[]>(blocks * pairs);
  const float scale = std::ldexp(1.0f, frac);
  constexpr std::int32_t k_limit = (1 << (k_weight_bits - 1)) - 1;
  executor.parallel(blocks, [&](std::size_t block) {
    std::vector<std::int32_t> integers(2 * pairs);
    Tile* to = tiles_.get() + block * pairs;
    for (std::size_t r = 0; r < k_tile_rows && block * k_tile_rows + r < rows_; ++r) {
      const float* row = weights.values.data() + (block * k_tile_rows + r) * cols_;
      std::int32_t most = 0;
      for (std::size_t c = 0; c < cols_; ++c) {
        // Adding 1.5 2^23 leaves the integer nearest to a small number in the low bits, in a loop that vectorises.
        const std::int32_t integer = std::bit_cast<std::int32_t>(row[c] * scale + 12582912.0f) - std::bit_cast<std::int32_t>(12582912.0f);
        integers[c] = integer;
        most = std::max(most, integer < 0 ? -integer : integer);
      }
      PERMLLM_ASSERT(most <= k_limit);
      for (std::size_t p = 0; p < pairs; ++p) {
        to[p].weights[2 * r] = static_cast<std::int16_t>(integers[2 * p]);
        to[p].weights[2 * r + 1] = static_cast<std::int16_t>(integers[2 * p + 1]);
      }
    }
  });
}

int IntMatrix::at(std::size_t row, std::size_t col) const {
  const std::size_t pairs = (cols_ + 1) / 2;
  return tiles_[row / k_tile_rows * pairs + col / 2].weights[row % k_tile_rows * 2 + col % 2];
}

void IntMatrix::row(std::size_t r, std::span<std::int16_t> out) const {
  PERMLLM_ASSERT(r < rows_ && out.size() == cols_);
  for (std::size_t c = 0; c < cols_; ++c) out[c] = static_cast<std::int16_t>(at(r, c));
}

void product(const IntMatrix& w, Ring ring, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  const std::size_t n = checked_count(x.size(), w.cols(), y.size(), w.rows()), limbs = kernels::limbs_of(ring);
  std::vector<std::vector<std::int16_t>> vectors(n);
  for (std::size_t i = 0; i < n; ++i) vectors[i] = to_limbs(x.subspan(i * w.cols(), w.cols()), limbs);
  const std::size_t pairs = (w.cols() + 1) / 2, blocks = (w.rows() + k_tile_rows - 1) / k_tile_rows;
  // A task is a few blocks: enough of them that threads end together, few enough that handing them out costs nothing.
  const std::size_t step = std::max<std::size_t>(1, blocks / (8 * executor.threads()));
  executor.parallel((blocks + step - 1) / step, [&](std::size_t task) {
    for (std::size_t block = task * step; block < std::min(blocks, (task + 1) * step); ++block) {
      const std::size_t rows = std::min(k_tile_rows, w.rows() - block * k_tile_rows);
      for (std::size_t i = 0; i < n; ++i) {
        Word out[k_tile_rows];
        kernels::int_block(w.tiles() + block * pairs * 2 * k_tile_rows, pairs, vectors[i].data(), ring, out);
        for (std::size_t r = 0; r < rows; ++r) y[i * w.rows() + block * k_tile_rows + r] = out[r] & ring.mask();
      }
    }
  });
}

void product(const FloatMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor) {
  const std::size_t n = checked_count(x.size(), w.cols(), y.size(), w.rows());
  constexpr std::size_t k_rows = 32;
  executor.parallel((w.rows() + k_rows - 1) / k_rows, [&](std::size_t task) {
    for (std::size_t r = task * k_rows; r < std::min(w.rows(), (task + 1) * k_rows); ++r) {
      for (std::size_t i = 0; i < n; i += 4) {
        // Fewer than four vectors are left: the first stands in for the missing.
        const std::size_t count = std::min<std::size_t>(4, n - i);
        float out[4];
        kernels::float_row(w.values.data() + r * w.cols(), x.data() + i * w.cols(), count == 4 ? w.cols() : 0, w.cols(), out);
        if (count == 4) {
          for (std::size_t k = 0; k < 4; ++k) y[(i + k) * w.rows() + r] = out[k];
        } else {
          for (std::size_t k = 0; k < count; ++k) {
            kernels::float_row(w.values.data() + r * w.cols(), x.data() + (i + k) * w.cols(), 0, w.cols(), out);
            y[(i + k) * w.rows() + r] = out[0];
          }
        }
      }
    }
  });
}

void product(const IntMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor) {
  const std::size_t n = checked_count(x.size(), w.cols(), y.size(), w.rows());
  const std::size_t pairs = (w.cols() + 1) / 2, blocks = (w.rows() + k_tile_rows - 1) / k_tile_rows, fours = (n + 3) / 4;
  std::vector<float> grouped(fours * pairs * 8);  // [four][pair][4][2]
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t c = 0; c < w.cols(); ++c) {
      grouped[((i / 4) * pairs + c / 2) * 8 + (i % 4) * 2 + c % 2] = x[i * w.cols() + c];
    }
  }
  const float unit = std::ldexp(1.0f, -w.frac());
  executor.parallel(blocks, [&](std::size_t block) {
    const std::size_t rows = std::min(k_tile_rows, w.rows() - block * k_tile_rows);
    for (std::size_t four = 0; four < fours; ++four) {
      float out[4 * k_tile_rows];
      kernels::int_block_float(w.tiles() + block * pairs * 2 * k_tile_rows, pairs, grouped.data() + four * pairs * 8, out);
      for (std::size_t k = 0; k < std::min<std::size_t>(4, n - four * 4); ++k) {
        for (std::size_t r = 0; r < rows; ++r) {
          y[(four * 4 + k) * w.rows() + block * k_tile_rows + r] = out[k * k_tile_rows + r] * unit;
        }
      }
    }
  });
}

}  // namespace permllm
