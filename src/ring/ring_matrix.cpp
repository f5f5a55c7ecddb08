#include "ring/ring_matrix.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "permllm/error.h"
#include "ring/pack.h"
#include "ring/ring_kernels.h"

namespace permllm {
namespace {

using kernels::group_lanes;
using kernels::k_group_bytes;
using kernels::step_bytes;

// A block of steps of up to four groups stays in the first cache while the rows of a panel pass by; a panel, the rows that
// one task multiplies and as many of their columns as follow each other without a gap, stays in the second.
constexpr std::size_t k_block_steps = 64, k_panel_rows = 64, k_panel_bytes = 4096;
// Rows of a panel lie apart by more than its bytes: at a power of two they would share a few sets of the cache.
constexpr std::size_t k_panel_stride = k_panel_bytes + k_group_bytes;

struct alignas(k_group_bytes) Line {
  std::uint8_t bytes[k_group_bytes];
};
using Lines = std::unique_ptr<Line[]>;
Lines lines(std::size_t n) { return std::make_unique_for_overwrite<Line[]>(n); }

struct Batched {
  Ring ring;
  std::size_t container = 0, rows = 0, cols = 0, vectors = 0;
  std::size_t lanes() const { return group_lanes(container); }
  std::size_t groups() const { return (vectors + lanes() - 1) / lanes(); }
  // Words of a step.
  std::size_t step() const { return step_bytes(container) / container; }
  std::size_t steps() const { return (cols + step() - 1) / step(); }
  // Columns of a panel: whole blocks, and panels of about one width.
  std::size_t panel_cols() const {
    const std::size_t panels = (cols * container + k_panel_bytes - 1) / k_panel_bytes, block = k_block_steps * step();
    return ((cols + panels - 1) / panels + block - 1) / block * block;
  }
};

Batched batched(std::size_t rows, std::size_t cols, Ring ring, std::size_t x_words, std::size_t y_words) {
  PERMLLM_ASSERT(cols > 0 && x_words % cols == 0);
  const std::size_t n = x_words / cols;
  PERMLLM_ASSERT(y_words == n * rows);
  return {ring, container_bytes(ring), rows, cols, n};
}

// Step s of one vector: what RingTile calls a lane.
template <std::size_t kContainer>
auto step_of(const Word* x, std::size_t s, std::size_t cols) {
  if constexpr (kContainer == 2) {
    const Word next = 2 * s + 1 < cols ? x[2 * s + 1] : 0;
    return static_cast<std::uint32_t>((x[2 * s] & 0xffff) | next << 16);
  } else if constexpr (kContainer == 4) {
    return static_cast<std::uint32_t>(x[s]);
  } else {
    return x[s];
  }
}

// Steps [first, first + count) of x as [group][step][lane]; vectors that the last group lacks are 0.
// Eight steps of one vector at a time: they share a line of x, and their places stay in the first cache for the next vector.
template <std::size_t kContainer>
void group_block(const Batched& p, std::span<const Word> x, std::size_t first, std::size_t count, Line* out) {
  using T = decltype(step_of<kContainer>(nullptr, 0, 0));
  constexpr std::size_t k_lanes = group_lanes(kContainer);
  for (std::size_t g = 0; g < p.groups(); ++g) {
    T* to = reinterpret_cast<T*>(out + g * count);
    const std::size_t vectors = std::min(k_lanes, p.vectors - g * k_lanes);
    if (vectors < k_lanes) std::memset(to, 0, count * k_group_bytes);
    for (std::size_t s = 0; s < count; s += 8) {
      for (std::size_t lane = 0; lane < vectors; ++lane) {
        const Word* from = x.data() + (g * k_lanes + lane) * p.cols;
        for (std::size_t i = s; i < std::min(count, s + 8); ++i) {
          to[i * k_lanes + lane] = step_of<kContainer>(from, first + i, p.cols);
        }
      }
    }
  }
}

// x in blocks of k_block_steps steps, each [group][step][lane], one after the other.
Lines grouped(const Batched& p, std::span<const Word> x, Executor& executor) {
  Lines out = lines(p.groups() * p.steps());
  executor.parallel((p.steps() + k_block_steps - 1) / k_block_steps, [&](std::size_t block) {
    const std::size_t first = block * k_block_steps, count = std::min(k_block_steps, p.steps() - first);
    Line* to = out.get() + first * p.groups();
    switch (p.container) {
      case 2:
        return group_block<2>(p, x, first, count, to);
      case 4:
        return group_block<4>(p, x, first, count, to);
      default:
        return group_block<8>(p, x, first, count, to);
    }
  });
  return out;
}

// Sums [row][group][lane] into rows [first, first + count) of every vector of y.
template <class T>
void scatter(const Batched& p, const Line* sums, std::size_t first, std::size_t count, std::span<Word> y) {
  constexpr std::size_t k_lanes = k_group_bytes / sizeof(T);
  const T* from = reinterpret_cast<const T*>(sums);
  for (std::size_t b = 0; b < p.vectors; ++b) {
    Word* to = y.data() + b * p.rows + first;
    for (std::size_t r = 0; r < count; ++r) to[r] = Word{from[r * p.groups() * k_lanes + b]} & p.ring.mask();
  }
}

// Words of Ring::bytes() into words of the container.
void widen(const Batched& p, const std::uint8_t* from, std::size_t n, std::uint8_t* to) {
  const std::size_t bytes = p.ring.bytes();
  if (bytes == p.container) {
    std::memcpy(to, from, n * bytes);
  } else if (p.container == sizeof(Word)) {
    unpack(from, p.ring, std::span(reinterpret_cast<Word*>(to), n));
  } else {  // 1 byte or 3: no model's rings by now
    for (std::size_t i = 0; i < n; ++i, from += bytes, to += p.container) {
      std::uint32_t word = *from;
      if (bytes == 3) word |= std::uint32_t{from[1]} << 8 | std::uint32_t{from[2]} << 16;
      std::memcpy(to, &word, p.container);
    }
  }
}

// Where the rows of a matrix come from. fill: words [first, first + n) of a row, in containers. at: where `rows` rows lie in main
// memory from that word on, `row_bytes` apart, or null.
struct Stored {
  const RingMatrix& v;
  const Batched& p;
  std::size_t word_bytes() const { return p.ring.bytes(); }
  std::size_t row_bytes() const { return p.cols * word_bytes(); }
  void fill(std::size_t row, std::size_t first, std::size_t n, std::uint8_t* out) const {
    widen(p, v.bytes().data() + row * row_bytes() + first * word_bytes(), n, out);
  }
  const std::uint8_t* at(std::size_t row, std::size_t rows, std::size_t first) const {
    return row + rows <= p.rows ? v.bytes().data() + row * row_bytes() + first * word_bytes() : nullptr;
  }
};
struct Expanded {
  const StreamedMatrix& u;
  const Batched& p;
  std::size_t word_bytes() const { return p.ring.bytes(); }
  std::size_t row_bytes() const { return p.cols * word_bytes(); }
  void fill(std::size_t row, std::size_t first, std::size_t n, std::uint8_t* out) const {
    const std::uint64_t offset = row * row_bytes() + first * word_bytes();
    if (word_bytes() == p.container) return u.fill(offset, std::span(out, n * word_bytes()));
    std::uint8_t words[k_panel_bytes];
    u.fill(offset, std::span(words, n * word_bytes()));
    widen(p, words, n, out);
  }
  const std::uint8_t* at(std::size_t, std::size_t, std::size_t) const { return nullptr; }
};

// What one thread needs beside x and y. The panel begins as zeros: rows that it lacks are multiplied as well.
struct Workspace {
  explicit Workspace(const Batched& p)
      : panel(std::make_unique<Line[]>(k_panel_rows * k_panel_stride / sizeof(Line))),
        sums(lines(k_panel_rows * p.groups())) {}
  Lines panel, sums;
};

// Rows [first, first + count) of y; `after` is the row that follows on this thread.
template <class Source>
void panel_product(const Batched& p, std::size_t first, std::size_t count, std::size_t after, const Lines& x,
                   std::span<Word> y, Workspace& work, const Source& source) {
  const std::size_t step = p.step(), width = p.panel_cols();
  auto* panel = work.panel[0].bytes;
  std::memset(work.sums.get(), 0, k_panel_rows * p.groups() * sizeof(Line));
  for (std::size_t col = 0; col < p.cols; col += width) {
    const std::size_t cols = std::min(width, p.cols - col);
    for (std::size_t r = 0; r < count; ++r) source.fill(first + r, col, cols, panel + r * k_panel_stride);
    const bool more = col + width < p.cols;
    const std::uint8_t* ahead = source.at(more ? first : after, k_panel_rows, more ? col + width : 0);
    const std::size_t steps = (cols + step - 1) / step;
    for (std::size_t s = 0; s < steps; s += k_block_steps) {
      const std::size_t block = std::min(k_block_steps, steps - s);
      kernels::ring_tile({.ring = p.ring,
                          .container = p.container,
                          .u = panel + s * step_bytes(p.container),
                          .stride = k_panel_stride,
                          .rows = (count + kernels::k_row_step - 1) / kernels::k_row_step * kernels::k_row_step,
                          .steps = block,
                          .x = x.get() + (col / step + s) * p.groups(),
                          .groups = p.groups(),
                          .ahead = ahead == nullptr ? nullptr : ahead + s * step * source.word_bytes(),
                          .ahead_stride = source.row_bytes(),
                          .ahead_bytes = block * step * source.word_bytes()},
                         work.sums.get());
    }
  }
  if (p.container == 8) {
    scatter<std::uint64_t>(p, work.sums.get(), first, count, y);
  } else {
    scatter<std::uint32_t>(p, work.sums.get(), first, count, y);
  }
}

template <class Source>
void ring_product(const Batched& p, std::span<const Word> x, std::span<Word> y, Executor& executor,
                  const Source& source) {
  if (p.vectors == 0) return;
  const Lines groups = grouped(p, x, executor);
  std::atomic<std::size_t> next{0};
  const auto take = [&] { return next.fetch_add(k_panel_rows); };
  executor.parallel(std::min<std::size_t>((p.rows + k_panel_rows - 1) / k_panel_rows, executor.threads()),
                    [&](std::size_t) {
                      Workspace work(p);
                      for (std::size_t first = take(), after = 0; first < p.rows; first = after) {
                        after = take();
                        panel_product(p, first, std::min(k_panel_rows, p.rows - first), after, groups, y, work, source);
                      }
                    });
}

}  // namespace

RingMatrix::RingMatrix(std::size_t rows, std::size_t cols, Ring ring)
    : rows_(rows), cols_(cols), ring_(ring), owned_(rows * cols * ring.bytes()) {}

RingMatrix::RingMatrix(std::size_t rows, std::size_t cols, Ring ring, std::span<const std::uint8_t> bytes)
    : rows_(rows), cols_(cols), ring_(ring), viewed_(bytes) {
  PERMLLM_ASSERT(bytes.size() == rows * cols * ring.bytes());
}

void product(const RingMatrix& v, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  const Batched p = batched(v.rows(), v.cols(), v.ring(), x.size(), y.size());
  ring_product(p, x, y, executor, Stored{v, p});
}

void product(const StreamedMatrix& u, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  const Batched p = batched(u.rows(), u.cols(), u.ring(), x.size(), y.size());
  ring_product(p, x, y, executor, Expanded{u, p});
}

}  // namespace permllm
