#include "wire/message.h"

#include <fmt/format.h>

#include "base/text.h"

namespace permllm {

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
  }
  return "unknown message";
}

void Writer::append(const void* data, std::size_t size) {
  const auto* from = static_cast<const std::uint8_t*>(data);
  bytes_.insert(bytes_.end(), from, from + size);
}

void Writer::words(std::span<const Word> values, Ring ring) {
  const std::size_t begin = bytes_.size();
  bytes_.resize(begin + values.size() * ring.bytes());
  pack(values, ring, bytes_.data() + begin);
}

void Writer::words(std::span<const Wide> values, Ring ring) {
  const std::size_t begin = bytes_.size();
  bytes_.resize(begin + values.size() * ring.bytes());
  pack(values, ring, bytes_.data() + begin);
}

void Writer::text(const char* field, const std::string& value, std::size_t limit) {
  PERMLLM_ASSERT(value.size() <= limit);
  number(field, static_cast<std::uint32_t>(value.size()));
  append(value.data(), value.size());
}

void Writer::raw(const char* field, const Bytes& value, std::size_t limit) {
  PERMLLM_ASSERT(value.size() <= limit);
  number(field, static_cast<std::uint32_t>(value.size()));
  append(value.data(), value.size());
}

void Reader::refuse(const char* field, const std::string& why) const {
  throw Error(Code::malformed, message_ + "." + field, why);
}

const std::uint8_t* Reader::need(const char* field, std::size_t size) {
  if (size > rest_.size()) {
    refuse(field, fmt::format("{} bytes are left, the plan says {}", rest_.size(), size));
  }
  const std::uint8_t* at = rest_.data();
  rest_ = rest_.subspan(size);
  return at;
}

void Reader::bound(const char* field, std::size_t value, std::size_t limit) const {
  if (value > limit) refuse(field, fmt::format("length {}, the limit is {}", value, limit));
}

void Reader::text(const char* field, std::string& value, std::size_t limit) {
  std::uint32_t size = 0;
  number(field, size);
  bound(field, size, limit);
  const std::uint8_t* from = need(field, size);
  value.assign(reinterpret_cast<const char*>(from), size);
}

void Reader::raw(const char* field, Bytes& value, std::size_t limit) {
  std::uint32_t size = 0;
  number(field, size);
  bound(field, size, limit);
  const std::uint8_t* from = need(field, size);
  value.assign(from, from + size);
}

void Reader::finish() const {
  if (!rest_.empty()) {
    throw Error(Code::malformed, message_, fmt::format("{} bytes more than the plan says", rest_.size()));
  }
}

void check_tag(const Frame& frame, Tag expected) {
  if (frame.tag == static_cast<std::uint16_t>(expected)) return;
  throw Error(Code::malformed, "frame.tag",
              fmt::format("{} ({}), expected {}", frame.tag, name_of(static_cast<Tag>(frame.tag)), name_of(expected)));
}

Error refusal_of(const Frame& frame) {
  Refusal refusal;
  Reader reader(name_of(Tag::refusal), frame.payload);
  refusal.visit(reader);
  const bool code = refusal.code <= static_cast<std::uint16_t>(Code::resource),
             reason = refusal.reason <= static_cast<std::uint16_t>(k_last_reason);
  // An error's words are shown in many places, by programs that use the library too.
  return Error::of_a_peer(code ? static_cast<Code>(refusal.code) : Code::closed,
                          reason ? static_cast<Reason>(refusal.reason) : Reason::none, for_terminal(refusal.field),
                          for_terminal(refusal.text));
}

void Channel::send_payload(Tag tag, Bytes payload) {
  link_->send({static_cast<std::uint16_t>(tag), session_, next_step_++, std::move(payload)});
}

void Channel::send_whole(Tag tag, Bytes payload, const Bound& bound) {
  if (payload.size() > bound.bytes()) {
    throw Error(Code::resource, name_of(tag),
                fmt::format("it would have {} bytes, the limit is {}", payload.size(), bound.bytes()));
  }
  if (!bound.is_cut()) return send_payload(tag, std::move(payload));
  for (std::size_t begin = 0; begin < payload.size(); begin += k_cut_bytes) {
    const auto from = payload.begin() + static_cast<std::ptrdiff_t>(begin);
    send_payload(tag, Bytes(from, from + static_cast<std::ptrdiff_t>(std::min(k_cut_bytes, payload.size() - begin))));
  }
}

Frame Channel::receive_any(const char* awaited, std::size_t most, Clock::duration patience) {
  room_ = nullptr;
  const Clock::time_point begin = Clock::now();
  Frame frame = link_->receive(begin + std::max(patience, patience_), awaited, most);
  room_ = std::move(frame.room);
  waited_seconds_ += seconds_since(begin);
  if (frame.step != next_arrival_)
    throw Error(Code::malformed, "frame.step", fmt::format("{}, expected {}", frame.step, next_arrival_));
  ++next_arrival_;
  if (frame.session != session_) {
    throw Error(Code::malformed, "frame.session", "the frame belongs to another session");
  }
  if (frame.tag == static_cast<std::uint16_t>(Tag::refusal)) throw refusal_of(frame);
  if (may_be_cancelled_ && frame.tag == static_cast<std::uint16_t>(Tag::pass_cancel)) throw Cancelled{};
  return frame;
}

Frame Channel::receive_whole(Tag tag, const Bound& bound) {
  Frame whole = receive_any(name_of(tag), bound.is_cut() ? k_cut_bytes : bound.bytes());
  check_tag(whole, tag);
  for (std::size_t last = whole.payload.size();
       bound.is_cut() && last == k_cut_bytes && whole.payload.size() < bound.bytes();) {
    const Frame next = receive_any(name_of(tag), std::min(k_cut_bytes, bound.bytes() - whole.payload.size()));
    check_tag(next, tag);
    last = next.payload.size();
    whole.payload.insert(whole.payload.end(), next.payload.begin(), next.payload.end());
  }
  return whole;
}

void Channel::refuse(const Error& error) noexcept {
  try {
    // What another party said here is told as such.
    const std::string field = !error.by_peer()        ? error.field()
                              : error.field().empty() ? "peer"
                                                      : "peer: " + error.field();
    send(Refusal{static_cast<std::uint16_t>(error.code()), static_cast<std::uint16_t>(error.reason()),
                 field.substr(0, Refusal::k_field), error.message().substr(0, Refusal::k_text)});
    flush();
  } catch (const std::exception&) {
    // The link is gone already; the peer will see that.
  }
}

}  // namespace permllm
