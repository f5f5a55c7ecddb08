// A session that outlives its connections (docs/wire.md 2.1). Frames are kept as bytes until the peer is known to have them, and
// after a cut those that it lacks are sent again over the next connection: the same bytes, never made anew, because a mask
// protects one message.
//
//   Ack, Resume, Leave    frames of the link's own, a header alone: session, and in `step` the next step that their sender expects
//   each side             sends Ack at the latest after k_ack_frames frames or k_ack_bytes bytes; keeps what is not acknowledged
//   after a cut           dialler: Resume;  the other: Ack;  then each sends again from the step that the other expects
//   an orderly end        Leave: nobody waits for the one who left
//
// Memory: what one side keeps is at most ResumeLimits::kept_bytes and one frame more, beside what has room, and so is what has come while it waited for an
// acknowledgement, or was heard on a connection that is lost; none of these frames is longer than k_cut_bytes (wire/message.h). In a conversation it is less than
// k_ack_bytes and what goes one way before a reply. The largest of that is a prompt's one-hots, 2 bytes x vocabulary for each token,
// kept until the provider's next message: for SmolLM2 98 kB a token, 3.9 MB for the 40 tokens of README's question; for Gemma 3 0.52 MB.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "net/certificates.h"
#include "net/room.h"
#include "wire/link.h"
#include "wire/tags.h"

namespace permllm {

inline constexpr std::size_t k_ack_frames = 64, k_ack_bytes = std::size_t{256} << 10;  // headers count

struct ResumeLimits {
  Clock::duration
      grace{};  // how long a session waits for its next connection; 0: it ends with its first, and nothing is kept
  std::size_t kept_bytes = std::size_t{16} << 20;  // beyond it send waits for an acknowledgement; at least k_ack_bytes
  Clock::duration patience = std::chrono::seconds(120);  // of that wait
  std::shared_ptr<Room> room = {};  // null, or where frames beyond kept_bytes are kept, too, as far as they find room
};
inline constexpr auto k_default_grace = std::chrono::seconds(60);

// A link over one connection after the other. Until begin() it is its first connection; from then on a connection that is lost
// (Code::closed) is no error before the time of grace has passed. Errors beside those of a link: closed, or timeout where the
// deadline came first, naming for how long there was no connection; malformed for a peer that acknowledges or expects what was
// never sent or what it had acknowledged; mismatch where the peer's certificate is not accepted any more; the peer's refusal. All are
// final, and the first one stays. One thread uses it; close() is for any.
class ResumableLink : public Link {
 public:
  using Dial = std::function<std::unique_ptr<Link>()>;
  // dial: makes the next connection; null on the accepting side, whose connections come from ResumableSessions.
  ResumableLink(std::unique_ptr<Link> connection, ResumeLimits limits, Dial dial = nullptr);
  ~ResumableLink() override;  // leaves

  // Both sides agree on the session: the accepting side calls this before it sends what tells the other, the other when it has that.
  // outlasts: as if outlast() was called, too.
  void begin(std::uint64_t session, bool outlasts = true);
  // From now on the session outlasts its connection. The peer has all that was sent so far.
  void outlast();
  // Another thread ends the session: its owner gets this Error from whatever it does next, or waits for.
  void end(const Error& why);
  // Since when the owner waits for a frame; none: it does not.
  std::optional<Clock::time_point> waits_since() const;

  void send(Frame frame) override;
  void flush() override;  // what has no connection goes over the next
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override;
  void close() override;

  // Waits until a frame has come, which is left for receive; what a cut has lost is sent again meanwhile. Errors: those of receive.
  void await_frame(Clock::time_point deadline, const char* awaited, std::size_t most);
  // Takes what has come, and leaves it for receive; where the connection is lost, tries once to make the next. Waits for nothing else. Errors: those of
  // receive, the peer's refusal among them.
  void look();
  // Waits until the peer has all that was sent, or is gone for good.
  void settle() noexcept;
  // The orderly end of this side; whatever it has not received it does not want. The owner's thread.
  void leave() noexcept;

  std::size_t kept_bytes() const;

