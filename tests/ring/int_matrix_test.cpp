#include "ring/int_matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <list>
#include <random>
#include <thread>

#include "ring/int_kernels.h"
#include "ring/matrix.h"

namespace permllm {
namespace {

int limit_of(int bits) { return (1 << (bits - 1)) - 1; }

FloatMatrix random_integers(std::size_t rows, std::size_t cols, int bits, std::uint64_t seed) {
  FloatMatrix real{rows, cols, std::vector<float>(rows * cols)};
  std::mt19937_64 random(seed);
  const auto count = static_cast<std::uint64_t>(2 * limit_of(bits) + 1);
  for (float& v : real.values) v = static_cast<float>(static_cast<int>(random() % count) - limit_of(bits));
  return real;
}

// Columns and rows by their shifts larger, and the scale that says so.
WeightScale shift_columns_and_rows(FloatMatrix& real, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  WeightScale scale;
  scale.most_row_shift = k_most_shift;
  for (std::size_t c = 0; c < real.cols(); ++c) {
    scale.shifts.push_back(static_cast<std::uint8_t>(random() % (k_most_shift + 1)));
    for (std::size_t r = 0; r < real.rows(); ++r)
      real.values[r * real.cols() + c] *= static_cast<float>(1 << scale.shifts[c]);
  }
  for (std::size_t r = 0; r < real.rows(); ++r) {
    const auto times = static_cast<float>(1 << random() % (k_most_shift + 1));
    for (std::size_t c = 0; c < real.cols(); ++c) real.values[r * real.cols() + c] *= times;
  }
  return scale;
}

Words random_words(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Words words(n);
  for (Word& word : words) word = random();
  return words;
}

// The product by the definition, of real weights that are integers.
Words expected(const FloatMatrix& w, Ring ring, const Words& x) {
  const std::size_t n = x.size() / w.cols();
  Words y(n * w.rows());
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t r = 0; r < w.rows(); ++r) {
      Word sum = 0;
      for (std::size_t c = 0; c < w.cols(); ++c) {
        sum += static_cast<Word>(static_cast<std::int64_t>(w.values[r * w.cols() + c])) * x[i * w.cols() + c];
      }
      y[i * w.rows() + r] = sum & ring.mask();
    }
  }
  return y;
}

TEST(IntMatrix, keeps_every_weight_of_every_shape) {
  Executor executor(2);
  std::uint64_t seed = 0;
  for (const int bits : {8, 12}) {
    for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{1, 1}, {31, 7}, {33, 8}, {64, 9}, {65, 130}}) {
      FloatMatrix real = random_integers(rows, cols, bits, ++seed);
      const WeightScale scale = shift_columns_and_rows(real, ++seed);
      const IntMatrix w(real, scale, executor, bits);
      for (std::size_t r = 0; r < rows; ++r) {
        std::vector<std::int32_t> row(cols);
        w.row(r, row);
        for (std::size_t c = 0; c < cols; ++c) {
          ASSERT_EQ(w.at(r, c), static_cast<int>(real.values[r * cols + c])) << bits << " bits at " << r << ", " << c;
          ASSERT_EQ(row[c], w.at(r, c));
        }
      }
    }
  }
}

// The shifts of a view, of its columns and rows.
std::vector<std::uint8_t> some_shifts(std::size_t n, std::uint64_t seed) {
  std::vector<std::uint8_t> shifts(n);
  for (std::uint8_t& shift : shifts) shift = static_cast<std::uint8_t>(++seed * 5 % (k_most_shift + 1));
  return shifts;
}

// What another party packed. Blocks and groups that its shape does not fill hold what they like: here, weights of a larger matrix.
TEST(IntMatrix, a_view_multiplies_its_own_weights_and_nothing_beside_them) {
  Executor executor(2);
  std::uint64_t seed = 0;
  for (const int bits : {8, 12}) {
    const FloatMatrix real = random_integers(64, 24, bits, ++seed);
    const IntMatrix whole(real, {}, executor, bits);
    for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{33, 17}, {50, 23}, {64, 24}}) {
      const auto shifts = some_shifts(cols, ++seed), row_shifts = some_shifts(rows, ++seed);
      ASSERT_EQ(IntMatrix::packed_bytes(rows, cols, bits), whole.packed().size());
      const IntMatrix view(rows, cols, bits, shifts, row_shifts, whole.packed());
      FloatMatrix own{rows, cols, {}};
      for (std::size_t r = 0; r < rows; ++r) {
        std::vector<std::int32_t> row(cols);
        view.row(r, row);
        for (std::size_t c = 0; c < cols; ++c) {
          own.values.push_back(std::ldexp(real.values[r * 24 + c], shifts[c] + row_shifts[r]));
          ASSERT_EQ(view.at(r, c), static_cast<int>(own.values.back()));
          ASSERT_EQ(row[c], view.at(r, c));
        }
      }
      for (const int ring : {16, 32, 43, 48, 64}) {
        for (const std::size_t n : {1, 2, 5, 17}) {
          const Words x = random_words(n * cols, ++seed);
          Words y(n * rows);
          product(view, Ring{ring}, x, y, executor);
          ASSERT_EQ(y, expected(own, Ring{ring}, x)) << bits << " bits, " << rows << " x " << cols << ", ring " << ring;
        }
      }
    }
  }
}

