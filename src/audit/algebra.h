// Matrices of real numbers, for the audit's own files alone.
#pragma once

#include <Eigen/Dense>
#include <cmath>
#include <cstddef>
#include <vector>

#include "ring/int_matrix.h"

namespace permllm::algebra {

using Matrix = Eigen::MatrixXd;
using Index = Eigen::Index;

inline Index as_index(std::size_t n) { return static_cast<Index>(n); }

inline Matrix centred(const Matrix& m) { return m.rowwise() - m.colwise().mean(); }

// The real weights of some rows.
inline Matrix rows_of(const IntMatrix& w, const std::vector<std::size_t>& rows) {
  Matrix m(as_index(rows.size()), as_index(w.cols()));
  std::vector<std::int32_t> row(w.cols());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    w.row(rows[i], row);
    for (std::size_t j = 0; j < row.size(); ++j)
      m(as_index(i), as_index(j)) = std::ldexp(static_cast<double>(row[j]), -w.frac());
  }
  return m;
}

}  // namespace permllm::algebra
