// Offline material on its way: orders, and what is made by them, with their bounds.
#pragma once

#include <cstdint>
#include <vector>

#include "page/transformer.h"
#include "wire/message.h"

namespace permllm {

// Consecutive pieces of one part: to deal, or dealt. All layers of a slot are dealt together.
struct PackOrder {  // user -> helper: deal this; user and helper then send it to the provider
  static constexpr Tag tag = Tag::pack_order;
  std::uint8_t kind = 0;  // Part::Kind
  std::uint32_t first = 0, count = 0;
  template <class Io>
  void visit(Io& io) {
    io.number("kind", kind);
    io.number("first", first);
    io.number("count", count);
  }
  Batch batch() const { return {first, count}; }
};

struct PackMaterial {  // helper or user -> provider: one part of a batch, piece after piece
  static constexpr Tag tag = Tag::pack_material;
  static constexpr std::size_t k_limit = std::size_t{1}
                                         << 28;  // of one piece; several together have k_cut_bytes at most
  std::uint8_t kind = 0;
  std::uint32_t layer = 0, first = 0, count = 0;
  Bytes material;
  template <class Io>
  void visit(Io& io) {
    io.number("kind", kind);
    io.number("layer", layer);
    io.number("first", first);
    io.number("count", count);
    io.raw("material", material, k_limit);
  }
};

struct PackDealt {  // helper -> user: an order is done
  static constexpr Tag tag = Tag::pack_dealt;
  template <class Io>
  void visit(Io&) {}
};

struct PackEnd {  // user -> helper and provider, helper -> provider: no more material in this session
  static constexpr Tag tag = Tag::pack_end;
  template <class Io>
  void visit(Io&) {}
};

// Bounds of an order, or of a delivery (of which the user's queries are one), against a peer's nonsense. Errors: malformed.
void check_pieces(const Plan& plan, const PackOrder& order);
// Bounds of an order to the helper, against a peer's nonsense: kind known and not of the user alone, count positive, inside the
// chain.
void check_order(const Plan& plan, const PackOrder& order);

constexpr std::size_t k_deal_batch = 256;  // pieces dealt together at most: one expansion of U serves them all
constexpr std::size_t k_query_batch = 16;  // queries, of which each is up to 3.5 MB and gains nothing by company
// The same, where so many pieces of the chain have PackMaterial::k_limit bytes together. Errors: unsupported, where one has more.
std::size_t deal_batch(const Plan& plan, Part::Kind kind);
// An order in parts whose pieces have k_dealt_bytes together, or of k_least_dealt pieces: what the helper has of it at once. Its matrices are
// there, so that little is lost by it; a user, who expands U for each, deals an order whole.
struct PartOrder {
  PackOrder order;
  std::size_t bytes = 0;  // of the longest frames that it makes, all of one layer
};
std::vector<PartOrder> parts_of(const Plan& plan, const PackOrder& order);
constexpr std::size_t k_dealt_bytes = std::size_t{4} << 20, k_least_dealt = 16;
// Bytes of the longest PackMaterial: k_cut_bytes of pieces, or a single piece that has more.
std::size_t most_material(const Plan& plan);

}  // namespace permllm
