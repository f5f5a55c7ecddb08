#include "session/registration.h"

#include "rand/domains.h"

namespace permllm {
Digest chunk_hash(std::span<const std::uint8_t> bytes) { return hash(domain::chunk, bytes); }

Digest model_digest(const ModelOffer& offer, std::span<const Digest> hashes) {
  Writer bound;
  bound.text("model_id", offer.model_id, 64);
  bound.text("plan_hash", offer.plan.hash(), 64);
  bound.number("bytes", offer.bytes);
  bound.number("chunk", offer.chunk);
  Bytes all = bound.take();
  for (const Digest& digest : hashes) all.insert(all.end(), digest.begin(), digest.end());
  return hash(domain::stored_model, all);
}

}  // namespace permllm
