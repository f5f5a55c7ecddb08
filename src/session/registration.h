// How a model comes to the helper, as V = W - U (public weights: W) in chunks (docs/wire.md 3).
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "plan/plan_io.h"
#include "session/fields.h"
#include "session/masked_model.h"

namespace permllm {

// provider -> helper: a model is about to come, as the bytes of session/masked_model.h, cut into chunks.
struct ModelOffer {
  static constexpr Tag tag = Tag::model_offer;
  static constexpr std::uint32_t k_least_chunk = 1 << 10, k_most_chunk = 1 << 22, k_most_chunks = 1 << 20;
  static constexpr std::size_t k_most_matrices = std::size_t{1} << 16;
  static constexpr std::size_t k_most = std::size_t{1} << 20;  // a plan of 1,000 layers has a tenth of it
  std::string model_id;
  Plan plan;                // of a session that hides no positions
  std::uint64_t bytes = 0;  // of V: what plan and packings say
  std::uint32_t chunk = 0;  // bytes of each chunk but the last: a multiple of 64
  Packings packings = {};
  std::uint32_t chunks() const { return static_cast<std::uint32_t>((bytes + chunk - 1) / chunk); }
  // Of chunk `number`, below chunks().
  std::size_t chunk_bytes(std::uint32_t number) const {
    return std::min<std::uint64_t>(chunk, bytes - std::uint64_t{number} * chunk);
  }
  template <class Io>
  void visit(Io& io) {
    io.text("model_id", model_id, 64);
    permllm::visit(io, plan);
    if constexpr (std::is_same_v<Io, Reader>) {
      if (plan.hides_positions) io.refuse("plan.hides_positions", "1, expected 0: that is a session's choice");
    }
    io.number("bytes", bytes);
    io.number("chunk", chunk);
    io.list("packings", packings, k_most_matrices,
            [](auto& out, std::uint8_t& packing) { out.number("packing", packing); });
  }
};

// helper -> provider: what it has of some chunks, in order, from the first on until all have been named: their hashes, zeros
// where it has none.
struct ModelHeld {
  static constexpr Tag tag = Tag::model_held;
  static constexpr std::size_t k_step = 64;
  std::vector<Digest> hashes;
  template <class Io>
  void visit(Io& io) {
    io.list("hashes", hashes, k_step, [](auto& out, Digest& digest) { permllm::visit(out, digest); });
  }
};

struct ModelChunk {  // provider -> helper, in order of their numbers
  static constexpr Tag tag = Tag::model_chunk;
  std::uint32_t number = 0;
  Digest hash{};
  Bytes bytes;
  template <class Io>
  void visit(Io& io) {
    io.number("number", number);
    permllm::visit(io, hash);
    io.raw("bytes", bytes, ModelOffer::k_most_chunk);
  }
};

// helper -> provider, for each chunk: so a refusal is found before more than k_window chunks have been sent in vain.
struct ModelTaken {
  static constexpr Tag tag = Tag::model_taken;
  static constexpr std::size_t k_window = 16;
  std::uint32_t number = 0;
  template <class Io>
  void visit(Io& io) {
    io.number("number", number);
  }
};

struct ModelEnd {  // provider -> helper: all has been taken
  static constexpr Tag tag = Tag::model_end;
  Digest digest{};
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, digest);
  }
};

struct ModelStored {  // helper -> provider
  static constexpr Tag tag = Tag::model_stored;
  template <class Io>
  void visit(Io&) {}
};

Digest chunk_hash(std::span<const std::uint8_t> bytes);
// Of a whole model: binds id, plan, sizes and the hashes of all chunks.
Digest model_digest(const ModelOffer& offer, std::span<const Digest> hashes);

}  // namespace permllm
