// The provider's weights and its online product.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "ring/executor.h"
#include "ring/large_bytes.h"
#include "ring/machines.h"
#include "ring/packing.h"
#include "ring/ring.h"

namespace permllm {

struct FloatMatrix;

// How real weights become integers: W ~ integer 2^-frac, those of column c multiples of 2^shifts[c], those of a row multiples of the
// least power of two, 2^most_row_shift at most, with which it fits.
struct WeightScale {
  int frac = 0;
  std::vector<std::uint8_t> shifts = {};  // by column; empty: none
  int most_row_shift = 0;
};
// The largest shift, of rows and of columns, that is asked for: each bit of it costs the product's ring one.
constexpr int k_most_shift = 6;

// The noise of rounding: of each row and of each column, the square of what rounding adds over the square of the weights; of rows and of columns the
// mean (one that is nearly all zeros counts as k_most_noise_of_one at most), and of both the greater: inputs are of very different size where gains
// are folded in. Below k_most_noise it is not heard in what a model says (docs/models.md).
constexpr double k_most_noise = 1e-6, k_most_noise_of_one = 100 * k_most_noise;

// What is known of real weights before they become integers.
struct WeightStatistics {
  std::vector<float> row, column;                           // largest magnitudes
  std::vector<double> squares_of_rows, squares_of_columns;  // sums
};

// A row of a file's codes: scale code + least is the real weight, scale and least those of each k_least_span columns.
constexpr std::size_t k_least_span = 16;
struct CodedRow {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, least;
};

// W ~ integer 2^-frac; the integers in row r and column c are those of `bits` bits (13, 12 or 8), |m| < 2^(bits - 1), times
// 2^(row_shift(r) + shift(c)): norm gains, folded in, make columns of very different size, and some neurons are far larger than all others.
// Made once, at load time, in the kernels' packed order (ring/int_kernels.h), or a view of what was. Where several machines hold it together each
// has some of its rows, and scales, shifts and statistics of all (ring/machines.h); machine 0 multiplies by, and reads, all of it.
class IntMatrix {
 public:
  IntMatrix() = default;
  // Largest frac such that every |w| 2^frac <= 2^(bits - 1) - 1, at most 120.
  static int fraction_bits(float largest_magnitude, int bits = k_weight_bits);
  // The fewest fraction bits, and the steps by row or by column, with which the noise of rounding is at most k_most_noise (or what `bits` bits
  // allow); where neither is enough by itself, both, as fine as they get.
  static WeightScale scale_of(const WeightStatistics& statistics, int bits = k_weight_bits);
  // Writes row (or column) i of the real weights. Called from several threads.
  using RealAt = std::function<void(std::size_t i, std::span<float> out)>;
  // Rounds each weight times 2^(frac - shifts), which must be at most 2^(bits - 1) - 1 in magnitude. The real weights are never
  // together in memory.
  static IntMatrix from_rows(std::size_t rows, std::size_t cols, const RealAt& row_at, const WeightScale& scale,
                             Executor& executor, int bits = k_weight_bits, Machines* machines = nullptr);
  // Likewise, of codes times gains of the columns (empty: 1), in integers of k_coded_bits; without zeros, those in the middle of the codes are 0.
  // statistics: of the weights, gains included. None, where scales are too different for words of 16 bits, or a span's values too far from 0.
  using CodesAt = std::function<void(std::size_t row, CodedRow& out)>;
  static std::optional<IntMatrix> from_codes(std::size_t rows, std::size_t cols, const CodeForm& form,
                                             const CodesAt& codes_at, std::span<const float> gain,
                                             const WeightStatistics& statistics, Executor& executor,
                                             Machines* machines = nullptr);
  // largest: the magnitudes of the rows. finer: fraction bits beside those of the greatest, for rows that are smaller; k_most_shift at most.
  static IntMatrix from_columns(std::size_t rows, std::size_t cols, const RealAt& column_at,
                                std::span<const float> largest, int finer, Executor& executor,
                                int bits = k_weight_bits);
  IntMatrix(const FloatMatrix& weights, const WeightScale& scale, Executor& executor, int bits = k_weight_bits);
  // Bell-shaped weights with a deviation near 0.02, clamped to the range: for measurements without a model.
  static IntMatrix random(std::size_t rows, std::size_t cols, int frac, std::uint64_t seed, Executor& executor,
                          int bits = k_weight_bits, Machines* machines = nullptr);

  // Whether there are matrices of so many columns: sums of more columns would pass the kernels' 48 bits, and spans are whole.
  static constexpr bool takes(const Packing& packing, std::size_t cols) {
    return cols <= std::size_t{1} << 20 && (!packing.codes || cols % packing.codes->span == 0);
  }
  static std::size_t packed_bytes(std::size_t rows, std::size_t cols, const Packing& packing);
  // Another party's, for products in a ring: views `packed`, which outlives it, at a multiple of 64 bytes. Whatever the bytes are, products stay
  // within them. shifts: by column and by row, k_most_shift each at most.
  IntMatrix(std::size_t rows, std::size_t cols, const Packing& packing, std::span<const std::uint8_t> shifts,
            std::span<const std::uint8_t> row_shifts, std::span<const std::uint8_t> packed);

