#include "ring/matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "permllm/error.h"
#include "ring/kernels.h"

namespace permllm {
namespace {

using kernels::k_group_bytes;

// Rows of streamed or stored ring matrices that one task multiplies: about 24 KB, so that they stay in the first cache.
constexpr std::size_t k_tile_bytes = 24 << 10;

std::size_t checked_count(std::size_t x_words, std::size_t cols, std::size_t y_words, std::size_t rows) {
  PERMLLM_ASSERT(cols > 0 && x_words % cols == 0);
  const std::size_t n = x_words / cols;
  PERMLLM_ASSERT(y_words == n * rows);
  return n;
}

// x as [group][col][lane] in the container's type, the last group padded with 0.
template <class T>
std::vector<std::uint8_t> to_groups(std::span<const Word> x, std::size_t n, std::size_t cols) {
  constexpr std::size_t k_group = k_group_bytes / sizeof(T);
  const std::size_t groups = (n + k_group - 1) / k_group;
  std::vector<std::uint8_t> out(groups * cols * k_group_bytes + k_group_bytes);
  auto* to = reinterpret_cast<T*>(out.data());
  for (std::size_t b = 0; b < n; ++b) {
    T* lane = to + (b / k_group) * cols * k_group + b % k_group;
    for (std::size_t c = 0; c < cols; ++c) lane[c * k_group] = static_cast<T>(x[b * cols + c]);
  }
  return out;
}

// Vectors are loaded from aligned memory.
struct AlignedBytes {
  explicit AlignedBytes(std::vector<std::uint8_t> data) : bytes(std::move(data)) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
    const std::size_t shift = (k_group_bytes - address % k_group_bytes) % k_group_bytes;
    std::memmove(bytes.data() + shift, bytes.data(), bytes.size() - k_group_bytes);
    begin = bytes.data() + shift;
  }
  std::vector<std::uint8_t> bytes;
  const std::uint8_t* begin;
};

// rows(first, count, scratch) -> the bytes of `count` rows.
template <class Rows>
void ring_product(std::size_t rows, std::size_t cols, Ring ring, std::span<const Word> x, std::span<Word> y,
                  Executor& executor, const Rows& rows_at) {
  const std::size_t n = checked_count(x.size(), cols, y.size(), rows), container = container_bytes(ring);
  if (n == 0) return;
  const std::size_t lanes = k_group_bytes / container, groups = (n + lanes - 1) / lanes, batch = groups * lanes;
  const AlignedBytes grouped(container == 2   ? to_groups<std::uint16_t>(x, n, cols)
                             : container == 4 ? to_groups<std::uint32_t>(x, n, cols)
                                              : to_groups<std::uint64_t>(x, n, cols));
  const std::size_t row_bytes = cols * container;
  const std::size_t tile = std::max<std::size_t>(4, k_tile_bytes / row_bytes / 4 * 4);
  executor.parallel((rows + tile - 1) / tile, [&](std::size_t task) {
    const std::size_t first = task * tile, count = std::min(tile, rows - first);
    std::vector<std::uint8_t> scratch;
    Words out(count * batch);
    kernels::ring_rows(rows_at(first, count, scratch), container, count, cols, grouped.begin, groups, out.data());
    for (std::size_t b = 0; b < n; ++b) {
      for (std::size_t r = 0; r < count; ++r) y[b * rows + first + r] = out[r * batch + b] & ring.mask();
    }
  });
}

}  // namespace

RingMatrix::RingMatrix(std::size_t rows, std::size_t cols, Ring ring)
    : rows_(rows), cols_(cols), ring_(ring), bytes_(rows * cols * container_bytes(ring)) {}

void product(const RingMatrix& v, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  const std::size_t row_bytes = v.cols() * container_bytes(v.ring());
  ring_product(v.rows(), v.cols(), v.ring(), x, y, executor,
               [&](std::size_t first, std::size_t, auto&) { return v.bytes().data() + first * row_bytes; });
}

void product(const StreamedMatrix& u, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  const std::size_t row_bytes = u.cols() * container_bytes(u.ring());
  ring_product(u.rows(), u.cols(), u.ring(), x, y, executor,
               [&](std::size_t first, std::size_t count, std::vector<std::uint8_t>& scratch) {
                 scratch.resize(count * row_bytes);
                 u.fill(first * row_bytes, scratch);
                 return static_cast<const std::uint8_t*>(scratch.data());
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

}  // namespace permllm
