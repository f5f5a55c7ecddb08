#include "ring/int_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "permllm/error.h"
#include "ring/float_matrix.h"
#include "ring/int_kernels.h"

namespace permllm {
namespace {

using kernels::IntBlock;
using kernels::k_block_rows;
using kernels::k_group_cols;
using kernels::k_group_pairs;
using kernels::k_plane_words;

std::int32_t limit_of(int bits) { return (1 << (bits - 1)) - 1; }

std::size_t blocks_of(const IntMatrix& w) { return (w.rows() + k_block_rows - 1) / k_block_rows; }
std::size_t groups_of(const IntMatrix& w) { return (w.cols() + k_group_cols - 1) / k_group_cols; }

IntBlock block_of(const IntMatrix& w, std::size_t block) {
  const std::size_t groups = groups_of(w);
  return {w.packed().data() + block * groups * kernels::group_bytes(w.bits()), groups, w.bits()};
}

std::size_t vectors_in(std::size_t x_words, std::size_t cols, std::size_t y_words, std::size_t rows) {
  PERMLLM_ASSERT(cols > 0 && x_words % cols == 0);
  const std::size_t n = x_words / cols;
  PERMLLM_ASSERT(y_words == n * rows);
  return n;
}

// Eight weights of one row, into or out of the planes of a group: `at` is the row's place in the first plane.
constexpr std::size_t k_plane_bytes = 2 * k_plane_words;

template <int kBits>
void put_group(const std::int16_t* w, std::uint8_t* at) {
  std::uint32_t two[4], planes[3];  // two weights in a number, the left one low
  std::memcpy(two, w, sizeof two);
  if (kBits == 8) {
    for (std::size_t p = 0; p < 2; ++p) planes[p] = (two[2 * p] & 0x00ff00ff) << 8 | (two[2 * p + 1] & 0x00ff00ff);
  } else {
    for (std::size_t p = 0; p < 3; ++p) planes[p] = (two[p] & 0x0fff0fff) << 4 | (two[3] >> (4 * p) & 0x000f000f);
  }
  for (std::size_t p = 0; p < kernels::planes_of(kBits); ++p) std::memcpy(at + p * k_plane_bytes, &planes[p], 4);
}

// Groups of one row, one after the other in `w`; `at` is the row's place in the first.
void put_groups(const std::int16_t* w, std::size_t groups, int bits, std::uint8_t* at) {
  for (std::size_t g = 0; g < groups; ++g, w += k_group_cols, at += kernels::group_bytes(bits))
    bits == 8 ? put_group<8>(w, at) : put_group<12>(w, at);
}

// The integers next to real numbers, and their largest magnitude.
std::int32_t round_weights(std::span<const float> weights, std::int16_t* out) {
  std::int32_t most = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    // Adding 1.5 2^23 leaves the integer nearest to a small number in the low bits, in a loop that vectorises.
    constexpr float k_shift = 12582912.0f;
    const std::int32_t integer =
        std::bit_cast<std::int32_t>(weights[i] + k_shift) - std::bit_cast<std::int32_t>(k_shift);
    out[i] = static_cast<std::int16_t>(integer);
    most = std::max(most, integer < 0 ? -integer : integer);
  }
  return most;
}

// Two weights out of numbers that hold them in the high bits.
void take_two(std::uint32_t both, int shift, std::int16_t* w) {
  w[0] = static_cast<std::int16_t>(static_cast<std::int16_t>(both) >> shift);
  w[1] = static_cast<std::int16_t>(static_cast<std::int32_t>(both) >> (16 + shift));
}

void take_group(const std::uint8_t* at, int bits, std::int16_t* w) {
  std::uint32_t planes[3] = {};
  for (std::size_t p = 0; p < kernels::planes_of(bits); ++p) std::memcpy(&planes[p], at + p * k_plane_bytes, 4);
  if (bits == 8) {
    for (std::size_t p = 0; p < 2; ++p) {
      take_two(planes[p], 8, w + 4 * p);
      take_two((planes[p] & 0x00ff00ff) << 8, 8, w + 4 * p + 2);
    }
  } else {
    constexpr std::uint32_t k_low = 0x000f000f;
    for (std::size_t p = 0; p < 3; ++p) take_two(planes[p], 4, w + 2 * p);
    take_two((planes[0] & k_low) << 4 | (planes[1] & k_low) << 8 | (planes[2] & k_low) << 12, 4, w + 6);
  }
}

}  // namespace