// Any bytes are a matrix, also those of weights that no provider packs (-2^(bits - 1)).
TEST(IntMatrix, a_view_of_any_bytes_is_multiplied) {
  Executor executor(1);
  constexpr std::size_t k_rows = 40, k_cols = 200;
  const std::vector<std::uint8_t> shifts(k_cols), row_shifts(k_rows);
  for (const int bits : {8, 12}) {
    LargeBytes bytes(IntMatrix::packed_bytes(k_rows, k_cols, bits));
    std::mt19937_64 random(static_cast<std::uint64_t>(bits));
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes.data()[i] = static_cast<std::uint8_t>(random());
    const auto check = [&](const Words& x) {
      const IntMatrix view(k_rows, k_cols, bits, shifts, row_shifts, bytes);
      FloatMatrix own{k_rows, k_cols, {}};
      for (std::size_t r = 0; r < k_rows; ++r) {
        for (std::size_t c = 0; c < k_cols; ++c) own.values.push_back(static_cast<float>(view.at(r, c)));
      }
      Words y(k_rows);
      product(view, Ring{64}, x, y, executor);
      EXPECT_EQ(y, expected(own, Ring{64}, x)) << bits;
    };
    check(random_words(k_cols, 1));
    std::fill_n(bytes.data(), bytes.size(), std::uint8_t{0x80});
    check(random_words(k_cols, 2));
  }
}

// Sessions that wait with the same matrix share a product: the words are those of products by themselves.
TEST(IntMatrix, products_of_many_callers_at_once_are_those_of_each_alone) {
  Executor executor(2), alone(1);
  std::vector<IntMatrix> matrices;
  for (std::uint64_t seed = 1; seed <= 2; ++seed) matrices.push_back(IntMatrix::random(100, 70, 9, seed, executor));
  constexpr std::size_t k_callers = 12;
  std::vector<Words> x, y, expected;
  const auto ring_of = [](std::size_t i) { return Ring{i % 4 == 0 ? 48 : 64}; };
  const auto matrix_of = [&](std::size_t i) -> const IntMatrix& { return matrices[i / 2 % 2]; };
  for (std::size_t i = 0; i < k_callers; ++i) {
    const std::size_t n = i == 5 ? 50 : 1 + i % 3;  // one of many vectors, which takes several turns
    x.push_back(random_words(n * 70, i));
    y.emplace_back(n * 100);
    expected.emplace_back(n * 100);
    product(matrix_of(i), ring_of(i), x[i], expected[i], alone);
  }
  std::list<std::jthread> callers;
  executor.parallel(2, [&](std::size_t task) {  // a turn behind which all of them wait
    for (std::size_t i = 0; task == 0 && i < k_callers; ++i) {
      callers.emplace_back([&, i] {
        Executor own(executor, i);
        product(matrix_of(i), ring_of(i), x[i], y[i], own);
      });
    }
    while (task == 0 && executor.waiting() < k_callers) std::this_thread::yield();
  });
  callers.clear();
  EXPECT_EQ(y, expected);
  EXPECT_LT(executor.sharing().runs, executor.sharing().shares);
}

TEST(IntMatrix, fraction_bits_fill_the_weight_bits_and_no_more) {
  for (const int bits : {8, 12}) {
    const auto limit = static_cast<float>(limit_of(bits));
    for (const float largest : {1e-3f, 0.1f, 0.9999f, 1.0f, 3.7f, limit}) {
      const int frac = IntMatrix::fraction_bits(largest, bits);
      EXPECT_LE(std::nearbyint(std::ldexp(largest, frac)), limit);
      EXPECT_GT(std::ldexp(largest, frac + 1), limit);
    }
  }
}

