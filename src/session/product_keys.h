// What the user of a checked plan (Plan::checked) has of each matrix: Freivalds' secret vector s, and s W, which the helper makes for it once.
//                                                                                                          docs/protocol.md 4.14
//
// User and helper know s, the provider nothing of it. Matrices are numbered as in session/model_order.h.
#pragma once

#include <functional>
#include <vector>

#include "ring/freivalds.h"
#include "session/fields.h"
#include "session/model_order.h"

namespace permllm {

struct ProductKeyOrder {  // user -> helper, at most once a filling
  static constexpr Tag tag = Tag::product_key_order;
  Seed seed;  // of s of all matrices, drawn by the user for this alone
  template <class Io>
  void visit(Io& io) {
    permllm::visit(io, seed);
  }
};

struct ProductKeyWords {  // helper -> user, for each matrix
  static constexpr Tag tag = Tag::product_key_words;
  Block words;  // the length of the longest row, rounded up; s W by column
  template <class Io>
  void visit(Io& io) {
    io.block("words", words);
  }
};

// Of one matrix.
struct ProductKey {
  Words s;  // by row, below the prime
  std::uint64_t longest_row = 0;
  Words combined;  // s W, by column
};
// Of all of a model's, by number.
struct ProductKeys {
  Seed seed;
  std::vector<ProductKey> matrices;
};

// s of matrix `id`: words of the seed's stream, reduced (ring/freivalds.h).
Words secret_rows(const ReadableStream& stream, std::uint32_t id, std::size_t rows);
// The matrix that a shape of the plan belongs to.
std::uint32_t matrix_number(const Plan& plan, const LinearShape& shape);

// The helper's: what it sends for each matrix in turn.
void make_product_keys(const IntWeights& weights, const Plan& plan, const Seed& seed, Executor& executor,
                       const std::function<void(ProductKeyWords)>& each);
// The user's: each() is the next message, of which it states what is expected. Errors: malformed, where a number is not below the prime.
ProductKeys read_product_keys(const Plan& plan, const Seed& seed,
                              const std::function<ProductKeyWords(ProductKeyWords)>& each);
// Payload bytes of all of these messages.
std::uint64_t product_key_bytes(const Plan& plan);
// What ProductKeys take at the user.
std::size_t product_key_memory(const Plan& plan);

}  // namespace permllm