  std::size_t rows() const { return rows_; }
  std::size_t cols() const { return cols_; }
  // Null: this machine has all rows.
  Machines* machines() const { return machines_; }
  const Machines::Rows& own_rows() const { return own_; }
  // By which machines name it to each other.
  std::uint32_t number() const { return number_; }
  void set_number(std::uint32_t number) { number_ = number; }
  int frac() const { return frac_; }
  int bits() const { return packing_.bits; }
  const Packing& packing() const { return packing_; }
  int shift(std::size_t col) const { return shifts_[col]; }
  int row_shift(std::size_t row) const { return row_shifts_[row]; }
  std::span<const std::uint8_t> shifts() const { return shifts_; }
  std::span<const std::uint8_t> row_shifts() const { return row_shifts_; }
  // The noise with 0, 1, ... fraction bits less, up to as many as are there for small rows and columns alone. Not of a view or of columns.
  std::vector<double> noise() const;
  // How many of these can go: the noise stays below k_most_noise, or nearly what it is.
  int needless_bits() const;
  // Takes so many of these away, rounding again what needs it; scales of codes alone.
  void coarsen(int bits, Executor& executor);
  std::int32_t at(std::size_t row, std::size_t col) const;
  // None of the integers is larger in magnitude.
  std::int32_t most() const;
  // Row r as plain integers, in order, from column `first` on, a multiple of 8.
  void row(std::size_t r, std::span<std::int32_t> out, std::size_t first = 0) const;
  // All blocks of this machine's rows, one after the other, for the kernels.
  std::span<const std::uint8_t> packed() const {
    return viewed_.empty() ? std::span<const std::uint8_t>(packed_) : viewed_;
  }
  // Of what one machine would have packed, packed_bytes(rows(), cols(), packing()), the bytes from `offset` on.
  void packed(std::uint64_t offset, std::span<std::uint8_t> out) const;

 private:
  friend class RoundedMatrix;
  IntMatrix(std::size_t rows, std::size_t cols, const WeightScale& scale, const Packing& packing,
            Machines* machines = nullptr);
  bool has(std::size_t row) const { return row >= own_.first && row < own_.end; }
  // row_at(r, scratch, out): the integers of row r; scratch is cols() real numbers.
  template <class RowAt>
  void fill(Executor& executor, const RowAt& row_at);

  // How many of `bits` bits are best taken from rows, and the noise then.
  std::pair<int, double> coarsening(int bits) const;
  void coarsen_own(int bits, Executor& executor);
  void coarsen_scales(std::span<const int> down, std::span<const int> row_down, Executor& executor);
  void row_of_codes(std::size_t r, std::span<std::int32_t> out, std::size_t first) const;

  std::size_t rows_ = 0, cols_ = 0;
  Machines* machines_ = nullptr;
  Machines::Rows own_;
  std::uint32_t number_ = 0;
  int frac_ = 0;
  Packing packing_;
  std::vector<std::uint8_t> shifts_, row_shifts_;
  WeightStatistics of_integers_;  // the sums of squares alone
  LargeBytes packed_;             // read in order: a page's end would stop the processor's prefetch
  std::span<const std::uint8_t> viewed_;
};

// y = W x in the ring (x and y: 64-bit words of which the ring's low bits count; words of x need not be reduced, y is
// reduced). The provider's online product: one vector is bound by memory, many by arithmetic. Callers who come with the same
// matrix share one read of it; many vectors are multiplied in several turns of the executor, others' in between.
void product(const IntMatrix& w, Ring ring, std::span<const Word> x, std::span<Word> y, Executor& executor);
// y = W x in real numbers, W the integers times 2^-frac: the reference engine on the provider's weights.
void product(const IntMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor);
// Likewise, of this machine's rows alone: vectors y of so many entries.
void product_of_own_rows(const IntMatrix& w, Ring ring, std::span<const Word> x, std::span<Word> y, Executor& executor);
void product_of_own_rows(const IntMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor);

// Weights for products that need not be exact: of a model that only guesses (user/draft_model.h). x is rounded to words of one limb, of 9 bits and
// more above the noise in matrices of models, so that a product takes the least that the kernels can do: one read of the weights.
class RoundedMatrix {
 public:
  RoundedMatrix() = default;
  explicit RoundedMatrix(IntMatrix weights);  // no view
  std::size_t rows() const { return w_.rows(); }
  std::size_t cols() const { return w_.cols(); }
  const IntMatrix& integers() const { return w_; }

 private:
  // Words of x where int_block wants them of one of `vectors` vectors; what one unit of them is in x.
  float round(std::span<const float> x, std::size_t vectors, std::uint32_t* limbs) const;
  friend void product(const RoundedMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor);

  IntMatrix w_;
  double norm_ = 0;                   // none of its rows of integers is longer, their steps taken away
  std::vector<float> units_, steps_;  // of a row's integers, in the real weights; of columns
};
void product(const RoundedMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor);

}  // namespace permllm