// Bell-shaped weights, of which some rows and columns are larger.
struct Sized {
  FloatMatrix real;
  WeightStatistics statistics;
};
Sized sized(std::size_t rows, std::size_t cols, const std::function<float(std::size_t, std::size_t)>& size) {
  Sized s{{rows, cols, std::vector<float>(rows * cols)},
          {std::vector<float>(rows), std::vector<float>(cols), std::vector<double>(rows), std::vector<double>(cols)}};
  std::mt19937_64 random(3);
  std::normal_distribution<float> bell(0, 0.02f);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c) {
      const float w = s.real.values[r * cols + c] = bell(random) * size(r, c);
      s.statistics.row[r] = std::max(s.statistics.row[r], std::fabs(w));
      s.statistics.column[c] = std::max(s.statistics.column[c], std::fabs(w));
      s.statistics.squares_of_rows[r] += double{w} * double{w};
      s.statistics.squares_of_columns[c] += double{w} * double{w};
    }
  }
  return s;
}

// What rounding adds to the squares of each row, in the mean, and of each column: the greater.
double measured_noise(const FloatMatrix& real, const IntMatrix& w) {
  const auto mean = [](std::size_t lines, std::size_t across, const auto& of) {
    double sum = 0;
    for (std::size_t i = 0; i < lines; ++i) {
      double added = 0, squares = 0;
      for (std::size_t k = 0; k < across; ++k) of(i, k, added, squares);
      sum += added / squares;
    }
    return sum / static_cast<double>(lines);
  };
  const auto at = [&](std::size_t r, std::size_t c, double& added, double& squares) {
    const double x = double{real.values[r * w.cols() + c]};
    added += std::pow(std::ldexp(static_cast<double>(w.at(r, c)), -w.frac()) - x, 2);
    squares += x * x;
  };
  return std::max(mean(w.rows(), w.cols(), at),
                  mean(w.cols(), w.rows(), [&](std::size_t c, std::size_t r, double& added, double& squares) {
                    at(r, c, added, squares);
                  }));
}

TEST(IntMatrix, steps_are_as_fine_as_the_noise_asks_for_by_row_or_by_column) {
  Executor executor(2);
  const auto check = [&](const char* what, int finer, bool by_row, bool by_column,
                         const std::function<float(std::size_t, std::size_t)>& size) {
    SCOPED_TRACE(what);
    const Sized s = sized(90, 130, size);
    const WeightScale scale = IntMatrix::scale_of(s.statistics);
    const int coarsest = IntMatrix::fraction_bits(*std::max_element(s.statistics.row.begin(), s.statistics.row.end()));
    IntMatrix w(s.real, scale, executor);
    if (scale.most_row_shift > 0 && !scale.shifts.empty()) w.coarsen(w.needless_bits(), executor);
    EXPECT_LE(std::abs(w.frac() - coarsest - finer), by_row && by_column ? 2 : 1) << w.frac() - coarsest;
    EXPECT_EQ(scale.most_row_shift > 0, by_row);
    EXPECT_EQ(std::any_of(scale.shifts.begin(), scale.shifts.end(), [](auto shift) { return shift > 0; }), by_column);
    EXPECT_LE(w.noise()[0], (by_row && by_column ? 4 : 1) * k_most_noise);  // powers of two lose up to a bit each
    EXPECT_NEAR(measured_noise(s.real, w) / w.noise()[0], 1, 0.1);
    // What is given up afterwards costs what is said of it, and one bit less would not do.
    const std::vector<double> noise = w.noise();
    for (std::size_t bits = 1; bits < noise.size(); ++bits) {
      EXPECT_GE(noise[bits], noise[bits - 1]);
      IntMatrix coarse(s.real, scale, executor);
      coarse.coarsen(coarse.frac() - w.frac() + static_cast<int>(bits), executor);
      EXPECT_EQ(coarse.frac(), w.frac() - static_cast<int>(bits));
      const double told = coarse.noise()[0], measured = measured_noise(s.real, coarse);
      EXPECT_NEAR(told / noise[bits], 1, 0.05);
      if (noise[bits] < k_most_noise_of_one / 10) {
        EXPECT_NEAR(measured / noise[bits], 1.4, 0.5);  // rounded twice
      }
    }
  };
  check("even", 0, false, false, [](std::size_t, std::size_t) { return 1.0f; });
  check("a large row", 5, true, false, [](std::size_t r, std::size_t) { return r == 7 ? 32.0f : 1.0f; });
  check("a large column", 5, false, true, [](std::size_t, std::size_t c) { return c == 7 ? 32.0f : 1.0f; });
  check("both", 10, true, true,
        [](std::size_t r, std::size_t c) { return (c == 7 ? 32.0f : 1.0f) * (r == 3 ? 32.0f : 1.0f); });
}

