// What a service tells of its work as it happens, for logs and counters: numbers, times and error codes, never content.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "permllm/error.h"
#include "wire/link.h"

namespace permllm {

struct Event {
  enum class Kind {
    note,               // of no session: a model was stored, a registration goes on
    connection_failed,  // `error`; session: that the connection had joined, 0 where there was none
    session_begins,
    session_ends,  // `seconds` that it took; `error`: why, where it did not end in peace
    pass,          // `seconds` that a pass took, with the user's part and the network
    material,      // `bytes` of offline material that came from `from`
  };
  Event(Kind what, std::string words, std::uint64_t number) : kind(what), text(std::move(words)), session(number) {}
  // A note.
  Event(std::string words) : text(std::move(words)) {}  // NOLINT(google-explicit-constructor)
  Event(const char* words) : text(words) {}             // NOLINT(google-explicit-constructor)
  // For receivers that take the words alone.
  operator const std::string&() const { return text; }  // NOLINT(google-explicit-constructor)

  Kind kind = Kind::note;
  std::string text;           // in a few words
  std::uint64_t session = 0;  // the wire's number, by which a user joins it: logs show a part
  double seconds = 0;
  std::uint64_t bytes = 0;
  std::uint64_t rows = 0,
                tokens = 0;  // of a pass: tokens that went through the model, and logits that the user was given
  Role from = Role::user;
  std::optional<Code> error = {};
  Reason reason = Reason::none;  // of the error
  std::string peer;              // whose connection or session it is, by its key: not for logs
  bool worked = false;           // session_ends: a pass was made or material dealt
};
// Called from many threads.
using OnEvent = std::function<void(const Event&)>;

inline Event pass_event(std::uint64_t session, double seconds, std::uint64_t rows, std::uint64_t tokens) {
  Event event(Event::Kind::pass, "pass", session);
  event.seconds = seconds;
  event.rows = rows;
  event.tokens = tokens;
  return event;
}
inline Event material_event(std::uint64_t session, Role from, std::uint64_t bytes) {
  Event event(Event::Kind::material, "offline material", session);
  event.from = from;
  event.bytes = bytes;
  return event;
}

// The events of a connection that may become a session.
class SessionEvents {
 public:
  SessionEvents(const OnEvent& on_event, std::string peer) : on_event_(on_event), peer_(std::move(peer)) {}
  // The connection turned out to be the next one of a session that goes on.
  void resumed() { tell(Event("a session is resumed")); }
  void begin(std::uint64_t session) {
    session_ = session;
    begin_ = Clock::now();
    tell(Event(Event::Kind::session_begins, "session begins", session));
  }
  // The session made a pass.
  void pass(double seconds, std::uint64_t rows, std::uint64_t tokens) {
    worked_ = true;
    on_event_(pass_event(session_, seconds, rows, tokens));
  }
  // Material was dealt for it.
  void dealt() { worked_ = true; }
  // In peace: what fails behind it, its last words under way, is of its connection alone.
  void end() {
    if (session_ == 0) return;
    tell_end(Event(Event::Kind::session_ends, "session ends", session_));
    session_ = 0;
  }
  // The connection fails, and with it the session if one has begun. joined: the session that the connection belongs to, or 0.
  void fail(const Error& error, std::uint64_t joined) {
    const std::string words = error.what();
    Event event = session_ != 0 ? Event(Event::Kind::session_ends, "session fails: " + words, session_)
                                : Event(Event::Kind::connection_failed, "connection ends: " + words, joined);
    event.error = error.code();
    event.reason = error.reason();
    session_ != 0 ? tell_end(std::move(event)) : tell(std::move(event));
  }

 private:
  void tell(Event event) {
    event.peer = peer_;
    on_event_(event);
  }
  void tell_end(Event event) {
    event.seconds = seconds_since(begin_);
    event.worked = worked_;
    tell(std::move(event));
  }
  const OnEvent& on_event_;
  const std::string peer_;
  bool worked_ = false;
  std::uint64_t session_ = 0;  // 0: none has begun
  Clock::time_point begin_;
};

}  // namespace permllm