 private:
  friend class ResumableSessions;
  bool keeps() const { return outlasts_ && limits_.grace > Clock::duration::zero(); }
  // The owner's thread:
  template <class Operation>
  bool attempt(Operation operation);
  void hear_out();
  std::shared_ptr<void> await_room(std::size_t size);
  void step_on(Clock::time_point deadline, const char* awaited, std::size_t most);
  void absorb(Frame frame);
  bool adopt();
  void resend();
  void await_connection(Clock::time_point deadline);
  void redial(Clock::time_point deadline);
  bool dial_once(Clock::time_point end);
  void check_refusal();
  void check() const REQUIRES(mutex_);
  void confirm(const Frame& frame) REQUIRES(mutex_);
  [[noreturn]] void fail(const Error& error) REQUIRES(mutex_);
  [[noreturn]] void give_up() REQUIRES(mutex_);
  Frame own(Tag tag) const { return {static_cast<std::uint16_t>(tag), session_, next_expected_, {}}; }
  // Another thread hands over the connection on which the peer sent `resume`. Errors: closed, when the session is over; malformed.
  void take_over(std::unique_ptr<Link>& connection, const Frame& resume);

  const ResumeLimits limits_;
  const Dial dial_;
  bool begun_ = false, outlasts_ = false;
  std::uint64_t session_ = 0;
  std::deque<Frame> arrived_;  // and not yet received
  std::size_t arrived_bytes_ = 0, unflushed_bytes_ = 0;
  std::size_t unacknowledged_frames_ = 0, unacknowledged_bytes_ = 0;  // of the peer's
  bool hears_out_ = false;
  Clock::duration pause_{};        // between attempts; grows until a frame arrives
  Clock::time_point next_dial_{};  // not before

  mutable Mutex mutex_;
  std::condition_variable changed_;
  // Changed by the owner's thread alone, with the lock; so it reads them without, and others with it.
  std::unique_ptr<Link> connection_;  // null: lost
  Clock::time_point lost_since_{};
  std::uint32_t next_expected_ = 0;
  std::unique_ptr<Link> pending_ GUARDED_BY(mutex_);  // taken over from connection_, whose frames do not count any more
  std::optional<Clock::time_point> waits_since_ GUARDED_BY(mutex_);
  std::deque<Frame> kept_ GUARDED_BY(mutex_);      // the last of next_send_, in order
  std::size_t kept_bytes_ GUARDED_BY(mutex_) = 0;  // of those that took no room
  std::uint32_t next_send_ GUARDED_BY(mutex_) = 0;
  bool closed_ GUARDED_BY(mutex_) = false;
  std::exception_ptr failure_ GUARDED_BY(mutex_);
};

// The sessions that an accepting side has under way, by number. A session is resumed by the peer who began it alone, known by its
// key. Thread-safe.
class ResumableSessions {
 public:
  // For as long as it lives, the session can be resumed.
  class Kept {
   public:
    Kept(ResumableSessions& sessions, std::uint64_t session) : sessions_(sessions), session_(session) {}
    ~Kept();
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;

   private:
    ResumableSessions& sessions_;
    std::uint64_t session_;
  };
  // Begins the session on its link; outlasts: as there.
  [[nodiscard]] Kept keep(std::shared_ptr<ResumableLink> link, std::uint64_t session, const Peer& peer,
                          bool outlasts = true);
  // A session that is ended: whoever asks to resume it is told why, for as long as not many others were ended.
  void remember_end(std::uint64_t session, const std::string& key, const Error& why);

  // Waits for the first frame of a new connection. Where that asks to resume a session, the session goes on over this connection
  // and `link` has none left: true. Errors: closed, when there is no such session or it is another peer's; why it was ended; those of receive.
  bool resumed(ResumableLink& link, const Peer& peer, Clock::time_point deadline);

 private:
  struct Entry {
    std::shared_ptr<ResumableLink> link;
    std::string key;  // of the peer
  };
  struct Ended {
    std::uint64_t session;
    std::string key;
    Error why;
  };
  static constexpr std::size_t k_ends_remembered = 256;
  Mutex mutex_;
  std::map<std::uint64_t, Entry> sessions_ GUARDED_BY(mutex_);
  std::deque<Ended> ended_ GUARDED_BY(mutex_);
};

}  // namespace permllm