// A table's rows that are small in every column have finer steps, as far as all of its integers have 12 bits and `finer` more.
TEST(IntMatrix, rows_of_columns_are_as_fine_as_they_are_small) {
  Executor executor(2);
  const Sized s = sized(21, 300, [](std::size_t r, std::size_t) { return std::ldexp(1.0f, static_cast<int>(r % 7)); });
  const auto column_at = [&](std::size_t c, std::span<float> out) {
    for (std::size_t r = 0; r < out.size(); ++r) out[r] = s.real.values[r * 300 + c];
  };
  for (const int finer : {0, 1, 4}) {
    const IntMatrix w = IntMatrix::from_columns(21, 300, column_at, s.statistics.row, finer, executor);
    const float largest = *std::max_element(s.statistics.row.begin(), s.statistics.row.end());
    EXPECT_EQ(w.frac(), IntMatrix::fraction_bits(largest) + finer);
    EXPECT_EQ(w.most(), limit_of(12) << finer);
    for (std::size_t r = 0; r < 21; ++r) {
      const int frac = std::min(w.frac(), IntMatrix::fraction_bits(s.statistics.row[r]));
      for (std::size_t c = 0; c < 300; ++c) {
        EXPECT_LE(std::abs(w.at(r, c)), w.most());
        EXPECT_NEAR(std::ldexp(static_cast<double>(w.at(r, c)), -w.frac()), double{s.real.values[r * 300 + c]},
                    std::ldexp(0.5001, -frac));
      }
    }
  }
}

// A weight so near to the largest integer that logarithms take it for that.
TEST(IntMatrix, the_largest_weight_may_be_a_hair_above_the_largest_integer) {
  Executor executor(1);
  for (const int bits : {8, 12}) {
    for (const int exponent : {0, -20, -40}) {
      const float largest = std::ldexp(std::nextafter(static_cast<float>(limit_of(bits)), 1e9f), exponent);
      FloatMatrix real{2, 3, {largest, 0, 0, 0, largest / 2, 0}};
      const WeightStatistics statistics{{largest, largest / 2}, {largest, largest / 2, 0}, {1, 1}, {1, 1, 0}};
      const IntMatrix w(real, IntMatrix::scale_of(statistics, bits), executor, bits);
      EXPECT_NEAR(std::ldexp(static_cast<double>(w.at(0, 0)), -w.frac()) / double{largest}, 1, 1e-2);
    }
  }
}

// Inputs in which a few entries are far larger than the others, as a model's are.
std::vector<float> spiky(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> bell;
  std::vector<float> x(n);
  for (float& v : x) v = bell(random) * (random() % 64 == 0 ? 30.0f : 1.0f);
  return x;
}

TEST(RoundedMatrix, products_are_nearly_the_real_ones_for_one_vector_and_for_many) {
  Executor executor(2);
  FloatMatrix real = random_integers(100, 1024, 12, 5);
  const WeightScale scale = shift_columns_and_rows(real, 6);
  const IntMatrix exact(real, scale, executor);
  const RoundedMatrix w(IntMatrix(real, scale, executor));
  for (const std::size_t n : {1u, 2u, 13u}) {
    std::vector<float> x = spiky(n * 1024, n), expected(n * 100), y(n * 100);
    std::fill_n(x.begin(), n == 2 ? 1024 : 0, 0.0f);
    product(exact, x, expected, executor);
    product(w, x, y, executor);
    for (std::size_t i = 0; i < n; ++i) {
      double error = 0, size = 0;
      for (std::size_t r = i * 100; r < (i + 1) * 100; ++r) {
        error += std::pow(double{y[r]} - double{expected[r]}, 2);
        size += std::pow(double{expected[r]}, 2);
      }
      EXPECT_LE(error, 1e-5 * size) << n << " vectors, " << i;
    }
  }
}

// The largest sum that there is: x points where a row does. It would wrap around if x had all its sixteen bits.
TEST(RoundedMatrix, the_largest_sum_does_not_wrap_around) {
  Executor executor(1);
  constexpr std::size_t k_cols = 4864;
  FloatMatrix real{1, k_cols, std::vector<float>(k_cols)};
  for (std::size_t c = 0; c < k_cols; ++c) real.values[c] = c % 2 == 0 ? 2047.0f : -2047.0f;
  const RoundedMatrix w(IntMatrix(real, {}, executor));
  std::vector<float> y(1);
  product(w, real.values, y, executor);
  EXPECT_NEAR(y[0], 2047.0f * 2047.0f * k_cols, 1e-3f * 2047.0f * 2047.0f * k_cols);
}

TEST(IntMatrix, zeros_have_a_scale_too) {
  const WeightScale zeros = IntMatrix::scale_of(
      {std::vector<float>(4), std::vector<float>(3), std::vector<double>(4), std::vector<double>(3)});
  EXPECT_EQ(zeros.frac, 0);
  Executor executor(1);
  const IntMatrix w(FloatMatrix{4, 3, std::vector<float>(12)}, zeros, executor);
  EXPECT_EQ(w.noise(), std::vector<double>{0});
}

