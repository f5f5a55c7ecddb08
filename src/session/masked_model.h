// What the helper holds of a model, as one run of bytes: what the provider sends it, chunk by chunk, and what lies in its store. V = W - U, or
// where the weights are public W itself, as the provider packs it.
//
// Matrices in the order of for_each_matrix, then gains in that of for_each_gain. Of V: row-major, each word in as many bytes as its ring has;
// a gain as words of 8 bytes. Of W: the shifts of columns, then of rows, a byte each; from the next multiple of 64 on the packed weights
// (ring/int_kernels.h). Each begins at a multiple of 64 bytes, with zeros in between.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "session/model_order.h"

namespace permllm {

// Of V's and U's layout. One of another is another U's, by weights_digest: two V in two layouts of one stream would tell of W.
inline constexpr std::uint32_t k_layout = 2;

// Where one matrix or gain lies.
struct Segment {
  std::uint32_t id = 0;            // of for_each_matrix or for_each_gain: also of U's stream
  std::size_t rows = 0, cols = 0;  // of a gain: one column
  std::optional<Packing> packing;  // of packed weights; else words of a ring
  Ring ring;
  std::uint64_t offset = 0;
  std::uint64_t row_bytes() const { return std::uint64_t{cols} * ring.bytes(); }
  // Packed weights: where they begin, behind the shifts.
  std::uint64_t packed_at() const { return (std::uint64_t{cols} + rows + 63) / 64 * 64; }
  std::uint64_t bytes() const {
    return packing ? packed_at() + IntMatrix::packed_bytes(rows, cols, *packing) : rows * row_bytes();
  }
};

// The packing of each matrix (Packing::byte), where the weights are public; else none. The plan does not tell them.
using Packings = std::vector<std::uint8_t>;
Packings packings_of(const IntWeights& weights, const Plan& plan);
// Errors: malformed, naming `field`, where a peer's fit no matrices of the plan.
void check_packings(const Packings& packings, const Plan& plan, const char* field);

std::vector<Segment> segments_of(const Plan& plan, const Packings& packings);
// Of all of it.
std::uint64_t masked_model_bytes(const Plan& plan, const Packings& packings = {});

// The helper's: matrices that view `bytes`, which is all of V and outlives them; gains are copied.
Weights<RingMatrix> view_masked_model(const Plan& plan, std::span<const std::uint8_t> bytes);
// Likewise of W. Errors: malformed, where a shift is more than k_most_shift.
IntWeights view_public_model(const Plan& plan, const Packings& packings, std::span<const std::uint8_t> bytes);

// The provider's. Bytes [offset, offset + out.size()) of V or W, at multiples of 64 bytes. Called from several threads.
class MaskedModel {
 public:
  // The arguments outlive it.
  MaskedModel(const IntWeights& weights, const Plan& plan, const Seed& mask_seed);
  void fill(std::uint64_t offset, std::span<std::uint8_t> out) const;

 private:
  void fill_words(std::size_t s, std::uint64_t offset, std::span<std::uint8_t> out) const;
  void fill_packed(std::size_t s, std::uint64_t offset, std::span<std::uint8_t> out) const;
  ReadableStream stream_;
  std::vector<Segment> segments_;
  std::vector<const IntMatrix*> matrices_;  // by segment, then
  std::vector<const Gain*> gains_;
};

// Of the integers of all matrices and gains, as they are, of the plan and of the layout: two models that differ in any of these must not have
// one U between them, since two V of one U tell the difference of the W.
Digest weights_digest(const IntWeights& weights, const Plan& plan, Executor& executor, std::uint32_t layout = k_layout);

}  // namespace permllm