int IntMatrix::fraction_bits(float largest_magnitude, int bits) {
  if (!(largest_magnitude > 0)) return 0;
  constexpr float k_most = 120;  // 2^frac is a float, and its inverse
  return static_cast<int>(
      std::min(k_most, std::floor(std::log2(static_cast<float>(limit_of(bits)) / largest_magnitude))));
}

namespace {

// The bound of `bits` bits: of fewer than 12 the steps are larger.
double times_of(int bits) { return std::ldexp(1.0, 2 * (k_weight_bits - bits)); }

// The sum of the squares of steps 2^max(shift, least).
double steps(std::span<const std::uint8_t> shifts, int least = 0) {
  double sum = 0;
  for (const int shift : shifts) sum += std::ldexp(1.0, 2 * std::max(shift, least));
  return sum;
}

// The mean over lines, rows or columns. shifts: of their steps, at least 2^least; across: the sum over the lines that cross them of the square of
// their steps; unit: the square of a step of 1, in that of the weights.
double noise_of(std::span<const std::uint8_t> shifts, int least, double across, std::span<const double> squares,
                double unit, int bits) {
  double sum = 0;
  for (std::size_t i = 0; i < squares.size(); ++i) {
    const double step = std::ldexp(1.0, 2 * std::max<int>(shifts[i], least)) * across * unit / 12;
    if (squares[i] > 0) sum += std::min(step / squares[i], k_most_noise_of_one * times_of(bits));
  }
  return sum / static_cast<double>(squares.size());
}

// Of both, with so many bits taken from each.
double noise_of(std::span<const std::uint8_t> rows, std::span<const std::uint8_t> columns, int of_rows, int of_columns,
                const WeightStatistics& s, double unit, int bits) {
  return std::max(noise_of(rows, of_rows, steps(columns, of_columns), s.squares_of_rows, unit, bits),
                  noise_of(columns, of_columns, steps(rows, of_rows), s.squares_of_columns, unit, bits));
}

std::vector<std::uint8_t> shifts_of(std::span<const float> largest, int frac, int bits) {
  std::vector<std::uint8_t> shifts;
  for (const float v : largest)
    shifts.push_back(static_cast<std::uint8_t>(v > 0 ? std::max(0, frac - IntMatrix::fraction_bits(v, bits)) : 0));
  return shifts;
}

}  // namespace

WeightScale IntMatrix::scale_of(const WeightStatistics& s, int bits) {
  const int coarsest = fraction_bits(*std::max_element(s.column.begin(), s.column.end()), bits);
  const std::vector<std::uint8_t> no_rows(s.row.size()), no_columns(s.column.size());
  const double bound = k_most_noise * times_of(bits);
  for (int finer = 0; finer <= k_most_shift; ++finer) {
    const int frac = coarsest + finer;
    const double unit = std::ldexp(1.0, -2 * frac);
    const std::vector<std::uint8_t> rows = shifts_of(s.row, frac, bits), columns = shifts_of(s.column, frac, bits);
    if (noise_of(rows, no_columns, 0, 0, s, unit, bits) <= bound) return {frac, {}, finer};
    if (noise_of(no_rows, columns, 0, 0, s, unit, bits) <= bound) return {frac, columns, 0};
  }
  const int frac = coarsest + k_most_shift;
  return {frac + k_most_shift, shifts_of(s.column, frac, bits), k_most_shift};
}

IntMatrix::IntMatrix(std::size_t rows, std::size_t cols, const WeightScale& scale, int bits)
    : rows_(rows),
      cols_(cols),
      frac_(scale.frac),
      bits_(bits),
      shifts_(scale.shifts),
      row_shifts_(rows),
      packed_(packed_bytes(rows, cols, bits)) {
  PERMLLM_ASSERT(takes(bits, cols));
  shifts_.resize(cols);
}

