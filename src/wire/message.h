// Typed messages: a struct lists its fields once, in visit(), for writing and for reading.
//
//   struct MaskedScores {                                  // step 2, user -> provider
//     static constexpr Tag tag = Tag::masked_scores;
//     Block values;
//     template <class Io> void visit(Io& io) { io.block("values", values); }
//   };
//
// A receiver first states what it expects (the ring and count of each block, from the plan, never from the peer); a
// payload that differs by one byte is an Error{malformed} naming message and field.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "permllm/error.h"
#include "wire/frame.h"
#include "wire/link.h"
#include "wire/payload.h"
#include "wire/tags.h"

namespace permllm {

// The first message of a connection, but ModelOffer.
inline constexpr std::size_t k_first_payload = std::size_t{64} << 10;

// Of a message as it is expected. One whose fields have sizes that other fields tell states k_most by itself.
template <class Message>
Bound bound_of(Message& message) {
  Bound bound;
  if constexpr (requires { Message::k_most; }) {
    Bytes any;
    bound.raw("payload", any, Message::k_most);
  } else {
    message.visit(bound);
  }
  return bound;
}

// Errors: malformed, when the frame is of another message.
void check_tag(const Frame& frame, Tag expected);
// Reads a frame into `message`, whose blocks state what is expected. Errors: malformed.
template <class Message>
Message message_of(const Frame& frame, Message message = {}) {
  check_tag(frame, Message::tag);
  Reader reader(name_of(Message::tag), frame.payload);
  message.visit(reader);
  reader.finish();
  return message;
}

// The user gave up the pass that is under way (its next message says so); caught by the provider's session.
struct Cancelled {};

// Messages over a link, with a deadline on every wait. One thread uses a channel.
class Channel {
 public:
  Channel(Link& link, std::uint64_t session, Clock::duration patience)
      : link_(&link), session_(session), patience_(patience) {}

  template <class Message>
  void send(Message message) {
    Writer writer;
    message.visit(writer);
    send_whole(Message::tag, writer.take(), bound_of(message));
  }
  // Reads into `message`, whose blocks state what is expected. A peer's `Refusal` arrives as the Error it names.
  template <class Message>
  Message receive(Message message = {}) {
    const Bound bound = bound_of(message);
    return message_of(receive_whole(Message::tag, bound), std::move(message));
  }
  // Whatever comes next, for the places where the peer chooses: one frame. most: bytes of payload of the longest that may come there.
  // patience: of this wait, in place of the channel's.
  Frame receive_any(const char* awaited, std::size_t most, std::optional<Clock::duration> patience = {});
  void send_payload(Tag tag, Bytes payload);  // in one frame
  void flush() { link_->flush(); }
  // From the handshake on, frames carry the session's number.
  void set_session(std::uint64_t session) { session_ = session; }
  std::uint64_t session() const { return session_; }
  // Tells the peer why the session ends; never fails.
  void refuse(const Error& error) noexcept;
  Link& link() { return *link_; }
  // The provider's online channel: PassCancel arrives as Cancelled. Elsewhere it is a message like any other.
  void allow_cancel() { may_be_cancelled_ = true; }
  // Time spent waiting for the peer.
  double waited_seconds() const { return waited_seconds_; }

 private:
  void send_whole(Tag tag, Bytes payload, const Bound& bound);
  Frame receive_whole(Tag tag, const Bound& bound);

  Link* link_;
  std::shared_ptr<void> room_;  // of the last frame: its words may be in use until the next one is awaited
  std::uint64_t session_;
  Clock::duration patience_;
  std::uint32_t next_step_ = 0, next_arrival_ = 0;  // steps of the frames to send and to receive
  double waited_seconds_ = 0;
  bool may_be_cancelled_ = false;
};

// The user gives up the pass under way; the provider answers PassCancelled, after whatever it had sent before.
struct PassCancel {
  static constexpr Tag tag = Tag::pass_cancel;
  template <class Io>
  void visit(Io&) {}
};
struct PassCancelled {
  static constexpr Tag tag = Tag::pass_cancelled;
  template <class Io>
  void visit(Io&) {}
};

// Ends a session: why, without any secret. Its longest is within k_least_payload.
struct Refusal {
  static constexpr Tag tag = Tag::refusal;
  static constexpr std::size_t k_field = 100, k_text = 900;
  std::uint16_t code = 0, reason = 0;
  std::string field, text;
  template <class Io>
  void visit(Io& io) {
    io.number("code", code);
    io.number("reason", reason);
    io.text("field", field, k_field);
    io.text("text", text, k_text);
  }
};
// The Error that a frame of this tag names, by_peer(). A code that is not known is closed, a reason none. Errors: malformed.
Error refusal_of(const Frame& frame);

}  // namespace permllm
