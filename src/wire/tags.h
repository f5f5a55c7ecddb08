// Every message of the wire, by number. A number is never given to another message.
#pragma once

#include <cstdint>

namespace permllm {

enum class Tag : std::uint16_t {
  // any party
  refusal = 1,
  // looking at a link (docs/wire.md 3.1)
  probe = 2,
  probed = 3,
  ping = 4,
  pong = 5,
  // a resumable link's own, of a header alone (docs/wire.md 2.1)
  ack = 6,
  resume = 7,
  leave = 8,
  // handshakes (docs/wire.md 3)
  hello = 10,
  card = 11,
  agreement = 12,
  accepted = 13,
  pair_hello = 14,
  pair_accepted = 15,
  paired = 16,
  forwarded = 17,  // among the helpers of a pool
  // model at the helper
  model_offer = 20,
  model_stored = 22,
  model_held = 23,
  model_chunk = 24,
  model_end = 25,
  model_taken = 26,  // 21: until version 2
  // offline material
  pack_order = 30,
  pack_material = 31,
  pack_dealt = 32,
  pack_end = 33,
  // the check of products (docs/protocol.md 4.14)
  product_key_order = 34,
  product_key_words = 35,
  // online
  pass_begin = 40,
  prompt_one_hots = 41,
  remask = 42,
  token_digits = 43,
  map_shown = 44,
  map_answer = 45,
  rotated_remask = 46,
  masked_query_key = 47,
  lifted_values = 48,
  masked_scores = 49,
  reshared_values = 50,
  masked_weights = 51,
  masked_mix = 52,
  pass_cancel = 53,
  pass_cancelled = 54,
  session_end = 55,
  party_report = 56,
  shown_scores = 57,
  probabilities = 58,
  handed = 59,
  shown_rows = 60,
  embedding_rows = 61,
  public_vectors = 62,
  retrieval_key = 63,
  retrieval_index = 64,
  retrieval_reply = 65,
  masked_pairs = 66,
  masked_places = 67,
};

const char* name_of(Tag tag);
// Whose frames are not counted: their step is a statement about the others.
constexpr bool is_of_link(std::uint16_t tag) {
  return tag >= static_cast<std::uint16_t>(Tag::ack) && tag <= static_cast<std::uint16_t>(Tag::leave);
}

}  // namespace permllm
