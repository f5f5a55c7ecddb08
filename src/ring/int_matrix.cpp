#include "ring/int_matrix.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/mutex.h"
#include "permllm/error.h"
#include "ring/float_matrix.h"
#include "ring/int_kernels.h"

namespace permllm {
namespace {

using kernels::CodeBlock;
using kernels::IntBlock;
using kernels::k_block_rows;
using kernels::k_group_cols;
using kernels::k_group_pairs;
using kernels::k_plane_words;

std::int32_t limit_of(int bits) { return (1 << (bits - 1)) - 1; }

// Of the rows that this machine has, which are counted from the first of them.
std::size_t blocks_of(const IntMatrix& w) { return (w.own_rows().count() + k_block_rows - 1) / k_block_rows; }
std::size_t groups_of(const IntMatrix& w) { return (w.cols() + k_group_cols - 1) / k_group_cols; }

IntBlock block_of(const IntMatrix& w, std::size_t block) {
  const std::size_t groups = groups_of(w);
  return {w.packed().data() + block * groups * kernels::group_bytes(w.bits()), groups, w.bits()};
}

// Of codes: the gains of all columns stand first.
std::size_t gain_bytes(std::size_t cols) { return (cols * 2 + 63) / 64 * 64; }
std::size_t code_block_bytes(const CodeForm& form, std::size_t cols) {
  return cols / form.span * kernels::span_bytes(form);
}

CodeBlock code_block_of(const IntMatrix& w, std::size_t block) {
  const CodeForm& form = *w.packing().codes;
  const std::uint8_t* packed = w.packed().data();
  return {packed + gain_bytes(w.cols()) + block * code_block_bytes(form, w.cols()),
          reinterpret_cast<const std::uint32_t*>(packed), form};
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

// Noise that is so many times another is nearly that.
constexpr double k_nearly = 1.25;

// The bound of `bits` bits: of fewer than 12 the steps are larger.
double times_of(int bits) { return std::ldexp(1.0, 2 * std::max(0, k_weight_bits - bits)); }

// The sum of the squares of steps 2^max(shift, least).
double steps(std::span<const std::uint8_t> shifts, int least = 0) {
  double sum = 0;
  for (const int shift : shifts) sum += power_of_two(2 * std::max(shift, least));
  return sum;
}

// The mean over lines, rows or columns. shifts: of their steps, at least 2^least; across: the sum over the lines that cross them of the square of
// their steps; unit: the square of a step of 1, in that of the weights.
double noise_of(std::span<const std::uint8_t> shifts, int least, double across, std::span<const double> squares,
                double unit, int bits) {
  double sum = 0;
  for (std::size_t i = 0; i < squares.size(); ++i) {
    const double step = power_of_two(2 * std::max<int>(shifts[i], least)) * across * unit / 12;
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
  // Integers of 13 bits need not use all of them: a bit less of the product's ring.
  for (int finer = std::min(0, k_weight_bits - bits); finer <= k_most_shift; ++finer) {
    const int frac = coarsest + finer;
    const double unit = std::ldexp(1.0, -2 * frac);
    const std::vector<std::uint8_t> rows = shifts_of(s.row, frac, bits), columns = shifts_of(s.column, frac, bits);
    if (noise_of(rows, no_columns, 0, 0, s, unit, bits) <= bound) return {frac, {}, std::max(0, finer)};
    if (noise_of(no_rows, columns, 0, 0, s, unit, bits) <= bound) return {frac, columns, 0};
  }
  const int frac = coarsest + k_most_shift;
  return {frac + k_most_shift, shifts_of(s.column, frac, bits), k_most_shift};
}

IntMatrix::IntMatrix(std::size_t rows, std::size_t cols, const WeightScale& scale, const Packing& packing,
                     Machines* machines)
    : rows_(rows),
      cols_(cols),
      machines_(machines),
      own_(machines == nullptr ? Machines::Rows{0, rows} : machines->rows(machines->own(), rows)),
      frac_(scale.frac),
      packing_(packing),
      shifts_(scale.shifts),
      row_shifts_(rows),
      packed_(packed_bytes(own_.count(), cols, packing)) {
  PERMLLM_ASSERT(takes(packing, cols));
  shifts_.resize(cols);
}

std::size_t IntMatrix::packed_bytes(std::size_t rows, std::size_t cols, const Packing& packing) {
  const std::size_t blocks = (rows + k_block_rows - 1) / k_block_rows;
  if (packing.codes) return gain_bytes(cols) + blocks * code_block_bytes(*packing.codes, cols);
  return blocks * ((cols + k_group_cols - 1) / k_group_cols) * kernels::group_bytes(packing.bits);
}

IntMatrix::IntMatrix(std::size_t rows, std::size_t cols, const Packing& packing, std::span<const std::uint8_t> shifts,
                     std::span<const std::uint8_t> row_shifts, std::span<const std::uint8_t> packed)
    : rows_(rows),
      cols_(cols),
      own_{0, rows},
      packing_(packing),
      shifts_(shifts.begin(), shifts.end()),
      row_shifts_(row_shifts.begin(), row_shifts.end()),
      viewed_(packed) {
  PERMLLM_ASSERT(takes(packing, cols) && shifts.size() == cols && row_shifts.size() == rows &&
                 packed.size() == packed_bytes(rows, cols, packing));
}

template <class RowAt>
void IntMatrix::fill(Executor& executor, const RowAt& row_at) {
  const std::size_t groups = groups_of(*this), bytes = kernels::group_bytes(bits());
  // Squares are summed as whole numbers, which have one sum in any order: the same weights have the same statistics.
  std::vector<std::uint64_t> of_columns(cols_), of_rows(rows_);
  std::vector<std::uint32_t> steps(cols_);
  for (std::size_t c = 0; c < cols_; ++c) steps[c] = std::uint32_t{1} << 2 * shifts_[c];
  Mutex joining;
  executor.parallel(blocks_of(*this), [&](std::size_t block) {
    std::uint8_t* to = packed_.data() + block * groups * bytes;
    const std::size_t first = own_.first + block * k_block_rows, rows = std::min(k_block_rows, own_.end - first);
    if (rows < k_block_rows) std::memset(to, 0, groups * bytes);
    std::vector<float> real(cols_);
    std::vector<std::int16_t> row(groups * k_group_cols);
    std::vector<std::uint64_t> columns(cols_);
    for (std::size_t r = 0; r < rows; ++r) {
      row_at(first + r, real, row.data());
      put_groups(row.data(), groups, bits(), to + r * 4);
      const std::uint64_t step = std::uint64_t{1} << 2 * row_shifts_[first + r];
      std::uint64_t sum = 0;
      for (std::size_t c = 0; c < cols_; ++c) {
        const std::uint64_t square = static_cast<std::uint32_t>(std::int32_t{row[c]} * row[c]);
        columns[c] += square * step;
        sum += square * steps[c];
      }
      of_rows[first + r] = sum * step;
    }
    const Lock lock(joining);
    for (std::size_t c = 0; c < cols_; ++c) of_columns[c] += columns[c] * steps[c];
  });
  if (machines_ != nullptr) {
    machines_->add(of_columns);
    machines_->complete(std::span(of_rows));
    machines_->complete(std::span(row_shifts_));
  }
  of_integers_ = {{}, {}, {of_rows.begin(), of_rows.end()}, {of_columns.begin(), of_columns.end()}};
}

IntMatrix IntMatrix::from_rows(std::size_t rows, std::size_t cols, const RealAt& row_at, const WeightScale& scale,
                               Executor& executor, int bits, Machines* machines) {
  IntMatrix w(rows, cols, scale, bits, machines);
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

namespace {

constexpr int code_shift(const CodeForm& form) { return kernels::k_code_top - form.bits; }

// Real numbers as words of 16 bits; false where one does not fit.
bool to_word(float value, std::int16_t& out) {
  if (!(std::fabs(value) < 32767.5f)) return false;
  out = static_cast<std::int16_t>(std::lrint(value));
  return true;
}

CodedRow coded_row(std::size_t cols) {
  return {std::vector<std::uint8_t>(cols), std::vector<float>(cols / k_least_span),
          std::vector<float>(cols / k_least_span)};
}

// By how many bits the codes of a span can be farther from the middle, and their scale smaller: b of them where all are in
// [middle - m, middle + m), m = middle 2^-b.
int spare_bits(const CodeForm& form, std::span<const std::uint8_t> codes) {
  const auto middle = std::uint64_t{1} << (form.bits - 1);
  constexpr std::uint64_t k_each = 0x0101010101010101u;  // byte
  std::uint64_t distances = 0, others = 0;  // of eight codes: from the range's near end, and from the middle
  for (std::size_t c = 0; c < codes.size(); c += sizeof others) {
    std::uint64_t eight;
    std::memcpy(&eight, codes.data() + c, sizeof eight);
    const std::uint64_t below = ~(eight >> (form.bits - 1)) & k_each;
    distances |= (eight ^ below * (middle - 1)) & k_each * (middle - 1);
    others |= eight ^ k_each * middle;
  }
  if (others == 0) return form.bits;
  for (const int half : {32, 16, 8}) distances |= distances >> half;
  return form.bits - 1 - static_cast<int>(std::bit_width(distances & (middle - 1)));
}

// The largest of |(scale code + least) factor| of a span. Side by side, so that the loop vectorises.
float largest_of(const std::uint8_t* codes, const float* factors, std::size_t span, float scale, float least) {
  std::array<float, k_least_span> largest{};
  for (std::size_t at = 0; at < span; at += k_least_span) {
    for (std::size_t k = 0; k < k_least_span; ++k) {
      const float real = std::fabs((scale * static_cast<float>(codes[at + k]) + least) * factors[at + k]);
      largest[k] = largest[k] < real ? real : largest[k];
    }
  }
  return *std::max_element(largest.begin(), largest.end());
}

// Scale and zero of a span: code 2^s - zero, times scale as kernels::multiply_fixed has it, is nearly `unit` times the weight without gain.
struct SpanScale {
  std::int16_t scale = 0, zero = 1 << (kernels::k_code_top - 1);
};
std::optional<SpanScale> span_scale(const CodeForm& form, float scale, float least, float unit, std::uint8_t* codes) {
  const int s = code_shift(form);
  SpanScale out;
  if (!form.zeros) {
    const int spare = spare_bits(form, {codes, form.span}), middle = 1 << (form.bits - 1);
    for (std::size_t c = 0; spare > 0 && c < form.span; ++c)
      codes[c] = static_cast<std::uint8_t>(middle + (codes[c] - middle) * (1 << spare));
    scale /= static_cast<float>(1 << spare);
  }
  if (to_word(unit * scale * static_cast<float>(1 << (15 - s)), out.scale)) {
    if (!form.zeros) return out;
    if (to_word(-least / scale * static_cast<float>(1 << s), out.zero) && out.zero > -(1 << kernels::k_code_top))
      return out;
  }
  // The codes of a span that is nearly one value, far from 0, do not matter.
  const float half_way = scale * static_cast<float>((1 << form.bits) - 1) / 2;
  constexpr std::int16_t k_most = (1 << kernels::k_code_top) - 1;
  out.zero = -k_most;
  if (!form.zeros || std::fabs(unit * half_way) > 0.5f ||
      !to_word(std::ldexp(unit * (least + half_way), 15) / k_most, out.scale))
    return std::nullopt;
  std::fill_n(codes, form.span, std::uint8_t{0});
  return out;
}

int integer_of(const CodeForm& form, std::uint8_t code, const SpanScale& of, std::int16_t gain) {
  return kernels::integer_of_code(form, code, of.scale, of.zero, gain);
}

// kBits of each of eight codes, which lie side by side from bit `from` of each byte on: those of even columns in the low half, of odd ones in
// the high half, 16 bits for each.
constexpr std::uint64_t k_halves = 0x0001000100010001u, k_quarters = 0x0000000100000001u;
template <int kBits>
std::uint32_t gather(std::uint64_t codes, int from) {
  const auto side_by_side = [](std::uint64_t v) {
    v = (v | v >> (16 - kBits)) & k_quarters * ((1u << 2 * kBits) - 1);
    return static_cast<std::uint32_t>((v | v >> (32 - 2 * kBits)) & ((1u << 4 * kBits) - 1));
  };
  constexpr std::uint64_t k_mask = k_halves * ((1u << kBits) - 1);
  return side_by_side(codes >> from & k_mask) | side_by_side(codes >> (8 + from) & k_mask) << 16;
}
template <int kBits>
std::uint64_t scatter(std::uint32_t gathered, int to) {
  const auto apart = [](std::uint64_t v) {
    v = (v | v << (32 - 2 * kBits)) & k_quarters * ((1u << 2 * kBits) - 1);
    return (v | v << (16 - kBits)) & k_halves * ((1u << kBits) - 1);
  };
  constexpr std::uint32_t k_mask = (1u << 4 * kBits) - 1;
  return apart(gathered & k_mask) << to | apart(gathered >> 16 & k_mask) << (8 + to);
}

// Into planes that hold kBits of each code, and out of them: 4 / kBits groups in each.
template <int kBits>
void put_bits(const std::uint8_t* codes, std::size_t span, int from, std::size_t row, std::uint8_t* planes) {
  for (std::size_t c = 0; c < span; planes += k_plane_bytes) {
    std::uint32_t words = 0;
    for (int group = 0; group < 4 / kBits; ++group, c += k_group_cols) {
      std::uint64_t eight;
      std::memcpy(&eight, codes + c, sizeof eight);
      words |= gather<kBits>(eight, from) << (group * 4 * kBits);
    }
    std::memcpy(planes + row * 4, &words, sizeof words);
  }
}
template <int kBits>
void take_bits(const std::uint8_t* planes, std::size_t row, std::size_t span, int to, std::uint8_t* codes) {
  for (std::size_t c = 0; c < span; planes += k_plane_bytes) {
    std::uint32_t words;
    std::memcpy(&words, planes + row * 4, sizeof words);
    for (int group = 0; group < 4 / kBits; ++group, c += k_group_cols) {
      std::uint64_t eight;
      std::memcpy(&eight, codes + c, sizeof eight);
      eight |= scatter<kBits>(words >> (group * 4 * kBits), to);
      std::memcpy(codes + c, &eight, sizeof eight);
    }
  }
}

// A row's codes of a span, into the planes of `span` and out of them; `row` counts in the block.
void put_codes(const CodeForm& form, const std::uint8_t* codes, const SpanScale& scale, std::size_t row,
               std::uint8_t* span) {
  std::memcpy(span + row * 2, &scale.scale, 2);
  if (form.zeros) std::memcpy(span + 2 * k_block_rows + row * 2, &scale.zero, 2);
  put_bits<4>(codes, form.span, 0, row, span + kernels::scale_bytes(form));
  std::uint8_t* const high = span + kernels::high_planes_at(form);
  if (form.bits == 5) put_bits<1>(codes, form.span, 4, row, high);
  if (form.bits == 6) put_bits<2>(codes, form.span, 4, row, high);
  if (form.bits == 8) put_bits<4>(codes, form.span, 4, row, high);
}

SpanScale take_codes(const CodeForm& form, const std::uint8_t* span, std::size_t row, std::uint8_t* codes) {
  SpanScale of;
  std::memcpy(&of.scale, span + row * 2, 2);
  if (form.zeros) std::memcpy(&of.zero, span + 2 * k_block_rows + row * 2, 2);
  std::fill_n(codes, form.span, std::uint8_t{0});
  take_bits<4>(span + kernels::scale_bytes(form), row, form.span, 0, codes);
  const std::uint8_t* const high = span + kernels::high_planes_at(form);
  if (form.bits == 5) take_bits<1>(high, row, form.span, 4, codes);
  if (form.bits == 6) take_bits<2>(high, row, form.span, 4, codes);
  if (form.bits == 8) take_bits<4>(high, row, form.span, 4, codes);
  return of;
}

}  // namespace

std::optional<IntMatrix> IntMatrix::from_codes(std::size_t rows, std::size_t cols, const CodeForm& form,
                                               const CodesAt& codes_at, std::span<const float> gain,
                                               const WeightStatistics& statistics, Executor& executor,
                                               Machines* machines) {
  const WeightScale scale = scale_of(statistics, k_coded_bits);
  IntMatrix w(rows, cols, scale, form, machines);
  w.of_integers_ = {{}, {}, statistics.squares_of_rows, statistics.squares_of_columns};
  for (auto* sums : {&w.of_integers_.squares_of_rows, &w.of_integers_.squares_of_columns}) {
    for (double& sum : *sums) sum = std::ldexp(sum, 2 * w.frac_);
  }
  std::vector<float> factors(cols), down(cols), scaled(cols);
  for (std::size_t c = 0; c < cols; ++c) {
    factors[c] = std::ldexp(gain.empty() ? 1.0f : gain[c], w.frac_);
    down[c] = std::ldexp(1.0f, -w.shifts_[c]);
    scaled[c] = factors[c] * down[c];
  }

  const std::size_t blocks = blocks_of(w), spans = cols / form.span;
  const auto limit = static_cast<float>(limit_of(w.bits()));
  std::vector<float> largest(rows);     // of the integers, unrounded
  std::vector<float> most_word(spans);  // of a span's scales, their rows' steps taken away
  Mutex joining;
  executor.parallel(blocks, [&](std::size_t block) {
    CodedRow row = coded_row(cols);
    std::vector<float> words(spans), own(spans);
    const std::size_t begin = w.own_.first + block * k_block_rows;
    for (std::size_t r = begin; r < std::min(w.own_.end, begin + k_block_rows); ++r) {
      codes_at(r, row);
      if (scale.shifts.empty()) largest[r] = std::ldexp(statistics.row[r], w.frac_);
      for (std::size_t span = 0; span < spans; ++span) {
        const std::size_t first = span * form.span;
        const float by = row.scale[first / k_least_span], least = row.least[first / k_least_span];
        const int spare = form.zeros ? 0 : spare_bits(form, std::span(row.codes).subspan(first, form.span));
        words[span] = std::fabs(by) * static_cast<float>(1 << (15 - code_shift(form))) / static_cast<float>(1 << spare);
        if (!scale.shifts.empty())
          largest[r] = std::max(largest[r], largest_of(&row.codes[first], &scaled[first], form.span, by, least));
      }
      int shift = 0;
      while (std::ldexp(largest[r], -shift) >= limit + 0.5f) ++shift;
      PERMLLM_ASSERT(shift <= scale.most_row_shift);
      w.row_shifts_[r] = static_cast<std::uint8_t>(shift);
      const float down_row = std::ldexp(1.0f, -shift);
      for (std::size_t span = 0; span < spans; ++span) own[span] = std::max(own[span], words[span] * down_row);
    }
    const Lock lock(joining);
    for (std::size_t span = 0; span < spans; ++span) most_word[span] = std::max(most_word[span], own[span]);
  });

  if (machines != nullptr) {
    machines->raise(most_word);
    machines->complete(std::span(w.row_shifts_));
  }

  // The largest gain of a span is the largest word, and the scales of the span take what that leaves.
  constexpr float k_above_one = 32768.0f / 32767;
  auto* gains = reinterpret_cast<std::int16_t*>(w.packed_.data());
  std::fill_n(w.packed_.data(), gain_bytes(cols), std::uint8_t{0});
  std::vector<float> units(spans);
  const double noise = w.coarsening(0).second;
  for (std::size_t span = 0; span < spans; ++span) {
    const std::size_t first = span * form.span, end = first + form.span;
    // What its scales may be multiplied with so that words of 16 bits hold them.
    const float most_unit = 32767 / most_word[span];
    float most_factor = 0;
    for (std::size_t c = first; c < end; ++c) {
      // Columns whose steps are too fine beside others of their span get larger ones.
      float factor = std::fabs(factors[c] * down[c]);
      for (; factor * k_above_one > most_unit; factor /= 2) {
        if (++w.shifts_[c] > k_most_shift) return std::nullopt;
        down[c] /= 2;
      }
      most_factor = std::max(most_factor, factor);
    }
    units[span] = most_factor > 0 ? most_factor * k_above_one : 1;
    for (std::size_t c = first; c < end; ++c) {
      if (!to_word(std::ldexp(factors[c] * down[c] / units[span], 15), gains[c])) return std::nullopt;
    }
  }
  if (w.coarsening(0).second > 2 * std::max(k_most_noise, noise)) return std::nullopt;

  std::atomic<bool> fits = true;
  executor.parallel(blocks, [&](std::size_t block) {
    CodedRow row = coded_row(cols);
    const std::size_t first = w.own_.first + block * k_block_rows, own = std::min(k_block_rows, w.own_.end - first);
    std::uint8_t* to = w.packed_.data() + gain_bytes(cols) + block * code_block_bytes(form, cols);
    if (own < k_block_rows) std::memset(to, 0, code_block_bytes(form, cols));
    for (std::size_t r = 0; r < own && fits; ++r) {
      codes_at(first + r, row);
      const float down_row = std::ldexp(1.0f, -w.row_shifts_[first + r]);
      // Where the largest integer is near its bound, two roundings may pass it.
      const bool near = largest[first + r] * down_row > limit - 4;
      for (std::size_t span = 0; span < spans; ++span) {
        const std::size_t at = span * form.span / k_least_span;
        std::uint8_t* codes = &row.codes[span * form.span];
        std::optional<SpanScale> of = span_scale(form, row.scale[at], row.least[at], units[span] * down_row, codes);
        if (!of) {
          fits = false;
          return;
        }
        const auto passes = [&] {
          for (std::size_t c = 0; c < form.span; ++c) {
            if (std::abs(integer_of(form, codes[c], *of, gains[span * form.span + c])) > limit_of(w.bits()))
              return true;
          }
          return false;
        };
        while (near && passes()) of->scale = static_cast<std::int16_t>(of->scale - (of->scale > 0 ? 1 : -1));
        put_codes(form, codes, *of, r, to + span * kernels::span_bytes(form));
      }
    }
  });
  if (machines != nullptr ? !machines->all(fits) : !fits) return std::nullopt;
  return w;
}

IntMatrix IntMatrix::from_columns(std::size_t rows, std::size_t cols, const RealAt& column_at,
                                  std::span<const float> largest, int finer, Executor& executor, int bits) {
  const int frac = fraction_bits(*std::max_element(largest.begin(), largest.end()), bits) + finer;
  IntMatrix w(rows, cols, {frac, {}, finer}, bits);
  w.row_shifts_ = shifts_of(largest, frac, bits);
  std::vector<float> scales;
  for (const std::uint8_t shift : w.row_shifts_) scales.push_back(std::ldexp(1.0f, frac - shift));
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
          for (std::size_t r = 0; r < rows; ++r) column[r] *= scales[r];
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
                            int bits, Machines* machines) {
  IntMatrix w(rows, cols, {frac}, bits, machines);
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

std::int32_t IntMatrix::most() const {
  const int shift =
      *std::max_element(shifts_.begin(), shifts_.end()) + *std::max_element(row_shifts_.begin(), row_shifts_.end());
  return static_cast<std::int32_t>(limit_of(bits()) << shift);
}

std::int32_t IntMatrix::at(std::size_t row, std::size_t col) const {
  PERMLLM_ASSERT(has(row));
  const std::size_t block = (row - own_.first) / k_block_rows, in_block = row % k_block_rows;
  const int integer = packing_.codes ? kernels::scalar::weight(code_block_of(*this, block), in_block, col)
                                     : kernels::scalar::weight(block_of(*this, block), in_block, col);
  return integer * (1 << (shifts_[col] + row_shifts_[row]));
}

void IntMatrix::row(std::size_t r, std::span<std::int32_t> out, std::size_t first) const {
  PERMLLM_ASSERT(r < rows_ && first <= cols_ && out.size() <= cols_ - first && first % k_group_cols == 0);
  if (!has(r)) {
    std::vector<std::int32_t> whole(cols_);
    machines_->row(*this, r, whole);
    std::copy_n(whole.begin() + static_cast<std::ptrdiff_t>(first), out.size(), out.begin());
    return;
  }
  if (packing_.codes) return row_of_codes(r, out, first);
  const std::uint8_t* at = block_of(*this, (r - own_.first) / k_block_rows).packed +
                           first / k_group_cols * kernels::group_bytes(bits()) + r % k_block_rows * 4;
  for (std::size_t c = 0; c < out.size(); c += k_group_cols, at += kernels::group_bytes(bits())) {
    std::int16_t group[k_group_cols];
    take_group(at, bits(), group);
    for (std::size_t k = 0; k < std::min(k_group_cols, out.size() - c); ++k)
      out[c + k] = group[k] * (1 << (shifts_[first + c + k] + row_shifts_[r]));
  }
}

void IntMatrix::row_of_codes(std::size_t r, std::span<std::int32_t> out, std::size_t first) const {
  const CodeForm& form = *packing_.codes;
  const CodeBlock block = code_block_of(*this, (r - own_.first) / k_block_rows);
  std::vector<std::uint8_t> codes(form.span);
  const std::size_t end = first + out.size();
  for (std::size_t at = first / form.span * form.span; at < end; at += form.span) {
    const SpanScale of =
        take_codes(form, block.packed + at / form.span * kernels::span_bytes(form), r % k_block_rows, codes.data());
    for (std::size_t c = std::max(at, first); c < std::min(at + form.span, end); ++c) {
      const auto gain = static_cast<std::int16_t>(block.gains[c / 2] >> c % 2 * 16);
      out[c - first] = integer_of(form, codes[c - at], of, gain) * (1 << (shifts_[c] + row_shifts_[r]));
    }
  }
}

std::pair<int, double> IntMatrix::coarsening(int bits) const {
  std::pair<int, double> best{0, INFINITY};
  for (int of_rows = 0; of_rows <= bits; ++of_rows) {
    const double noise = noise_of(row_shifts_, shifts_, of_rows, bits - of_rows, of_integers_, 1, packing_.bits);
    if (noise < best.second) best = {of_rows, noise};
  }
  return best;
}

std::vector<double> IntMatrix::noise() const {
  const int spare =
      *std::max_element(shifts_.begin(), shifts_.end()) + *std::max_element(row_shifts_.begin(), row_shifts_.end());
  PERMLLM_ASSERT(of_integers_.squares_of_rows.size() == rows_);
  std::vector<double> noise;
  for (int bits = 0; bits <= spare; ++bits) noise.push_back(coarsening(bits).second);
  return noise;
}

int IntMatrix::needless_bits() const {
  const std::vector<double> with = noise();
  const double target = std::max(k_most_noise * times_of(packing_.bits), k_nearly * with[0]);
  int bits = 0;
  while (bits + 1 < static_cast<int>(with.size()) && with[static_cast<std::size_t>(bits) + 1] <= target) ++bits;
  return bits;
}

void IntMatrix::packed(std::uint64_t offset, std::span<std::uint8_t> out) const {
  const auto copy = [&](std::uint64_t at, std::uint64_t size, const auto& write) {  // what `out` has of [at, at + size)
    const std::uint64_t begin = std::max(offset, at), end = std::min(offset + out.size(), at + size);
    if (begin < end) write(begin - at, out.subspan(begin - offset, end - begin));
  };
  const std::uint64_t head = packing_.codes ? gain_bytes(cols_) : 0;
  std::uint64_t at = 0;
  for (std::size_t m = 0; m < (machines_ == nullptr ? 1 : machines_->count()); ++m) {
    const std::size_t rows = machines_ == nullptr ? rows_ : machines_->rows(m, rows_).count();
    const std::uint64_t skipped = m == 0 ? 0 : head,  // every machine has the gains of all columns
        size = packed_bytes(rows, cols_, packing_) - skipped;
    copy(at, size, [&](std::uint64_t from, std::span<std::uint8_t> part) {
      if (m == 0) {
        std::memcpy(part.data(), packed().data() + from, part.size());
      } else {
        machines_->packed(*this, m, skipped + from, part);
      }
    });
    at += size;
  }
}

void IntMatrix::coarsen(int bits, Executor& executor) {
  if (bits == 0) return;
  if (machines_ != nullptr && machines_->leads())
    return machines_->coarsen(*this, bits, [&] { coarsen_own(bits, executor); });
  coarsen_own(bits, executor);
}

void IntMatrix::coarsen_own(int bits, Executor& executor) {
  const int of_rows = coarsening(bits).first;
  const auto less = [](std::vector<std::uint8_t> shifts, int taken) {
    for (std::uint8_t& shift : shifts) shift = static_cast<std::uint8_t>(std::max(0, shift - taken));
    return shifts;
  };
  const std::vector<std::uint8_t> shifts = less(shifts_, bits - of_rows), row_shifts = less(row_shifts_, of_rows);
  // By how much rows and columns become smaller.
  std::vector<int> down(cols_), row_down(rows_);
  for (std::size_t c = 0; c < cols_; ++c) down[c] = bits - of_rows - (shifts_[c] - shifts[c]);
  for (std::size_t r = 0; r < rows_; ++r) row_down[r] = of_rows - (row_shifts_[r] - row_shifts[r]);
  if (packing_.codes) {
    coarsen_scales(down, row_down, executor);
    for (double& sum : of_integers_.squares_of_rows) sum = std::ldexp(sum, -2 * bits);
    for (double& sum : of_integers_.squares_of_columns) sum = std::ldexp(sum, -2 * bits);
  } else {
    IntMatrix coarse(rows_, cols_, {}, packing_, machines_);
    coarse.row_shifts_ = row_shifts;
    coarse.shifts_ = shifts;
    const std::size_t groups = groups_of(*this), bytes = kernels::group_bytes(this->bits());
    coarse.fill(executor, [&](std::size_t r, std::span<float> real, std::int16_t* out) {
      const std::uint8_t* at = block_of(*this, (r - own_.first) / k_block_rows).packed + r % k_block_rows * 4;
      for (std::size_t g = 0; g < groups; ++g, at += bytes) take_group(at, this->bits(), out + g * k_group_cols);
      for (std::size_t c = 0; c < cols_; ++c)
        real[c] = static_cast<float>(out[c]) * (1.0f / static_cast<float>(1 << (down[c] + row_down[r])));
      PERMLLM_ASSERT(round_weights(real, out) <= limit_of(this->bits()));
    });
    packed_ = std::move(coarse.packed_);
    of_integers_ = std::move(coarse.of_integers_);
  }
  shifts_ = shifts;
  row_shifts_ = row_shifts;
  frac_ -= bits;
}

void IntMatrix::coarsen_scales(std::span<const int> down, std::span<const int> row_down, Executor& executor) {
  const auto shift = [](std::uint8_t* at, int by) {
    std::int16_t word;
    std::memcpy(&word, at, sizeof word);
    word = static_cast<std::int16_t>(((word << 1 >> by) + 1) >> 1);  // to the nearest
    std::memcpy(at, &word, sizeof word);
  };
  for (std::size_t c = 0; c < cols_; ++c) shift(packed_.data() + 2 * c, down[c]);
  const CodeForm& form = *packing_.codes;
  const std::size_t bytes = code_block_bytes(form, cols_);
  executor.parallel(blocks_of(*this), [&](std::size_t block) {
    std::uint8_t* const begin = packed_.data() + gain_bytes(cols_) + block * bytes;
    const std::size_t first = own_.first + block * k_block_rows, rows = std::min(k_block_rows, own_.end - first);
    for (std::uint8_t* span = begin; span != begin + bytes; span += kernels::span_bytes(form)) {
      for (std::size_t r = 0; r < rows; ++r) shift(span + 2 * r, row_down[first + r]);
    }
  });
}

namespace {

// Vectors in the kernel's order: [pair][vector][limb], in room that holds zeros, padded to whole groups. The columns' shifts are done here: to
// the kernels a matrix is its integers of 12 or 8 bits.
void to_limbs(const IntMatrix& w, Ring ring, std::span<const Word* const> x, std::uint32_t* out) {
  const std::size_t vectors = x.size(), cols = w.cols(), limbs = kernels::limbs_of(ring);
  if (vectors == 1) return kernels::cut_words({x[0], cols}, w.shifts().data(), ring, out);
  std::vector<std::uint32_t> own((cols + 1) / 2 * limbs);
  for (std::size_t v = 0; v < vectors; ++v) {
    kernels::cut_words({x[v], cols}, w.shifts().data(), ring, own.data());
    std::uint32_t* to = out + v * limbs;
    for (std::size_t at = 0; at < own.size(); at += limbs, to += vectors * limbs) std::copy_n(&own[at], limbs, to);
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

// A block as it is multiplied: integers all at once; of codes, tiles of some groups at a time. use(weights, first group).
template <class Use>
void for_each_part(const IntMatrix& w, std::size_t block, const Use& use) {
  if (!w.packing().codes) return use(block_of(w, block), std::size_t{0});
  alignas(64) std::array<std::int16_t, kernels::k_unpacked_groups * kernels::k_group_words> tiles;
  const CodeBlock codes = code_block_of(w, block);
  for (std::size_t group = 0, end = groups_of(w); group < end; group += kernels::k_unpacked_groups) {
    const std::size_t groups = std::min(kernels::k_unpacked_groups, end - group);
    kernels::unpack_codes(codes, group, groups, tiles.data());
    use(IntBlock{reinterpret_cast<const std::uint8_t*>(tiles.data()), groups, 16}, group);
  }
}

// Vectors that are multiplied in one turn: beyond it a vector gains next to nothing by company, and others wait.
constexpr std::size_t k_together = 16;

// One caller's vectors, one after the other.
struct Vectors {
  std::span<const Word> x;
  std::span<Word> y;
};

// Vectors that are cut into limbs, in batches, times this machine's rows. finish(vector, first row, sums of some rows): called from several threads.
template <class Finish>
void multiply_cut(const IntMatrix& w, Ring ring, std::span<const Batch> batches, std::span<const std::uint32_t> cut,
                  unsigned threads, const Executor::Parallel& parallel, const Finish& finish) {
  const std::size_t n = batches.back().first + batches.back().count, stride = cut.size() / n;
  // A task is a few blocks: enough of them that threads end together, few enough that handing them out costs nothing.
  const std::size_t blocks = blocks_of(w), step = std::max<std::size_t>(1, blocks / (8 * threads));
  parallel((blocks + step - 1) / step, [&](std::size_t task) {
    std::vector<Word> out(k_block_rows * n);
    for (std::size_t block = task * step; block < std::min(blocks, (task + 1) * step); ++block) {
      std::fill(out.begin(), out.end(), Word{0});
      if (w.packing().codes && n == 1) {
        kernels::code_block(code_block_of(w, block), groups_of(w), cut.data(), ring, out.data());
      } else {
        for_each_part(w, block, [&](const IntBlock& weights, std::size_t group) {
          for (const Batch& b : batches) {
            const std::uint32_t* limbs_of_part =
                cut.data() + b.first * stride + group * k_group_pairs * b.count * kernels::limbs_of(ring);
            kernels::int_block(weights, limbs_of_part, b.count, ring, out.data() + b.first * k_block_rows);
          }
        });
      }
      const std::size_t first = block * k_block_rows, rows = std::min(k_block_rows, w.own_rows().count() - first);
      for (std::size_t i = 0; i < n; ++i) finish(i, first, std::span<const Word>(&out[i * k_block_rows], rows));
    }
  });
}

// y: of this machine's rows.
void multiply(const IntMatrix& w, Ring ring, std::span<const Word* const> x, std::span<Word* const> y, unsigned threads,
              const Executor::Parallel& parallel) {
  const std::vector<Batch> batches = batches_of(ring, x.size());
  const std::size_t stride = groups_of(w) * k_group_pairs * kernels::limbs_of(ring);  // of one vector
  std::vector<std::uint32_t> cut(x.size() * stride);
  parallel(batches.size(), [&](std::size_t i) {
    to_limbs(w, ring, x.subspan(batches[i].first, batches[i].count), cut.data() + batches[i].first * stride);
  });
  multiply_cut(w, ring, batches, cut, threads, parallel, [&](std::size_t i, std::size_t first, auto sums) {
    kernels::finish_rows(sums, w.row_shifts().data() + w.own_rows().first + first, ring, y[i] + first);
  });
}

// Pointers to vectors that stand one after the other.
template <class T>
std::vector<T*> pointers(std::span<T> vectors, std::size_t n) {
  std::vector<T*> first;
  for (std::size_t i = 0; i < n; ++i) first.push_back(vectors.data() + i * (vectors.size() / n));
  return first;
}

}  // namespace

void product_of_own_rows(const IntMatrix& w, Ring ring, std::span<const Word> x, std::span<Word> y,
                         Executor& executor) {
  const std::size_t n = vectors_in(x.size(), w.cols(), y.size(), w.own_rows().count());
  multiply(w, ring, pointers(x, n), pointers(y, n), executor.threads(),
           [&](std::size_t tasks, const Executor::Body& body) { executor.parallel(tasks, body); });
}

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
                        const auto own_rows = [&] { multiply(w, ring, from, to, executor.threads(), parallel); };
                        w.machines() == nullptr ? own_rows() : w.machines()->product(w, ring, from, to, own_rows);
                      });
  }
}

void product(const IntMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor) {
  if (w.machines() == nullptr) return product_of_own_rows(w, x, y, executor);
  const std::size_t n = vectors_in(x.size(), w.cols(), y.size(), w.rows()), own = w.own_rows().count();
  std::vector<float> of_own(n * own);
  product_of_own_rows(w, x, of_own, executor);
  for (std::size_t i = 0; i < n; ++i) std::copy_n(of_own.data() + i * own, own, y.data() + i * w.rows());
  w.machines()->product(w, x, y);
}

void product_of_own_rows(const IntMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor) {
  const std::size_t own = w.own_rows().count(), n = vectors_in(x.size(), w.cols(), y.size(), own), fours = (n + 3) / 4;
  const std::size_t stride = groups_of(w) * k_group_cols * 4;
  std::vector<float> grouped(fours * stride);  // [four][pair][4][2]
  std::vector<float> factors(w.cols());
  for (std::size_t c = 0; c < w.cols(); ++c) factors[c] = static_cast<float>(1 << w.shift(c));
  executor.parallel(fours, [&](std::size_t four) {
    for (std::size_t i = four * 4; i < std::min(n, (four + 1) * 4); ++i) {
      const float* const from = x.data() + i * w.cols();
      float* const to = grouped.data() + four * stride + i % 4 * 2;
      for (std::size_t c = 0; c < w.cols(); ++c) to[c / 2 * 8 + c % 2] = from[c] * factors[c];
    }
  });
  executor.parallel(blocks_of(w), [&](std::size_t block) {
    const std::size_t first = block * k_block_rows, rows = std::min(k_block_rows, own - first);
    float units[k_block_rows];
    for (std::size_t r = 0; r < rows; ++r)
      units[r] = std::ldexp(1.0f, w.row_shift(w.own_rows().first + first + r) - w.frac());
    std::vector<float> out(fours * 4 * k_block_rows);
    for_each_part(w, block, [&](const IntBlock& weights, std::size_t group) {
      for (std::size_t i = 0; i < fours; ++i) {
        kernels::int_block_float(weights, grouped.data() + i * stride + group * k_group_cols * 4,
                                 out.data() + i * 4 * k_block_rows);
      }
    });
    for (std::size_t i = 0; i < n; ++i) {
      const float* const from = out.data() + i * k_block_rows;
      float* const to = y.data() + i * own + first;
      for (std::size_t r = 0; r < rows; ++r) to[r] = from[r] * units[r];
    }
  });
}

RoundedMatrix::RoundedMatrix(IntMatrix weights) : w_(std::move(weights)), units_(w_.rows()) {
  const auto cols = static_cast<double>(w_.cols());
  const std::vector<double>& squares = w_.of_integers_.squares_of_rows;
  // Each integer may be one more than its square says, by rounding; of columns the squares are not known.
  for (std::size_t r = 0; r < w_.rows(); ++r) {
    units_[r] = std::ldexp(1.0f, w_.row_shift(r) - w_.frac());
    const double norm = squares.empty() ? limit_of(w_.bits()) * std::ldexp(std::sqrt(cols), k_most_shift)
                                        : std::sqrt(squares[r]) * std::ldexp(1.0, -w_.row_shift(r)) + std::sqrt(cols);
    norm_ = std::max(norm_, norm);
  }
  for (const std::uint8_t shift : w_.shifts()) steps_.push_back(static_cast<float>(1 << shift));
}

// A sum is w.x of whole numbers, at most |w| |x| by Cauchy and Schwarz: x is made so short that this stays below 2^31.
float RoundedMatrix::round(std::span<const float> x, std::size_t vectors, std::uint32_t* limbs) const {
  double squares = 0;
  float largest = 0;
  for (std::size_t c = 0; c < x.size(); ++c) {
    squares += double{x[c]} * double{x[c]};
    largest = std::max(largest, std::fabs(x[c]) * steps_[c]);
  }
  if (!(largest > 0) || !std::isfinite(squares)) return std::isfinite(squares) ? 1.0f : NAN;
  constexpr double k_most_sum = 0x1p31 * 0.999;
  const double rounding = std::sqrt(static_cast<double>(x.size())) / 2;
  const double by_sum = std::max(k_most_sum / norm_ - rounding, 1.0) / std::sqrt(squares);
  const auto scale = static_cast<float>(std::min(by_sum, 32766.0 / double{largest}));
  const auto word = [&](std::size_t c) {
    return static_cast<std::uint32_t>(static_cast<std::uint16_t>(std::lrint(x[c] * steps_[c] * scale)));
  };
  for (std::size_t c = 0; c < x.size(); c += 2, limbs += vectors)
    *limbs = word(c) | (c + 1 < x.size() ? word(c + 1) << 16 : 0);
  return 1.0f / scale;
}

void product(const RoundedMatrix& w, std::span<const float> x, std::span<float> y, Executor& executor) {
  constexpr Ring k_one_limb{16};
  const std::size_t cols = w.cols(), rows = w.rows(), n = vectors_in(x.size(), cols, y.size(), rows);
  const std::vector<Batch> batches = batches_of(k_one_limb, n);
  const std::size_t stride = groups_of(w.w_) * k_group_pairs;
  std::vector<std::uint32_t> cut(n * stride);
  std::vector<float> units(n);
  for (const Batch& b : batches) {
    for (std::size_t i = 0; i < b.count; ++i)
      units[b.first + i] = w.round(x.subspan((b.first + i) * cols, cols), b.count, &cut[b.first * stride + i]);
  }
  const auto parallel = [&](std::size_t tasks, const Executor::Body& body) { executor.parallel(tasks, body); };
  multiply_cut(w.w_, k_one_limb, batches, cut, executor.threads(), parallel,
               [&](std::size_t i, std::size_t first, auto sums) {
                 for (std::size_t r = 0; r < sums.size(); ++r) {
                   y[i * rows + first + r] =
                       static_cast<float>(static_cast<std::int32_t>(sums[r])) * units[i] * w.units_[first + r];
                 }
               });
}

}  // namespace permllm
