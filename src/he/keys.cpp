#include "he/keys.h"

#include <algorithm>

#include "he/sample.h"
#include "rand/domains.h"

namespace permllm::he {

SecretKey::SecretKey(const Seed& seed) : coefficients_(k_degree), factor_(k_residues) {
  Stream stream(seed, domain::he_secret_key);
  ternary(stream, coefficients_.words());
  residues_of(coefficients_.words(), factor_.words());
  evaluate(factor_.words());
  make_factor(factor_.words());
}

Words common_polynomial(std::string_view context) {
  Words a(k_residues);
  Stream stream(derive(Seed{}, domain::he_common, context), 0);
  uniform(stream, a);
  return a;
}

PublicKey public_key(const SecretKey& secret, std::string_view context, const Seed& seed) {
  SecretWords error(k_degree), product(k_residues);
  Stream stream(seed, domain::he_key_error);
  centred_binomial(stream, error.words());
  PublicKey key{Words(k_residues)};
  residues_of(error.words(), key.b);
  std::ranges::copy(common_polynomial(context), product.words().begin());
  evaluate(product.words());
  multiply(product.words(), secret.factor());
  interpolate(product.words());
  subtract(key.b, product.words());
  return key;
}

}  // namespace permllm::he