std::size_t IntMatrix::packed_bytes(std::size_t rows, std::size_t cols, int bits) {
  return (rows + k_block_rows - 1) / k_block_rows * ((cols + k_group_cols - 1) / k_group_cols) *
         kernels::group_bytes(bits);
}

IntMatrix::IntMatrix(std::size_t rows, std::size_t cols, int bits, std::span<const std::uint8_t> shifts,
                     std::span<const std::uint8_t> row_shifts, std::span<const std::uint8_t> packed)
    : rows_(rows),
      cols_(cols),
      bits_(bits),
      shifts_(shifts.begin(), shifts.end()),
      row_shifts_(row_shifts.begin(), row_shifts.end()),
      viewed_(packed) {
  PERMLLM_ASSERT(takes(bits, cols) && shifts.size() == cols && row_shifts.size() == rows &&
                 packed.size() == packed_bytes(rows, cols, bits));
}

template <class RowAt>
void IntMatrix::fill(Executor& executor, const RowAt& row_at) {
  const std::size_t groups = groups_of(*this), bytes = kernels::group_bytes(bits_);
  executor.parallel(blocks_of(*this), [&](std::size_t block) {
    std::uint8_t* to = packed_.data() + block * groups * bytes;
    const std::size_t first = block * k_block_rows, rows = std::min(k_block_rows, rows_ - first);
    if (rows < k_block_rows) std::memset(to, 0, groups * bytes);
    std::vector<float> real(cols_);
    std::vector<std::int16_t> row(groups * k_group_cols);
    for (std::size_t r = 0; r < rows; ++r) {
      row_at(first + r, real, row.data());
      put_groups(row.data(), groups, bits_, to + r * 4);
    }
  });
}

IntMatrix IntMatrix::from_rows(std::size_t rows, std::size_t cols, const RealAt& row_at, const WeightScale& scale,
                               Executor& executor, int bits) {
  IntMatrix w(rows, cols, scale, bits);
  std::vector<float> factors(cols);
  for (std::size_t c = 0; c < cols; ++c) factors[c] = std::ldexp(1.0f, w.frac_ - w.shifts_[c]);
  w.fill(executor, [&](std::size_t r, std::span<float> real, std::int16_t* out) {
    row_at(r, real);
    float most = 0;
    for (std::size_t c = 0; c < cols; ++c) most = std::max(most, std::fabs(real[c] *= factors[c]));
    int shift = 0;
    while (std::ldexp(most, -shift) >= static_cast<float>(limit_of(bits)) + 0.5f) ++shift;
    PERMLLM_ASSERT(shift <= scale.most_row_shift);
    w.row_shifts_[r] = static_cast<std::uint8_t>(shift);
    if (shift > 0) {
      const float down = std::ldexp(1.0f, -shift);
      for (float& weight : real) weight *= down;
    }
    PERMLLM_ASSERT(round_weights(real, out) <= limit_of(bits));
  });
  return w;
}

IntMatrix IntMatrix::from_columns(std::size_t rows, std::size_t cols, const RealAt& column_at, int frac,
                                  Executor& executor, int bits) {
  IntMatrix w(rows, cols, {frac}, bits);
  const float scale = std::ldexp(1.0f, frac);
  const std::size_t groups = groups_of(w), bytes = kernels::group_bytes(bits), padded = blocks_of(w) * k_block_rows;
  constexpr std::size_t k_task = 8;  // groups: what a task writes side by side
  executor.parallel((groups + k_task - 1) / k_task, [&](std::size_t task) {
    std::vector<float> column(rows);
    std::vector<std::int16_t> columns(k_group_cols * padded);
    for (std::size_t g = task * k_task; g < std::min(groups, (task + 1) * k_task); ++g) {
      for (std::size_t c = 0; c < k_group_cols; ++c) {
        std::int16_t* out = &columns[c * padded];
        if (g * k_group_cols + c < cols) {
          column_at(g * k_group_cols + c, column);
          for (float& weight : column) weight *= scale;
          PERMLLM_ASSERT(round_weights(column, out) <= limit_of(bits));
        } else {
          std::fill_n(out, rows, std::int16_t{0});
        }
      }
      for (std::size_t r = 0; r < padded; ++r) {
        std::int16_t row[k_group_cols];
        for (std::size_t c = 0; c < k_group_cols; ++c) row[c] = columns[c * padded + r];
        put_groups(row, 1, bits, w.packed_.data() + (r / k_block_rows * groups + g) * bytes + r % k_block_rows * 4);
      }
    }
  });
  return w;
}

