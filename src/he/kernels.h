// Inner loops over one polynomial modulo one of the two primes, dispatched at run time, and their scalar twins.
//
// A prime is p = k 2^32 + 1 < 2^53, so x / 2^32 modulo p is floor(x / 2^32) - (x mod 2^32) k: Montgomery's reduction of a
// product is two 32-bit multiplications in place of many. Products are x w / 2^64; one of the two is a factor, times 2^64.
//
// Words are reduced, below p, where a function takes or leaves them. Inside the transform sums grow to 25 p < 2^58 without a
// reduction. No instruction here depends on a value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ring/ring.h"

namespace permllm::he::kernels {

// N coefficients to values at the roots of X^N + 1, and back. With psi a root of order 2 N and brv a reversal of bits, values are first
// those of the usual order, at psi^(2 brv(i) + 1) for i = 64 r + c; they are kept at 64 c + r: in the first half of the
// transform rows of 64 are added, in the second columns would be, which are rows once the square is transposed.
void transform(Word* x, int prime);
void transform_back(Word* x, int prime);

// x[i] *= factor[i] / 2^64.
void multiply(Word* x, const Word* factor, int prime);
// x[i] *= factor / 2^64.
void multiply_by(Word* x, Word factor, int prime);
// sum[i] += x[i] factor[i] / 2^64, for two sums; left not reduced, below 2^60 after 64 calls that began with 0.
void multiply_add(Word* sum_a, Word* sum_b, const Word* x, const Word* factor_a, const Word* factor_b, int prime);
// Sums of the above, or any words below 2^60.
void reduce(Word* x, int prime);
// x[i] += y[i]; x[i] -= y[i].
void add(Word* x, const Word* y, int prime);
void subtract(Word* x, const Word* y, int prime);

// Name of the target that the calls above run on.
const char* target();

namespace scalar {
void transform(Word* x, int prime);
void transform_back(Word* x, int prime);
void multiply(Word* x, const Word* factor, int prime);
void multiply_by(Word* x, Word factor, int prime);
void multiply_add(Word* sum_a, Word* sum_b, const Word* x, const Word* factor_a, const Word* factor_b, int prime);
void reduce(Word* x, int prime);
void add(Word* x, const Word* y, int prime);
void subtract(Word* x, const Word* y, int prime);
}  // namespace scalar

}  // namespace permllm::he::kernels
