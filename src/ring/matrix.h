// Matrices and the one call for every product: product(matrix, vectors, executor).
//
// Vectors are stored one after the other: x holds n vectors of matrix.cols() entries, y n vectors of matrix.rows().
// Kernels dispatch at run time (Highway); each has a scalar twin that tests compare with.
#pragma once

#include "ring/float_matrix.h"
#include "ring/int_matrix.h"
#include "ring/ring_matrix.h"

namespace permllm {

// Of a party without one: the online user, and the cost counter.
struct NoMatrix {};

}  // namespace permllm