IntMatrix::IntMatrix(const FloatMatrix& weights, const WeightScale& scale, Executor& executor, int bits)
    : IntMatrix(from_rows(
          weights.rows(), weights.cols(),
          [&](std::size_t r, std::span<float> out) {
            std::copy_n(&weights.values[r * weights.cols()], weights.cols(), out.begin());
          },
          scale, executor, bits)) {}

IntMatrix IntMatrix::random(std::size_t rows, std::size_t cols, int frac, std::uint64_t seed, Executor& executor,
                            int bits) {
  IntMatrix w(rows, cols, {frac}, bits);
  // The sum of eight random bytes has mean 1020 and deviation 209.
  const auto scale = static_cast<std::int64_t>(std::ldexp(0.02 / 209, frac + 24));
  const std::int64_t limit = limit_of(bits);
  w.fill(executor, [&](std::size_t r, std::span<float>, std::int16_t* out) {
    for (std::size_t c = 0; c < cols; ++c) {
      // Splitmix64 at counter r cols + c.
      std::uint64_t z = seed + (r * cols + c + 1) * 0x9e3779b97f4a7c15u;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      z ^= z >> 31;
      const std::uint64_t sums = (z & 0x00ff00ff00ff00ffu) + (z >> 8 & 0x00ff00ff00ff00ffu);
      const auto bell = static_cast<std::int64_t>(sums * 0x0001000100010001u >> 48) - 1020;
      out[c] = static_cast<std::int16_t>(std::clamp((bell * scale + (1 << 23)) >> 24, -limit, limit));
    }
  });
  return w;
}

std::int32_t IntMatrix::at(std::size_t row, std::size_t col) const {
  return kernels::scalar::weight(block_of(*this, row / k_block_rows), row % k_block_rows, col) *
         (1 << (shifts_[col] + row_shifts_[row]));
}

void IntMatrix::row(std::size_t r, std::span<std::int32_t> out, std::size_t first) const {
  PERMLLM_ASSERT(r < rows_ && first <= cols_ && out.size() <= cols_ - first && first % k_group_cols == 0);
  const std::uint8_t* at = block_of(*this, r / k_block_rows).packed +
                           first / k_group_cols * kernels::group_bytes(bits_) + r % k_block_rows * 4;
  for (std::size_t c = 0; c < out.size(); c += k_group_cols, at += kernels::group_bytes(bits_)) {
    std::int16_t group[k_group_cols];
    take_group(at, bits_, group);
    for (std::size_t k = 0; k < std::min(k_group_cols, out.size() - c); ++k)
      out[c + k] = group[k] * (1 << (shifts_[first + c + k] + row_shifts_[r]));
  }
}

std::pair<int, double> IntMatrix::coarsening(int bits, const WeightStatistics& of) const {
  std::pair<int, double> best{0, INFINITY};
  for (int of_rows = 0; of_rows <= bits; ++of_rows) {
    const double noise = noise_of(row_shifts_, shifts_, of_rows, bits - of_rows, of, 1, bits_);
    if (noise < best.second) best = {of_rows, noise};
  }
  return best;
}

WeightStatistics IntMatrix::statistics() const {
  WeightStatistics of{{}, {}, std::vector<double>(rows_), std::vector<double>(cols_)};
  std::vector<std::int32_t> w(cols_);
  for (std::size_t r = 0; r < rows_; ++r) {
    row(r, w);
    for (std::size_t c = 0; c < cols_; ++c) {
      const double square = static_cast<double>(w[c]) * w[c];
      of.squares_of_rows[r] += square;
      of.squares_of_columns[c] += square;
    }
  }
  return of;
}

