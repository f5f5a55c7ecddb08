#include "cli/memory.h"

#include "plan/shapes.h"
#include "ring/pack.h"
#include "session/product_keys.h"

namespace permllm {

Memory memory_of(const IntWeights& weights, const Plan& plan) {
  const Config& c = plan.config;
  Memory m;
  const auto add = [&](const LinearShape& s, const IntMatrix& w) {
    m.provider += w.packed().size();
    m.helper += plan.open() ? w.packed().size() : s.rows * s.cols * s.out.ring.bytes();
  };
  for (std::size_t l = 0; l < c.layers; ++l) {
    const LayerWeights<IntMatrix>& layer = weights.layer(l);
    add(qkv_shape(plan, l), layer.qkv);
    add(o_shape(plan, l), layer.o);
    add(up_shape(plan, l), layer.up);
    add(down_shape(plan, l), layer.down);
  }
  add(head_shape(plan), weights.head);
  if (plan.open()) {
    m.provider += weights.embed.packed().size();
    m.user = c.width * c.vocab * sizeof(std::int16_t);
    if (plan.checked) m.user += product_key_memory(plan);
    m.user_slot = 2 * c.layers * c.kv_rows() * sizeof(float);
    return m;
  }
  add(embed_linear_shape(plan, Site::next_embed), weights.embed);
  // Keys, alpha and what is re-shared; b, k - a and L. The helper keeps nothing.
  const std::size_t keys = c.layers * c.kv_rows() * sizeof(Word),
                    reshared = plan.profile == Profile::paper ? plan.mixed(0).bits > 64 ? 2 : 1 : 0;
  m.provider_slot = (2 + reshared) * keys;
  m.user_slot = 3 * keys;
  return m;
}

}  // namespace permllm
