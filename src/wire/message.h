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

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "permllm/error.h"
#include "ring/pack.h"
#include "wire/frame.h"
#include "wire/link.h"
#include "wire/tags.h"

namespace permllm {

// Words of one ring. Empty with a count: what a receiver expects.
template <class W>
struct BlockOf {
  Ring ring;
  std::size_t count = 0;
  std::vector<W> words;
};
using Block = BlockOf<Word>;
template <class W>
BlockOf<W> block(Ring ring, std::vector<W> words) {
  const std::size_t count = words.size();
  return {ring, count, std::move(words)};
}
template <class W = Word>
BlockOf<W> expect(Ring ring, std::size_t count) {
  return {ring, count, {}};
}

// The first message of a connection, but ModelOffer.
inline constexpr std::size_t k_first_payload = std::size_t{64} << 10;
// A message whose size the plan tells to the byte goes in frames of so many bytes, the last with the rest: so no frame of a pass is longer,
// however long a prompt or large a model.
inline constexpr std::size_t k_cut_bytes = std::size_t{2} << 20;

// Counts the bytes that a message has at most, field by field, in what a receiver expects.
class Bound {
 public:
  template <std::unsigned_integral T>
  void number(const char*, const T&) {
    add(sizeof(T));
  }
  void real(const char*, const double&) { add(sizeof(double)); }
  void text(const char*, const std::string&, std::size_t limit) { vary(limit); }
  template <class W>
  void block(const char*, const BlockOf<W>& value) {
    add(value.count * value.ring.bytes());
  }
  void raw(const char*, const Bytes&, std::size_t limit) { vary(limit); }
  template <class T, class Each>
  void list(const char*, std::vector<T>&, std::size_t limit, Each each) {
    Bound one;
    T any{};
    each(one, any);
    vary(limit * one.bytes());
  }
  void add(std::size_t bytes) { bytes_ += bytes; }
  std::size_t bytes() const { return bytes_; }
  // A message of exactly bytes(), in several frames.
  bool is_cut() const { return fixed_ && bytes_ > k_cut_bytes; }

 private:
  void vary(std::size_t limit) {
    add(sizeof(std::uint32_t) + limit);
    fixed_ = false;
  }
  std::size_t bytes_ = 0;
  bool fixed_ = true;
};

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

// Appends fields to a payload, little-endian, fixed widths.
class Writer {
 public:
  template <std::unsigned_integral T>
  void number(const char*, const T& value) {
    append(&value, sizeof value);
  }
  void real(const char*, const double& value) { append(&value, sizeof value); }
  void text(const char*, const std::string& value, std::size_t limit);
  template <class W>
  void block(const char*, const BlockOf<W>& value) {
    PERMLLM_ASSERT(value.words.size() == value.count);
    words(std::span<const W>(value.words), value.ring);
  }
  void words(std::span<const Word> values, Ring ring);
  void words(std::span<const Wide> values, Ring ring);
  void raw(const char*, const Bytes& value, std::size_t limit);
  // A list: its length, then each element's own fields. The writer only reads `values`.
  template <class T, class Each>
  void list(const char* field, std::vector<T>& values, std::size_t limit, Each each) {
    PERMLLM_ASSERT(values.size() <= limit);
    number(field, static_cast<std::uint32_t>(values.size()));
    for (T& value : values) each(*this, value);
  }
  std::size_t size() const { return bytes_.size(); }
  Bytes take() { return std::move(bytes_); }

 private:
  void append(const void* data, std::size_t size);
  Bytes bytes_;
};

// Reads fields in the same order; cannot pass the payload's end. Every Error names `message.field`.
class Reader {
 public:
  Reader(std::string message, std::span<const std::uint8_t> payload) : message_(std::move(message)), rest_(payload) {}

  template <std::unsigned_integral T>
  void number(const char* field, T& value) {
    std::memcpy(&value, need(field, sizeof value), sizeof value);
  }
  void real(const char* field, double& value) { std::memcpy(&value, need(field, sizeof value), sizeof value); }
  void text(const char* field, std::string& value, std::size_t limit);
  template <class W>
  void block(const char* field, BlockOf<W>& value) {
    value.words = words<W>(field, value.count, value.ring);
  }
  template <class W = Word>
  std::vector<W> words(const char* field, std::size_t count, Ring ring) {
    const std::uint8_t* from = need(field, count * ring.bytes());  // before anything is allocated
    std::vector<W> values(count);
    unpack(from, ring, std::span<W>(values));
    return values;
  }
  void raw(const char* field, Bytes& value, std::size_t limit);
  template <class T, class Each>
  void list(const char* field, std::vector<T>& values, std::size_t limit, Each each) {
    std::uint32_t count = 0;
    number(field, count);
    bound(field, count, std::min(limit, rest_.size()));  // an element takes at least a byte
    values.resize(count);
    for (T& value : values) each(*this, value);
  }
  std::size_t left() const { return rest_.size(); }
  // The payload must end here.
  void finish() const;
  [[noreturn]] void refuse(const char* field, const std::string& why) const;

 private:
  const std::uint8_t* need(const char* field, std::size_t size);
  void bound(const char* field, std::size_t value, std::size_t limit) const;
  std::string message_;
  std::span<const std::uint8_t> rest_;
};

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

template <class Io>
void visit_flag(Io& io, const char* field, bool& value) {
  auto number = static_cast<std::uint8_t>(value);
  io.number(field, number);
  if constexpr (std::is_same_v<Io, Reader>) {
    if (number > 1) io.refuse(field, std::to_string(number) + ", expected 0 or 1");
    value = number != 0;
  }
}

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
  // patience: of this wait, where it is longer than the channel's.
  Frame receive_any(const char* awaited, std::size_t most, Clock::duration patience = {});
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
