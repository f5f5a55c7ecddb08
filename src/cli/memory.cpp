#include "cli/memory.h"

#include "plan/shapes.h"
#include "ring/pack.h"

namespace permllm {

Memory memory_of(const Plan& plan, int weight_bits) {
  const Config& c = plan.config;
  Memory m;
  const auto matrix = [&](const LinearShape& s, int bits) {
    m.provider += s.rows * s.cols * static_cast<std::size_t>(bits) / 8;
    m.helper += plan.open() ? IntMatrix::packed_bytes(s.rows, s.cols, bits) : s.rows * s.cols * s.out.ring.bytes();
  };
  for (std::size_t l = 0; l < c.layers; ++l) {
    for (const LinearShape& s : {qkv_shape(plan, l), o_shape(plan, l), up_shape(plan, l), down_shape(plan, l)})
      matrix(s, weight_bits);
  }
  matrix(head_shape(plan), weight_bits);
  if (plan.open()) {
    m.provider += c.width * c.vocab * k_weight_bits / 8;
    m.user = c.width * c.vocab * sizeof(std::int16_t);
    m.user_slot = 2 * c.layers * c.kv_rows() * sizeof(float);
    return m;
  }
  matrix(embed_linear_shape(plan, Site::next_embed), k_weight_bits);
  // Keys, alpha and what is re-shared; b, k - a and L. The helper keeps nothing.
  const std::size_t keys = c.layers * c.kv_rows() * sizeof(Word),
                    reshared = plan.profile == Profile::paper ? plan.mixed(0).bits > 64 ? 2 : 1 : 0;
  m.provider_slot = (2 + reshared) * keys;
  m.user_slot = 3 * keys;
  return m;
}

}  // namespace permllm
