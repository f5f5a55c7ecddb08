// Where a model file keeps the matrices of Weights: names, order of rows, norms to fold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/model_file.h"
#include "model/weights.h"

namespace permllm {

// A matrix as rows of tensors. It points into the model file.
struct MatrixSource {
  std::vector<const GgufTensor*> parts;  // one on top of the other, each of rows of `cols`
  std::size_t cols = 0;
  std::vector<std::uint32_t> order;  // row r is row order[r] of the parts; empty: as they stand
  std::vector<float> row_gain;       // factors of the rows; empty: 1
  std::vector<float> gain;           // factors of the columns; empty: 1
  std::vector<float> shift;          // W shift, W without gain of columns, is added to what W puts out; empty: 0
  bool centred = false;              // each row, with its gain, less its mean

  std::size_t rows() const;
  // The tensor of row r.
  const GgufTensor& tensor_of(std::size_t r) const;
  // Writes row r of the matrix; with `added`, also what the shift adds to entry r of its output.
  void row(std::size_t r, std::span<float> out, double* added = nullptr) const;
  // The codes of all parts in one form, where they have one: all but the columns' gains.
  std::optional<CodeForm> code_form() const;
  // `form`: what code_form() says.
  void codes(std::size_t r, const CodeForm& form, CodedRow& out) const;
};

// x.y, in a loop that vectorises.
double dot(std::span<const float> x, std::span<const float> y);

// Biases are those of the file: what shifts add is not in them. `embed` is the table as it stands, vocab x width.
using ModelSource = Weights<MatrixSource>;

// The tensors of a file, of which each has to be used: one that is not would change what the model says.
class Tensors {
 public:
  explicit Tensors(const ModelFile& file) : file_(file) {}
  // A vector of finite numbers. Errors (these and those below): file or unsupported, naming the tensor.
  std::vector<float> vector(const std::string& name, std::size_t size);
  // Tensors NAME.weight of so many rows on top of one another, and the vectors NAME.bias likewise into `bias`, if not null.
  MatrixSource matrix(const std::vector<std::pair<std::string, std::size_t>>& names, std::size_t cols,
                      std::vector<float>* bias = nullptr);
  // Refuses what was not asked for, but for a few known to be harmless.
  void refuse_others(const std::string& architecture) const;

 private:
  const GgufTensor& take(const std::string& name, std::span<const std::uint64_t> shape);
  const ModelFile& file_;
  std::set<const GgufTensor*> used_;
};

// What a matrix puts out, its bias too, times a factor for each row, beside those that it has.
void scale_rows(const std::vector<float>& factors, MatrixSource& matrix, std::vector<float>* bias = nullptr);

// The norm that is folded into the matrix behind it: NAME.weight and, with LayerNorm, NAME.bias.
void fold_norm(Tensors& tensors, const Config& config, const std::string& name, MatrixSource& matrix);

// Integers of k_gain_bits, with as many fraction bits as fit, at most 14. Errors: unsupported, naming the tensor.
Gain to_gain(const std::vector<float>& values, const std::string& name);

// Entry e of a head, rotary pairs adjacent, is entry order[e] of the file's: there, of each of `parts` equal parts, entry i of
// the first `dims` turns with entry i + dims / 2.
std::vector<std::uint32_t> adjacent_pairs(std::size_t head_dim, std::size_t dims, std::size_t parts);

// Puts rows of q, k and v, and their bias, in order. row_of(kind, head), kind 0 to 2, is the first row of a head in the file;
// `pairs` the order of entries in heads of q and k.
void order_qkv(const Config& config, const std::function<std::size_t(std::size_t, std::size_t)>& row_of,
               const std::vector<std::uint32_t>& pairs, MatrixSource& matrix, std::vector<float>& bias);

}  // namespace permllm