std::vector<double> IntMatrix::noise() const {
  const int spare =
      *std::max_element(shifts_.begin(), shifts_.end()) + *std::max_element(row_shifts_.begin(), row_shifts_.end());
  const WeightStatistics of = statistics();
  std::vector<double> noise;
  for (int bits = 0; bits <= spare; ++bits) noise.push_back(coarsening(bits, of).second);
  return noise;
}

int IntMatrix::needless_bits() const {
  const std::vector<double> with = noise();
  const double target = std::max(k_most_noise * times_of(bits_), 1.25 * with[0]);
  int bits = 0;
  while (bits + 1 < static_cast<int>(with.size()) && with[static_cast<std::size_t>(bits) + 1] <= target) ++bits;
  return bits;
}

void IntMatrix::coarsen(int bits, Executor& executor) {
  if (bits == 0) return;
  const int of_rows = coarsening(bits, statistics()).first;
  IntMatrix coarse(rows_, cols_, {frac_ - bits, {}, 0}, bits_);
  const auto less = [](std::vector<std::uint8_t> shifts, int taken) {
    for (std::uint8_t& shift : shifts) shift = static_cast<std::uint8_t>(std::max(0, shift - taken));
    return shifts;
  };
  coarse.shifts_ = less(shifts_, bits - of_rows);
  coarse.row_shifts_ = less(row_shifts_, of_rows);
  coarse.fill(executor, [&](std::size_t r, std::span<float> real, std::int16_t* out) {
    std::vector<std::int32_t> integers(cols_);
    row(r, integers);
    for (std::size_t c = 0; c < cols_; ++c)
      real[c] = std::ldexp(static_cast<float>(integers[c]), -bits - coarse.shifts_[c] - coarse.row_shifts_[r]);
    PERMLLM_ASSERT(round_weights(real, out) <= limit_of(bits_));
  });
  *this = std::move(coarse);
}

namespace {

// Vectors in the kernel's order: [pair][vector][limb], padded with 0 to whole groups. The columns' shifts are done here: to
// the kernels a matrix is its integers of 12 or 8 bits.
void to_limbs(const IntMatrix& w, std::span<const Word* const> x, std::size_t limbs, std::uint32_t* out) {
  const std::size_t vectors = x.size();
  // x + bias has limbs of 2^15 more than the signed limbs of x: carries go where borrows would.
  constexpr Word k_bias = 0x8000800080008000u;
  for (std::size_t v = 0; v < vectors; ++v) {
    const Word* from = x[v];
    std::uint32_t* to = out + v * limbs;
    for (std::size_t c = 0; c < w.cols(); c += 2, to += vectors * limbs) {
      const Word left = ((from[c] << w.shift(c)) + k_bias) ^ k_bias;
      const Word right = c + 1 < w.cols() ? ((from[c + 1] << w.shift(c + 1)) + k_bias) ^ k_bias : 0;
      for (std::size_t l = 0; l < limbs; ++l) {
        to[l] = static_cast<std::uint32_t>((left >> (16 * l) & 0xffff) | (right >> (16 * l) & 0xffff) << 16);
      }
    }
  }
}

// Vectors that one call of the kernel takes together.
struct Batch {
  std::size_t first, count;
};

std::vector<Batch> batches_of(Ring ring, std::size_t n) {
  std::vector<Batch> batches;
  for (std::size_t first = 0; first < n; first += batches.back().count) {
    batches.push_back({first, kernels::int_vectors(ring, n - first)});
  }
  return batches;
}

}  // namespace

