// V = W - U as one run of bytes: what the provider sends to the helper, chunk by chunk, and what lies in the helper's store.
//
// Matrices in the order of for_each_matrix, row-major in their containers, then gains in that of for_each_gain as words of
// 8 bytes. Each begins at a multiple of 64 bytes, with zeros in between: a chunk never cuts a word.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "session/model_order.h"

namespace permllm {

// Where one matrix or gain lies.
struct Segment {
  std::uint32_t id = 0;                           // of for_each_matrix or for_each_gain: also of U's stream
  std::size_t rows = 0, cols = 0, container = 0;  // of a gain: one column
  std::uint64_t offset = 0;
  std::uint64_t row_bytes() const { return std::uint64_t{cols} * container; }
  std::uint64_t bytes() const { return rows * row_bytes(); }
};
std::vector<Segment> segments_of(const Plan& plan);
// Of all of V.
std::uint64_t masked_model_bytes(const Plan& plan);

// The helper's: matrices that view `bytes`, which is all of V and outlives them; gains are copied.
Weights<RingMatrix> view_masked_model(const Plan& plan, std::span<const std::uint8_t> bytes);

// The provider's. Bytes [offset, offset + out.size()) of V, at multiples of 64 bytes; U is 0 where the weights are public.
// Called from several threads.
class MaskedModel {
 public:
  // The arguments outlive it.
  MaskedModel(const IntWeights& weights, const Plan& plan, const Seed& mask_seed);
  void fill(std::uint64_t offset, std::span<std::uint8_t> out) const;

 private:
  void fill_segment(std::size_t s, std::uint64_t offset, std::span<std::uint8_t> out) const;
  bool open_;
  ReadableStream stream_;
  std::vector<Segment> segments_;
  std::vector<const IntMatrix*> matrices_;  // by segment, then
  std::vector<const Gain*> gains_;
};

// Of the integers of all matrices and gains, as they are, and of the plan: two models that differ in any of these must not have
// one U between them, since two V of one U tell the difference of the W.
Digest weights_digest(const IntWeights& weights, const Plan& plan, Executor& executor);

}  // namespace permllm