TEST(IntMatrix, random_weights_have_the_deviation_and_the_range_that_they_promise) {
  Executor executor(2);
  for (const auto& [frac, bits] : {std::pair{10, 12}, {16, 12}, {11, 8}}) {
    const IntMatrix w = IntMatrix::random(100, 300, frac, 5, executor, bits);
    double sum = 0, squares = 0;
    std::vector<std::int32_t> row(300);
    for (std::size_t r = 0; r < 100; ++r) {
      w.row(r, row);
      for (const std::int32_t v : row) {
        ASSERT_LE(std::abs(v), limit_of(bits));
        sum += v;
        squares += double{static_cast<double>(v)} * v;
      }
    }
    const double deviation = std::ldexp(0.02, frac);
    EXPECT_LT(std::abs(sum / 30000), 0.03 * deviation + 0.05);
    // Clamping at about 1.6 deviations takes a little away.
    if (frac < 16) {
      EXPECT_NEAR(std::sqrt(squares / 30000) / deviation, 1, 0.03);
    }
  }
}

TEST(IntProduct, agrees_with_the_definition_for_every_ring_and_odd_shapes) {
  Executor executor(2);
  std::uint64_t seed = 1;
  for (const int weight_bits : {8, 12}) {
    for (const int bits : {1, 16, 17, 32, 42, 43, 48, 56, 64}) {
      for (const auto& [rows, cols] :
           {std::pair<std::size_t, std::size_t>{1, 1}, {15, 3}, {33, 64}, {64, 577}, {97, 1536}}) {
        for (const std::size_t n : {1, 2, 5, 23}) {
          FloatMatrix real = random_integers(rows, cols, weight_bits, ++seed);
          const WeightScale scale = n == 5 ? WeightScale{} : shift_columns_and_rows(real, ++seed);
          const IntMatrix w(real, scale, executor, weight_bits);
          const Words x = random_words(n * cols, ++seed);
          Words y(n * rows);
          product(w, Ring{bits}, x, y, executor);
          ASSERT_EQ(y, expected(real, Ring{bits}, x)) << bits << " bits, " << rows << " x " << cols << ", " << n;
        }
      }
    }
  }
}

// Every limb at an end of its range, or as near as carries allow: the first gives limbs of -2^15, the second of 2^15 - 1.
TEST(IntProduct, does_not_overflow_at_the_largest_weights_and_limbs) {
  Executor executor(2);
  constexpr std::size_t k_rows = 32, k_cols = 16384, k_vectors = 13;
  for (const int weight_bits : {8, 12}) {
    for (const bool mixed : {false, true}) {
      const auto largest = static_cast<float>(limit_of(weight_bits));
      FloatMatrix extreme{k_rows, k_cols, std::vector<float>(k_rows * k_cols, -largest)};
      for (std::size_t r = 1; mixed && r < k_rows; r += 2) std::fill_n(&extreme.values[r * k_cols], k_cols, largest);
      const IntMatrix w(extreme, {}, executor, weight_bits);
      for (const Word word : {Word{0x7fff7fff7fff8000u}, Word{0x7fff7fff7fff7fffu}}) {
        for (const int bits : {16, 32, 48, 64}) {
          const Words x(k_vectors * k_cols, word);
          Words y(k_vectors * k_rows);
          product(w, Ring{bits}, x, y, executor);
          const Words want = expected(extreme, Ring{bits}, Words(k_cols, word));
          for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], want[i % k_rows]) << bits << " bits, " << i;
        }
      }
    }
  }
}

TEST(FloatProduct, of_integer_weights_agrees_with_doubles) {
  Executor executor(2);
  for (const int bits : {8, 12}) {
    for (const std::size_t n : {1, 3, 4, 9}) {
      const std::size_t rows = 37, cols = 301;
      FloatMatrix real = random_integers(rows, cols, bits, 3);
      WeightScale scale = shift_columns_and_rows(real, 5);
      for (float& v : real.values) v /= 1024;
      scale.frac = 10;
      const IntMatrix w(real, scale, executor, bits);
      std::mt19937 random(7);
      std::normal_distribution<float> normal;
      std::vector<float> x(n * cols), y(n * rows);
      for (float& v : x) v = normal(random);
      product(w, x, y, executor);
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t r = 0; r < rows; ++r) {
          double want = 0, size = 0;
          for (std::size_t c = 0; c < cols; ++c) {
            const double term = w.at(r, c) / 1024.0 * static_cast<double>(x[i * cols + c]);
            want += term;
            size += std::fabs(term);
          }
          ASSERT_NEAR(y[i * rows + r], want, 1e-6 * size + 1e-4);
        }
      }
    }
  }
}

