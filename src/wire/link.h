// A link to one peer: frames in order, in both directions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace permllm {

using Bytes = std::vector<std::uint8_t>;

// One message on the wire (docs/wire.md): a header of k_frame_header_bytes, then the payload.
struct Frame {
  std::uint16_t tag = 0;  // which message (wire/tags.h)
  std::uint64_t session = 0;
  std::uint32_t step = 0;  // counts the frames of one direction of one link from 0, over all its connections
  Bytes payload;
  std::shared_ptr<void> room = {};  // that the receiver has taken for it (net/room.h); not sent
};

// Blocking. One thread uses a link at a time. Errors: closed (the peer went away), timeout (names what was awaited),
// malformed (bad magic; a payload longer than may come, which is refused before any of it is taken), mismatch (another wire version; names both).
class Link {
 public:
  virtual ~Link() = default;
  // Queues a frame; it is on its way at the latest when the owner starts to wait in receive, or at flush.
  virtual void send(Frame frame) = 0;
  virtual void flush() = 0;
  // Waits for the next frame until `deadline`; `awaited` names it in the error. most: bytes of payload that it may have; k_least_payload
  // (wire/frame.h) may always come, because a Refusal may.
  virtual Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) = 0;
  // Closes the connection; the peer's next receive fails with closed. Idempotent; may be called from another thread.
  virtual void close() = 0;
  // Whether a frame, or the end of the connection, can be received without waiting for its first byte. Not every link can tell: false.
  virtual bool has_come() { return false; }
};

// Hands everything on to another link: for those that count, delay or refuse some of it on the way.
class PassingLink : public Link {
 public:
  explicit PassingLink(std::shared_ptr<Link> link) : link_(std::move(link)) {}
  void send(Frame frame) override { link_->send(std::move(frame)); }
  void flush() override { link_->flush(); }
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
    return link_->receive(deadline, awaited, most);
  }
  bool has_come() override { return link_->has_come(); }
  void close() override { link_->close(); }

 private:
  std::shared_ptr<Link> link_;
};

}  // namespace permllm
