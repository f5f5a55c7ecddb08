#include "wire/tags.h"

namespace permllm {

// Long as a table is: a line for each tag.
const char* name_of(Tag tag) {
  switch (tag) {
    case Tag::refusal:
      return "Refusal";
    case Tag::probe:
      return "Probe";
    case Tag::probed:
      return "Probed";
    case Tag::ping:
      return "Ping";
    case Tag::pong:
      return "Pong";
    case Tag::ack:
      return "Ack";
    case Tag::resume:
      return "Resume";
    case Tag::leave:
      return "Leave";
    case Tag::hello:
      return "Hello";
    case Tag::card:
      return "Card";
    case Tag::agreement:
      return "Agreement";
    case Tag::accepted:
      return "Accepted";
    case Tag::pair_hello:
      return "PairHello";
    case Tag::pair_accepted:
      return "PairAccepted";
    case Tag::paired:
      return "Paired";
    case Tag::model_offer:
      return "ModelOffer";
    case Tag::model_stored:
      return "ModelStored";
    case Tag::model_held:
      return "ModelHeld";
    case Tag::model_chunk:
      return "ModelChunk";
    case Tag::model_end:
      return "ModelEnd";
    case Tag::model_taken:
      return "ModelTaken";
    case Tag::pack_order:
      return "PackOrder";
    case Tag::pack_material:
      return "PackMaterial";
    case Tag::pack_dealt:
      return "PackDealt";
    case Tag::pack_end:
      return "PackEnd";
    case Tag::pass_begin:
      return "PassBegin";
    case Tag::prompt_one_hots:
      return "PromptOneHots";
    case Tag::remask:
      return "Remask";
    case Tag::token_digits:
      return "TokenDigits";
    case Tag::map_shown:
      return "MapShown";
    case Tag::map_answer:
      return "MapAnswer";
    case Tag::rotated_remask:
      return "RotatedRemask";
    case Tag::masked_query_key:
      return "MaskedQueryKey";
    case Tag::lifted_values:
      return "LiftedValues";
    case Tag::masked_scores:
      return "MaskedScores";
    case Tag::reshared_values:
      return "ResharedValues";
    case Tag::masked_weights:
      return "MaskedWeights";
    case Tag::masked_mix:
      return "MaskedMix";
    case Tag::pass_cancel:
      return "PassCancel";
    case Tag::pass_cancelled:
      return "PassCancelled";
    case Tag::session_end:
      return "SessionEnd";
    case Tag::party_report:
      return "PartyReport";
    case Tag::shown_scores:
      return "ShownScores";
    case Tag::probabilities:
      return "Probabilities";
    case Tag::handed:
      return "Handed";
    case Tag::shown_rows:
      return "ShownRows";
    case Tag::embedding_rows:
      return "EmbeddingRows";
    case Tag::public_vectors:
      return "PublicVectors";
    case Tag::retrieval_key:
      return "RetrievalKey";
    case Tag::retrieval_index:
      return "RetrievalIndex";
    case Tag::retrieval_reply:
      return "RetrievalReply";
    case Tag::masked_pairs:
      return "MaskedPairs";
    case Tag::masked_places:
      return "MaskedPlaces";
  }
  return "unknown message";
}

}  // namespace permllm