// Rows of codes with scales of their own, and gains of columns.
struct Coded {
  CodeForm form;
  std::size_t rows, cols;
  std::vector<CodedRow> rows_of_codes = {};
  std::vector<float> gain = {};
  FloatMatrix real = {};  // gains in it
  WeightStatistics statistics = {};

  std::optional<IntMatrix> matrix(Executor& executor) const {
    return IntMatrix::from_codes(
        rows, cols, form, [this](std::size_t r, CodedRow& out) { out = rows_of_codes[r]; }, gain, statistics, executor);
  }
};

Coded random_codes(const CodeForm& form, std::size_t rows, std::size_t cols, float spread, std::uint64_t seed) {
  Coded m{form, rows, cols};
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> between(1 / spread, 1);
  for (std::size_t c = 0; c < cols; ++c) m.gain.push_back(between(random) * (random() % 2 == 0 ? 1.0f : -1.0f));
  for (std::size_t r = 0; r < rows; ++r) {
    CodedRow row;
    for (std::size_t c = 0; c < cols; ++c) row.codes.push_back(static_cast<std::uint8_t>(random() % (1u << form.bits)));
    for (std::size_t at = 0; at < cols; at += k_least_span) {
      if (at % form.span == 0) {
        const float scale = 0.01f * between(random) * (random() % 4 == 0 ? -1.0f : 1.0f);
        const float middle = static_cast<float>(1 << (form.bits - 1));
        row.scale.push_back(scale);
        row.least.push_back(form.zeros ? -scale * middle * 2 * between(random) : -scale * middle);
      } else {
        row.scale.push_back(row.scale.back());
        row.least.push_back(row.least.back());
      }
    }
    m.rows_of_codes.push_back(row);
  }
  m.statistics = {std::vector<float>(rows), std::vector<float>(cols), std::vector<double>(rows),
                  std::vector<double>(cols)};
  m.real = {rows, cols, std::vector<float>(rows * cols)};
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c) {
      const CodedRow& row = m.rows_of_codes[r];
      const float w = m.real.values[r * cols + c] =
          (row.scale[c / k_least_span] * static_cast<float>(row.codes[c]) + row.least[c / k_least_span]) * m.gain[c];
      m.statistics.row[r] = std::max(m.statistics.row[r], std::fabs(w));
      m.statistics.column[c] = std::max(m.statistics.column[c], std::fabs(w));
      m.statistics.squares_of_rows[r] += double{w} * double{w};
      m.statistics.squares_of_columns[c] += double{w} * double{w};
    }
  }
  return m;
}

std::vector<CodeForm> code_forms() {
  std::vector<CodeForm> forms;
  for (int byte = 128; byte < 256; ++byte) {
    if (const auto packing = Packing::of(static_cast<std::uint8_t>(byte))) {
      EXPECT_EQ(packing->byte(), byte);
      forms.push_back(*packing->codes);
    }
  }
  EXPECT_EQ(forms.size(), 14u);  // 4, 6 and 8 bits in both spans, 5 in one; with zeros or without
  return forms;
}

TEST(Codes, become_the_integers_next_to_their_weights) {
  Executor executor(2);
  std::uint64_t seed = 0;
  for (const CodeForm& form : code_forms()) {
    for (const float spread : {1.0f, 4.0f, 40.0f}) {
      const Coded m = random_codes(form, 70, 96, spread, ++seed);
      const WeightScale scale = IntMatrix::scale_of(m.statistics, k_coded_bits);
      std::optional<IntMatrix> made = m.matrix(executor);
      ASSERT_TRUE(made) << form.bits << " bits, spread " << spread;
      IntMatrix w = std::move(*made);
      EXPECT_EQ(w.frac(), scale.frac);
      const auto compare = [&](double times) {
        double squares = 0, most = 0;
        for (std::size_t r = 0; r < m.rows; ++r) {
          std::vector<std::int32_t> row(m.cols);
          w.row(r, row);
          for (std::size_t c = 0; c < m.cols; ++c) {
            ASSERT_EQ(row[c], w.at(r, c));
            const int shift = w.shift(c) + w.row_shift(r);
            ASSERT_LE(std::abs(row[c] >> shift), 4095);
            const double off = std::ldexp(row[c] - std::ldexp(double{m.real.values[r * m.cols + c]}, w.frac()), -shift);
            squares += off * off;
            most = std::max(most, std::fabs(off));
          }
        }
        // One rounding of an integer, 0.29 in the mean, and one before it that is smaller.
        EXPECT_LT(std::sqrt(squares / static_cast<double>(m.rows * m.cols)), 0.4 * times);
        EXPECT_LT(most, 1.3 * times);
        EXPECT_LT(measured_noise(m.real, w) / w.noise()[0], 2);
      };
      compare(1);
      const int spare = static_cast<int>(w.noise().size()) - 1;
      if (spare > 0) {
        w.coarsen(spare, executor);
        EXPECT_EQ(w.frac(), scale.frac - spare);
        compare(1.1);
      }
    }
  }
}

