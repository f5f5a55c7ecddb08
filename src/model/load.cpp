#include "model/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/mapped_file.h"
#include "base/mutex.h"
#include "model/architectures.h"
#include "model/survey.h"
#include "permllm/error.h"

namespace permllm {
namespace {

constexpr std::size_t k_task_rows = 32;
static_assert(k_task_rows == Machines::k_block);
// Of a row of the embedding table: of its entries, sign included, and the fraction bits that the residual has in any case.
constexpr int k_row_bits = 16, k_row_frac = 16;

// Makes matrices out of sources and counts what is done.
class Loader {
 public:
  Loader(std::size_t weights, Executor& executor, const LoadProgress& progress, Machines* machines)
      : weights_(weights), executor_(executor), progress_(progress), machines_(machines) {}
  bool has_table() const { return machines_ == nullptr || machines_->own() == 0; }

  // A matrix, and the whole of what is added to its output.
  IntMatrix integers(const MatrixSource& source, std::vector<float>& bias, int bits) {
    const WeightStatistics statistics = survey(source, bias, nullptr, machines_);
    refuse_large(source, statistics, bits);
    std::optional<IntMatrix> matrix;
    // Codes of the file where it has them and they fit: fewer bytes to read a token.
    if (const std::optional<CodeForm> form = source.code_form(); form && bits == k_weight_bits) {
      const auto codes_at = [&](std::size_t r, CodedRow& out) { source.codes(r, *form, out); };
      matrix = IntMatrix::from_codes(source.rows(), source.cols, *form, codes_at, source.gain, statistics, executor_,
                                     machines_);
    }
    if (!matrix) {
      const auto row_at = [&](std::size_t r, std::span<float> out) { source.row(r, out); };
      matrix = IntMatrix::from_rows(source.rows(), source.cols, row_at, IntMatrix::scale_of(statistics, bits),
                                    executor_, bits, machines_);
    }
    matrix->coarsen(matrix->needless_bits(), executor_);
    return count(source, std::move(*matrix));
  }
  FloatMatrix reals(const MatrixSource& source, std::vector<float>& bias) {
    FloatMatrix matrix{source.rows(), source.cols, std::vector<float>(source.rows() * source.cols)};
    survey(source, bias, matrix.values.data());
    return count(source, std::move(matrix));
  }
  // Tables, transposed. Entries, with `added` to each, stay below 2^15; within that as fine as the residual takes them (docs/protocol.md 2.3).
  IntMatrix integer_columns(const MatrixSource& table, float added) {
    std::vector<float> none;
    const WeightStatistics statistics = survey(table, none);
    refuse_large(table, statistics, k_weight_bits);
    const float largest = *std::max_element(statistics.column.begin(), statistics.column.end());
    const int frac = IntMatrix::fraction_bits(largest, k_weight_bits),
              most = std::min(IntMatrix::fraction_bits(largest + added, k_row_bits), std::max(frac, k_row_frac));
    const auto column_at = [&](std::size_t c, std::span<float> out) { table.row(c, out); };
    return count(table, IntMatrix::from_columns(table.cols, table.rows(), column_at, statistics.column,
                                                std::clamp(most - frac, 0, k_row_bits - k_weight_bits), executor_));
  }
  FloatMatrix real_columns(const MatrixSource& table) {
    std::vector<float> none;
    survey(table, none);
    FloatMatrix matrix{table.cols, table.rows(), std::vector<float>(table.rows() * table.cols)};
    executor_.parallel((table.rows() + k_task_rows - 1) / k_task_rows, [&](std::size_t task) {
      std::vector<float> column(table.cols);
      for (std::size_t c = task * k_task_rows; c < std::min(table.rows(), (task + 1) * k_task_rows); ++c) {
        table.row(c, column);
        for (std::size_t r = 0; r < table.cols; ++r) matrix.values[r * table.rows() + c] = column[r];
      }
    });
    return count(table, std::move(matrix));
  }