namespace {

// Vectors that are multiplied in one turn: beyond it a vector gains next to nothing by company, and others wait.
constexpr std::size_t k_together = 16;

// One caller's vectors, one after the other.
struct Vectors {
  std::span<const Word> x;
  std::span<Word> y;
};

void multiply(const IntMatrix& w, Ring ring, std::span<const Word* const> x, std::span<Word* const> y, unsigned threads,
              const Executor::Parallel& parallel) {
  const std::vector<Batch> batches = batches_of(ring, x.size());
  const std::size_t limbs = kernels::limbs_of(ring), stride = groups_of(w) * k_group_pairs * limbs;  // of one vector
  std::vector<std::uint32_t> cut(x.size() * stride);
  parallel(batches.size(), [&](std::size_t i) {
    to_limbs(w, x.subspan(batches[i].first, batches[i].count), limbs, cut.data() + batches[i].first * stride);
  });
  // A task is a few blocks: enough of them that threads end together, few enough that handing them out costs nothing.
  const std::size_t blocks = blocks_of(w), step = std::max<std::size_t>(1, blocks / (8 * threads));
  parallel((blocks + step - 1) / step, [&](std::size_t task) {
    std::vector<Word> out(k_block_rows * batches.front().count);
    for (std::size_t block = task * step; block < std::min(blocks, (task + 1) * step); ++block) {
      const std::size_t first = block * k_block_rows, rows = std::min(k_block_rows, w.rows() - first);
      for (const Batch& b : batches) {
        kernels::int_block(block_of(w, block), cut.data() + b.first * stride, b.count, ring, out.data());
        for (std::size_t i = 0; i < b.count; ++i) {
          Word* to = y[b.first + i] + first;
          for (std::size_t r = 0; r < rows; ++r)
            to[r] = out[i * k_block_rows + r] << w.row_shift(first + r) & ring.mask();
        }
      }
    }
  });
}

}  // namespace

void product(const IntMatrix& w, Ring ring, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  const std::size_t n = vectors_in(x.size(), w.cols(), y.size(), w.rows());
  for (std::size_t first = 0; first < n; first += k_together) {
    const std::size_t count = std::min(k_together, n - first);
    Vectors own{x.subspan(first * w.cols(), count * w.cols()), y.subspan(first * w.rows(), count * w.rows())};
    executor.together({&w, ring.bits}, count, k_together, &own,
                      [&](const Executor::Parallel& parallel, std::span<void* const> shares) {
                        std::vector<const Word*> from;
                        std::vector<Word*> to;
                        for (void* share : shares) {
                          const auto& vectors = *static_cast<const Vectors*>(share);
                          for (std::size_t i = 0; i < vectors.x.size() / w.cols(); ++i) {
                            from.push_back(&vectors.x[i * w.cols()]);
                            to.push_back(&vectors.y[i * w.rows()]);
                          }
                        }
                        multiply(w, ring, from, to, executor.threads(), parallel);
                      });
  }
}

void product(const IntMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor) {
  const std::size_t n = vectors_in(x.size(), w.cols(), y.size(), w.rows()), fours = (n + 3) / 4;
  const std::size_t stride = groups_of(w) * k_group_cols * 4;
  std::vector<float> grouped(fours * stride);  // [four][pair][4][2]
  std::vector<float> factors(w.cols());
  for (std::size_t c = 0; c < w.cols(); ++c) factors[c] = static_cast<float>(1 << w.shift(c));
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t c = 0; c < w.cols(); ++c) {
      grouped[i / 4 * stride + c / 2 * 8 + i % 4 * 2 + c % 2] = x[i * w.cols() + c] * factors[c];
    }
  }
  executor.parallel(blocks_of(w), [&](std::size_t block) {
    const std::size_t first = block * k_block_rows, rows = std::min(k_block_rows, w.rows() - first);
    float units[k_block_rows];
    for (std::size_t r = 0; r < rows; ++r) units[r] = std::ldexp(1.0f, w.row_shift(first + r) - w.frac());
    for (std::size_t i = 0; i < n; i += 4) {
      float out[4 * k_block_rows];
      kernels::int_block_float(block_of(w, block), grouped.data() + i / 4 * stride, out);
      for (std::size_t k = 0; k < std::min<std::size_t>(4, n - i); ++k) {
        for (std::size_t r = 0; r < rows; ++r) y[(i + k) * w.rows() + first + r] = out[k * k_block_rows + r] * units[r];
      }
    }
  });
}

}  // namespace permllm