TEST(Codes, are_multiplied_as_the_integers_that_they_are) {
  Executor executor(2);
  std::uint64_t seed = 0;
  for (const CodeForm& form : code_forms()) {
    for (const std::size_t cols : {form.span, 3 * form.span, std::size_t{288}}) {
      const Coded m = random_codes(form, 45, cols, 4, ++seed);
      const std::optional<IntMatrix> w = m.matrix(executor);
      ASSERT_TRUE(w);
      FloatMatrix integers{45, cols, {}};
      for (std::size_t r = 0; r < 45; ++r) {
        for (std::size_t c = 0; c < cols; ++c) integers.values.push_back(static_cast<float>(w->at(r, c)));
      }
      const IntMatrix view(45, cols, w->packing(), w->shifts(), w->row_shifts(), w->packed());
      for (const int bits : {16, 43, 64}) {
        for (const std::size_t n : {1, 2, 5, 23}) {
          const Words x = random_words(n * cols, ++seed), want = expected(integers, Ring{bits}, x);
          Words y(n * 45);
          product(*w, Ring{bits}, x, y, executor);
          ASSERT_EQ(y, want) << form.bits << " bits, " << cols << " columns, " << n;
          product(view, Ring{bits}, x, y, executor);
          ASSERT_EQ(y, want);
        }
      }
      std::vector<float> x(3 * cols, 0.25f), y(3 * 45);
      product(*w, x, y, executor);
      for (std::size_t i = 0; i < y.size(); ++i) {
        double want = 0;
        for (std::size_t c = 0; c < cols; ++c) want += 0.25 * std::ldexp(w->at(i % 45, c), -w->frac());
        ASSERT_NEAR(y[i], want, 1e-4);
      }
    }
  }
}

TEST(Codes, far_from_zero_are_refused_unless_they_are_nearly_one_value) {
  Executor executor(1);
  const auto refused = [&](const std::function<void(Coded&)>& change) {
    Coded m = random_codes({4, 32, true}, 40, 64, 1, 9);
    change(m);
    // Statistics that fit whatever was changed.
    m.statistics.row.assign(40, 100);
    m.statistics.column.assign(64, 100);
    return !m.matrix(executor);
  };
  EXPECT_FALSE(refused([](Coded&) {}));
  const auto far = [](float scale) {
    return [=](Coded& m) {
      for (std::size_t i = 0; i < 2; ++i) m.rows_of_codes[3].scale[i] = scale, m.rows_of_codes[3].least[i] = 80;
    };
  };
  EXPECT_TRUE(refused(far(0.5f)));
  EXPECT_FALSE(refused(far(1e-4f)));
  EXPECT_FALSE(refused(far(0)));
}

TEST(Codes, unpacked_by_vectors_are_those_unpacked_one_by_one) {
  std::mt19937_64 random(3);
  for (const CodeForm& form : code_forms()) {
    constexpr std::size_t k_spans = 6;
    LargeBytes packed(k_spans * kernels::span_bytes(form));
    for (std::size_t i = 0; i < packed.size(); ++i) packed.data()[i] = static_cast<std::uint8_t>(random());
    const std::size_t groups = k_spans * form.span / 8;
    std::vector<std::uint32_t> gains(groups * 4);
    for (auto& v : gains) v = static_cast<std::uint32_t>(random()) & 0x7fff7fff;
    const kernels::CodeBlock block{packed.data(), gains.data(), form};
    const std::size_t first = form.span / 8, words = (groups - first) * kernels::k_group_words;
    LargeBytes tiles(2 * words), twins(2 * words);
    kernels::unpack_codes(block, first, groups - first, reinterpret_cast<std::int16_t*>(tiles.data()));
    kernels::scalar::unpack_codes(block, first, groups - first, reinterpret_cast<std::int16_t*>(twins.data()));
    EXPECT_TRUE(std::equal(tiles.data(), tiles.data() + 2 * words, twins.data())) << form.bits << " bits";
  }
}