 private:
  // Integers have no fewer fraction bits than none.
  static void refuse_large(const MatrixSource& source, const WeightStatistics& statistics, int bits) {
    const auto row = std::max_element(statistics.row.begin(), statistics.row.end());
    if (IntMatrix::fraction_bits(*row, bits) >= 0) return;
    throw Error(Code::unsupported,
                "tensor " + source.tensor_of(static_cast<std::size_t>(row - statistics.row.begin())).name,
                fmt::format("holds a weight of {:g}{}, at most {} are supported", double{*row},
                            source.gain.empty() ? "" : ", its norm's gain folded in", (1 << (bits - 1)) - 1));
  }
  // The rows go into `values`, if not null; what the source's shift adds into `bias`. Every number of a model file is checked where it
  // becomes a weight. With machines, each looks at its rows, and all know what all have found.
  WeightStatistics survey(const MatrixSource& source, std::vector<float>& bias, float* values = nullptr,
                          Machines* machines = nullptr) {
    const std::size_t rows = source.rows(), cols = source.cols, tasks = (rows + k_task_rows - 1) / k_task_rows;
    const Machines::Rows own = machines == nullptr ? Machines::Rows{0, rows} : machines->rows(machines->own(), rows);
    if (!source.shift.empty()) bias.resize(rows);
    std::vector<std::int32_t> largest(cols);  // as survey_row has them
    // Squares are summed by task, then in the order of tasks: the same file gives the same integers.
    std::vector<float> squares(tasks * cols);
    WeightStatistics statistics{std::vector<float>(rows), std::vector<float>(cols), std::vector<double>(rows),
                                std::vector<double>(cols)};
    Mutex joining;
    executor_.parallel((own.count() + k_task_rows - 1) / k_task_rows, [&](std::size_t task_of_own) {
      const std::size_t first = own.first + task_of_own * k_task_rows;
      std::vector<float> scratch(values == nullptr ? cols : 0);
      std::vector<std::int32_t> of_task(cols);
      const std::span<float> squares_of_task = std::span(squares).subspan(first / k_task_rows * cols, cols);
      for (std::size_t r = first; r < std::min(own.end, first + k_task_rows); ++r) {
        const auto row = values == nullptr ? std::span(scratch) : std::span(values + r * cols, cols);
        double added = 0;
        source.row(r, row, &added);
        const RowSurvey of_row = survey_row(row, of_task, squares_of_task);
        statistics.row[r] = std::bit_cast<float>(of_row.largest);
        statistics.squares_of_rows[r] = of_row.squares;
        if (!source.shift.empty()) bias[r] += static_cast<float>(added);
        if (!std::isfinite(statistics.row[r]) || !std::isfinite(added)) {
          throw Error(Code::file, "tensor " + source.tensor_of(r).name, "holds a weight that is not a finite number");
        }
      }
      const Lock lock(joining);
      for (std::size_t c = 0; c < cols; ++c) largest[c] = std::max(largest[c], of_task[c]);
    });
    std::memcpy(statistics.column.data(), largest.data(), cols * sizeof(float));
    if (machines != nullptr) {
      machines->raise(statistics.column);
      machines->complete(std::span(statistics.row));
      machines->complete(std::span(statistics.squares_of_rows));
      machines->complete_blocks(std::span(squares), rows);
      if (!source.shift.empty()) machines->complete(std::span(bias));
    }
    constexpr std::size_t k_columns = 256;  // of a task
    executor_.parallel((cols + k_columns - 1) / k_columns, [&](std::size_t task) {
      double* const sums = statistics.squares_of_columns.data();
      for (std::size_t of_task = 0; of_task < tasks; ++of_task) {
        const float* const from = squares.data() + of_task * cols;
        for (std::size_t c = task * k_columns; c < std::min(cols, (task + 1) * k_columns); ++c)
          sums[c] += double{from[c]};
      }
    });
    return statistics;
  }

