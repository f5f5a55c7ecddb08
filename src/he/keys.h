// The user's keys: the secret one, and the public one with which the provider makes its answers afresh.
//
// Every function here and in query.h and answer.h that takes a Seed is a function of it: a seed makes one object and never
// another. Code that touches a secret has no branch and no address that depends on it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "he/parameters.h"
#include "he/polynomial.h"
#include "he/wire.h"
#include "rand/seed.h"

namespace permllm::he {

// Uniform ternary; zeroed when dropped.
class SecretKey {
 public:
  explicit SecretKey(const Seed& seed);
  // N coefficients, each 0, 1 or 2^64 - 1.
  std::span<const Word> coefficients() const { return coefficients_.words(); }
  // Evaluated, in Montgomery's form (he/polynomial.h).
  std::span<const Word> factor() const { return factor_.words(); }

 private:
  SecretWords coefficients_, factor_;
};

// b = -a s + e modulo q. `a` is expanded from a hash of `context` and is not sent: both parties compute it.
struct PublicKey {
  Words b;  // residues (he/polynomial.h), reduced
  // "version", "parameters", "b". Errors when read: malformed, naming the field.
  template <class Io>
  void visit(Io& io) {
    number_is(io, "version", k_version);
    number_is(io, "parameters", k_parameter_id);
    residues(io, "b", b, 1);
  }
};
constexpr std::size_t key_bytes() { return 4 + residues_bytes(1); }

// `context`: what both parties know and the user did not choose, such as the session's number where the provider draws it.
PublicKey public_key(const SecretKey& secret, std::string_view context, const Seed& seed);

// Residues of the `a` of a context.
Words common_polynomial(std::string_view context);

}  // namespace permllm::he