TEST(Codes, multiplied_as_they_are_unpacked_are_those_of_the_scalar_twin) {
  std::mt19937_64 random(4);
  for (const CodeForm& form : code_forms()) {
    constexpr std::size_t k_spans = 37;
    LargeBytes packed(k_spans * kernels::span_bytes(form));
    for (std::size_t i = 0; i < packed.size(); ++i) packed.data()[i] = static_cast<std::uint8_t>(random());
    const std::size_t groups = k_spans * form.span / 8;
    // Gains below 2^13 make integers of at most 13 bits.
    std::vector<std::uint32_t> gains(groups * 4), x(groups * 4 * 4);
    for (auto& v : gains) v = static_cast<std::uint32_t>(random()) & 0x1fff1fff;
    for (auto& v : x) v = static_cast<std::uint32_t>(random()) & 0x7fff7fff;
    for (const int bits : {16, 32, 48, 64}) {
      Words y(32, 5), z(32, 5);
      kernels::code_block({packed.data(), gains.data(), form}, groups, x.data(), Ring{bits}, y.data());
      kernels::scalar::code_block({packed.data(), gains.data(), form}, groups, x.data(), Ring{bits}, z.data());
      for (std::size_t i = 0; i < y.size(); ++i)
        ASSERT_EQ(y[i] & Ring{bits}.mask(), z[i] & Ring{bits}.mask()) << form.bits << " bits, ring " << bits;
    }
  }
}

// Of any bytes sums may be wrong words, each time the same: nothing beside the matrix is read (which the sanitizers see).
TEST(Codes, of_any_bytes_are_multiplied) {
  Executor executor(1);
  constexpr std::size_t k_rows = 40, k_cols = 192;
  const std::vector<std::uint8_t> shifts(k_cols), row_shifts(k_rows);
  for (const CodeForm& form : code_forms()) {
    LargeBytes bytes(IntMatrix::packed_bytes(k_rows, k_cols, form));
    std::mt19937_64 random(static_cast<std::uint64_t>(form.bits));
    for (const bool drawn : {true, false}) {
      for (std::size_t i = 0; i < bytes.size(); ++i)
        bytes.data()[i] = drawn ? static_cast<std::uint8_t>(random()) : std::uint8_t{0x80};
      const IntMatrix view(k_rows, k_cols, form, shifts, row_shifts, bytes);
      for (const std::size_t n : {1, 3}) {
        const Words x = random_words(n * k_cols, n);
        Words y(n * k_rows), again(n * k_rows);
        product(view, Ring{64}, x, y, executor);
        product(view, Ring{64}, x, again, executor);
        EXPECT_EQ(y, again) << form.bits << " bits";
      }
    }
  }
}

TEST(IntKernels, words_in_and_out_are_those_of_the_scalar_twins) {
  std::mt19937_64 random(6);
  for (const std::size_t n : {1, 2, 7, 8, 31, 32, 75}) {
    const Words x = random_words(n, n);
    std::vector<std::uint8_t> shifts(n);
    for (auto& v : shifts) v = static_cast<std::uint8_t>(random() % 7);
    for (const int bits : {16, 32, 43, 56, 64}) {
      std::vector<std::uint32_t> limbs((n + 1) / 2 * kernels::limbs_of(Ring{bits})), twin = limbs;
      kernels::cut_words(x, shifts.data(), Ring{bits}, limbs.data());
      kernels::scalar::cut_words(x, shifts.data(), Ring{bits}, twin.data());
      EXPECT_EQ(limbs, twin) << n << " words, ring " << bits;
      Words y(n), z(n);
      kernels::finish_rows(x, shifts.data(), Ring{bits}, y.data());
      kernels::scalar::finish_rows(x, shifts.data(), Ring{bits}, z.data());
      EXPECT_EQ(y, z);
    }
  }
}

TEST(IntKernels, equal_their_scalar_twins) {
  std::mt19937_64 random(3);
  constexpr std::size_t k_groups = 75;
  alignas(64) std::uint8_t packed[k_groups * kernels::group_bytes(12)];
  for (auto& v : packed) v = static_cast<std::uint8_t>(random());
  for (const int weight_bits : {8, 12}) {
    const kernels::IntBlock block{packed, k_groups, weight_bits};
    for (const int bits : {16, 32, 48, 64}) {
      for (std::size_t n = 1; n <= 12; ++n) {
        const std::size_t vectors = kernels::int_vectors(Ring{bits}, n);
        ASSERT_LE(vectors, n);
        std::vector<std::uint32_t> x(k_groups * 4 * vectors * 4);
        // Small limbs: random bytes hold -2^(bits - 1) too, which is no weight and beyond the kernels' bounds.
        for (auto& v : x) v = static_cast<std::uint32_t>(random()) & 0x3fff3fff;
        Words y(vectors * 32), z(vectors * 32);
        kernels::int_block(block, x.data(), vectors, Ring{bits}, y.data());
        kernels::scalar::int_block(block, x.data(), vectors, Ring{bits}, z.data());
        for (std::size_t i = 0; i < y.size(); ++i)
          EXPECT_EQ(y[i] & Ring{bits}.mask(), z[i] & Ring{bits}.mask()) << bits;
      }
    }
  }
}

}  // namespace
}  // namespace permllm