  // The file's part of it is not needed any more: the process holds what is made of it, not both.
  template <class Matrix>
  Matrix count(const MatrixSource& source, Matrix matrix) {
    for (const GgufTensor* part : source.parts) {
      if (part->mapped) let_go(part->data);
    }
    done_ += matrix.rows() * matrix.cols();
    if (progress_) progress_(static_cast<double>(done_) / static_cast<double>(weights_));
    return matrix;
  }

  std::size_t weights_, done_ = 0;
  Executor& executor_;
  const LoadProgress& progress_;
  Machines* machines_;
};

// `matrix_of` makes a matrix and completes its bias, `table_of` transposes a table.
template <class Matrix, class MatrixOf, class TableOf>
Weights<Matrix> load(ModelSource source, Executor& executor, const LoadProgress& progress, const MatrixOf& matrix_of,
                     const TableOf& table_of, Machines* machines = nullptr) {
  std::size_t weights = 0;
  const auto add = [&](const MatrixSource& matrix) { weights += matrix.rows() * matrix.cols; };
  add(source.embed);
  add(source.head);
  for (const auto& layer : source.layers) {
    for (const MatrixSource* matrix : {&layer.qkv, &layer.o, &layer.up, &layer.down}) add(*matrix);
  }
  Loader loader(weights, executor, progress, machines);
  Weights<Matrix> w{std::move(source.config), {}, {}, {}, std::move(source.head_bias), std::move(source.positions)};
  if (loader.has_table()) w.embed = table_of(loader, source.embed);
  w.head = matrix_of(loader, source.head, w.head_bias);
  for (LayerWeights<MatrixSource>& from : source.layers) {
    w.layers.push_back({.qkv = matrix_of(loader, from.qkv, from.qkv_bias),
                        .o = matrix_of(loader, from.o, from.o_bias),
                        .up = matrix_of(loader, from.up, from.up_bias),
                        .down = matrix_of(loader, from.down, from.down_bias),
                        .qkv_bias = std::move(from.qkv_bias),
                        .o_bias = std::move(from.o_bias),
                        .up_bias = std::move(from.up_bias),
                        .down_bias = std::move(from.down_bias),
                        .qk_gain = std::move(from.qk_gain),
                        .attention_gain = std::move(from.attention_gain),
                        .mlp_gain = std::move(from.mlp_gain),
                        .attention_shift = std::move(from.attention_shift),
                        .mlp_shift = std::move(from.mlp_shift)});
  }
  return w;
}

ModelSource source_of(const ModelFile& file) {
  return file.gguf() != nullptr ? gguf_source(file) : chatglm_6b_source(file);
}

}  // namespace

Config read_config(const ModelFile& file) {
  return file.gguf() != nullptr ? gguf_config(file) : chatglm_6b_config(file);
}

IntWeights load_int_weights(const ModelFile& file, Executor& executor, int bits, const LoadProgress& progress,
                            Machines* machines) {
  ModelSource model = source_of(file);
  float added = 0;
  for (const float v : model.positions) added = std::max(added, std::fabs(v));
  return load<IntMatrix>(
      std::move(model), executor, progress,
      [=](Loader& loader, const MatrixSource& source, std::vector<float>& bias) {
        return loader.integers(source, bias, bits);
      },
      [=](Loader& loader, const MatrixSource& table) { return loader.integer_columns(table, added); }, machines);
}

FloatWeights load_float_weights(const ModelFile& file, Executor& executor, const LoadProgress& progress) {
  return load<FloatMatrix>(
      source_of(file), executor, progress,
      [](Loader& loader, const MatrixSource& source, std::vector<float>& bias) { return loader.reals(source, bias); },
      [](Loader& loader, const MatrixSource& table) { return loader.real_columns(table); });
}

}  // namespace permllm
