// Queries: the user encrypts an index ahead of time, the provider prepares what it received.
#pragma once

#include <array>
#include <cstdint>

#include "he/keys.h"

namespace permllm::he {

// X^-j in one block and 0 in the others, encrypted. A reader states `parameters`, which the sender's must equal.
struct Query {
  Parameters parameters;
  std::array<std::uint8_t, Seed::k_bytes> seed{};  // public: expands to a_b of every block
  Words c0;                                        // residues of each block, reduced
  // "version", "parameters", "plain_bits", "blocks", "seed", "c0". Errors when read: malformed, naming the field.
  template <class Io>
  void visit(Io& io) {
    number_is(io, "version", k_version);
    number_is(io, "parameters", k_parameter_id);
    number_is(io, "plain_bits", static_cast<std::uint16_t>(parameters.plain_bits));
    number_is(io, "blocks", static_cast<std::uint16_t>(parameters.blocks));
    bytes_of(io, "seed", seed);
    residues(io, "c0", c0, parameters.blocks);
  }
};
constexpr std::size_t query_bytes(const Parameters& p) { return 8 + 4 + Seed::k_bytes + residues_bytes(p.blocks); }

// A uniform number below p.positions(), within 2^-109: 128 random bits, no rejection.
std::size_t random_index(const Parameters& p, const Seed& seed);

// Encrypts `index` < p.positions(). A second query of one seed and another index would show both.
Query encrypt(const SecretKey& secret, const Parameters& p, std::size_t index, const Seed& seed);

// Residues of the a_b of every block of a query.
Words query_polynomials(const Query& query);

// A query with both polynomials of every block evaluated, which is most of an answer's work: 128 KiB a block, made once,
// ahead of time, used for one answer.
class PreparedQuery {
 public:
  explicit PreparedQuery(const Query& query);
  const Parameters& parameters() const { return parameters_; }
  // Factors (he/polynomial.h) of block b.
  std::span<const Word> c0(std::size_t b) const { return std::span(c0_).subspan(b * k_residues, k_residues); }
  std::span<const Word> c1(std::size_t b) const { return std::span(c1_).subspan(b * k_residues, k_residues); }

 private:
  Parameters parameters_;
  Words c0_, c1_;
};

}  // namespace permllm::he
