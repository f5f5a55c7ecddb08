// Loops over words that protocols do again and again. Arithmetic is modulo 2^64; the caller reduces.
//
// Dispatched at run time (Highway); each has a scalar twin that tests compare with. No step and no address depends on
// the words, only on lengths and on the order, which is its owner's own secret.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ring/ring.h"

namespace permllm {

// to += a; to -= a.
void add(std::span<Word> to, std::span<const Word> a);
void subtract(std::span<Word> to, std::span<const Word> a);

// out[j] = cut(y[order[j]] sign[order[j]] + level + s0[j], drop). sign: 1 or -1 by column of y; null: all 1.
// out may be s0, not y.
void permute_cut(std::span<const Word> y, std::span<const Word> s0, std::span<const std::uint32_t> order,
                 const Word* sign, Word level, int drop, std::span<Word> out);

// shown[j] = centre(a[j] + cut(s1[j], drop), sent).
void open(std::span<const Word> a, std::span<const Word> s1, int drop, Ring sent, std::span<std::int64_t> shown);

// y[order[j]] = b[j] sign[order[j]] + w[order[j]]. sign as above. y is none of the others.
void unpermute_add(std::span<const Word> b, std::span<const std::uint32_t> order, const Word* sign,
                   std::span<const Word> w, std::span<Word> y);

// dot(a, b, n), of one row, is declared in ring.h.
// out[j] += q . keys[j stride ..], for j < n_keys; rows of `dim` words.
void dots(const Word* q, const Word* keys, std::size_t stride, std::size_t n_keys, std::size_t dim, Word* out);

// out[d] += sum over j < n of weights[j] values[j stride + d], for d < dim.
void mix_rows(const Word* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Word* out);

namespace scalar {
void add(std::span<Word> to, std::span<const Word> a);
void subtract(std::span<Word> to, std::span<const Word> a);
void permute_cut(std::span<const Word> y, std::span<const Word> s0, std::span<const std::uint32_t> order,
                 const Word* sign, Word level, int drop, std::span<Word> out);
void open(std::span<const Word> a, std::span<const Word> s1, int drop, Ring sent, std::span<std::int64_t> shown);
void unpermute_add(std::span<const Word> b, std::span<const std::uint32_t> order, const Word* sign,
                   std::span<const Word> w, std::span<Word> y);
Word dot(const Word* a, const Word* b, std::size_t n);
void dots(const Word* q, const Word* keys, std::size_t stride, std::size_t n_keys, std::size_t dim, Word* out);
void mix_rows(const Word* weights, const Word* values, std::size_t stride, std::size_t n, std::size_t dim, Word* out);
// pack and unpack, of bytes on the wire, are declared in ring/pack.h.
void pack(std::span<const Word> words, Ring ring, std::uint8_t* out);
void unpack(const std::uint8_t* in, Ring ring, std::span<Word> words);
}  // namespace scalar

}  // namespace permllm
