// Sums of rows in words of 128 bits: what attention makes of keys in rings beyond 64 bits. Arithmetic is modulo 2^104 at least; the caller reduces.
// Dispatched at run time: multiply-adds of 52 bits where the processor has them; a scalar twin else, and for tests to compare with. No step and no address
// depends on the words.
#pragma once

#include <cstddef>

#include "ring/ring.h"

namespace permllm {

// out[d] += sum over j < n of weights[j] values[j stride + d], for d < dim. Values are such words, or signed integers in 64 bits.
void mix_rows(const Wide* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out);
void mix_rows(const Wide* weights, const Wide* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out);

namespace scalar {
void mix_rows(const Wide* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out);
void mix_rows(const Wide* weights, const Wide* values, std::size_t stride, std::size_t n, std::size_t dim, Wide* out);
}  // namespace scalar

}  // namespace permllm
